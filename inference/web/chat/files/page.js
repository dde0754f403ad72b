// The page: which conversation is open, and what runs.

let about = null;

const modelOf = (name) => about.models.find((model) => model.name === name) || { name, label: name.split("/").pop(), kind: "not served now" };
const isServed = (name) => about.models.some((model) => model.name === name);

const SILENCE_MS = 15000;

// Gradio's id of the process that serves the page; null while there is none.
async function readServerId() {
  return fetch("/gradio_api/app_id").then((answer) => answer.json()).then((found) => String(found.app_id)).catch(() => null);
}

class Page {
  constructor() {
    this.conversation = newConversation();
    this.views = [];
    this.picked = [];
    this.run = null;
    this.stopped = new Set();
  }

  async start() {
    await this.learn();
    this.serverId = await readServerId();
    this.picked = this.firstPick();
    byId("fj-sign-out").hidden = !about.has_sign_in;
    setUpComposer(this);
    setUpHistory(this);
    showModels(this);
    byId("fj-turns").addEventListener("click", (event) => {
      const button = event.target.closest(".copy-code");
      if (button) copyText(button.closest(".code").querySelector("code").textContent, button);
    });
    await this.open(loadConversation(currentId()) || newConversation());
    watch("value", () => this.apply(props.value));
    setInterval(() => this.checkSilence(), 1000);
    document.addEventListener("visibilitychange", () => this.learnAgain());
    byId("fj-app").dataset.ready = "yes";
    if (window.matchMedia("(pointer: fine)").matches) byId("fj-message").focus();
    this.resume();
  }

  // Ask which models there are. While they are replaced there are none.
  async learn() {
    for (;;) {
      about = await server.describe(null).catch(() => about);
      if (about && about.models.length) break;
      byId("fj-facts").textContent = "The model is starting";
      await new Promise((done) => setTimeout(done, 1000));
    }
    const labels = (kind) => about.models.filter((model) => model.kind === kind).map((model) => model.label).join(", ");
    byId("fj-facts").textContent = [[labels("fine-tuned"), labels("base")].filter(Boolean).join(" on "), about.release && `release ${about.release}`]
      .filter(Boolean).join(" · ");
  }

  // Adapters come and go while the page is open.
  async learnAgain() {
    const names = () => about.models.map((model) => model.name).join();
    const before = names();
    if (document.hidden || this.run) return;
    await this.learn();
    if (names() === before || this.run) return;
    const kept = this.picked.filter(isServed);
    this.picked = kept.length ? kept : about.opens_with;
    showModels(this);
    this.composer.grow();
    this.rebuild();
  }

  firstPick() {
    try {
      const kept = JSON.parse(localStorage.getItem("fjarr.models")).filter(isServed).slice(0, about.max_compared);
      if (kept.length) return kept;
    } catch { /* nothing was kept */ }
    return about.opens_with;
  }

  async open(conversation) {
    if (this.run) this.stop();
    this.conversation = conversation;
    const answers = conversation.turns.flatMap((turn) => Object.values(turn.answers)).filter((answer) => !answer.blocks);
    if (answers.length) {
      const rendered = await server.render(answers.map((answer) => answer.text));
      answers.forEach((answer, index) => { answer.blocks = rendered[index]; });
    }
    if (conversation !== this.conversation) return;
    if (conversation.turns.length) setCurrent(conversation.id);
    this.rebuild();
    this.scroll(true);
  }

  rebuild() {
    this.views = this.conversation.turns.map((turn) => new TurnView(this, turn));
    byId("fj-turns").replaceChildren(...this.views.map((view) => view.node));
    this.refresh();
  }

  refresh() {
    for (const view of this.views) view.update();
    const isRunning = Boolean(this.run);
    byId("fj-stop").hidden = !isRunning;
    byId("fj-send").hidden = isRunning;
    this.showWelcome();
    showHistory(this);
  }

  showWelcome() {
    const welcome = byId("fj-welcome");
    welcome.hidden = this.conversation.turns.length > 0;
    if (welcome.hidden) return;
    const labels = this.picked.map((name) => modelOf(name).label);
    const kinds = new Set(this.picked.map((name) => modelOf(name).kind));
    const title = kinds.size > 1 ? "See what fine-tuning changed" : labels.length > 1 ? "Compare the models" : "Ask the model";
    const text = labels.length > 1
      ? `Ask once: ${new Intl.ListFormat("en").format(labels)} answer side by side, with the same settings and the same seed.`
      : labels.length ? `${labels[0]} answers. Nothing leaves this server.` : "Choose a model below.";
    welcome.replaceChildren(make("h2", {}, title), make("p", {}, text),
      about.examples.length ? make("ul", { class: "fj-examples", "aria-label": "Examples" }, about.examples.map((example) => make("li", {},
        make("button", { type: "button", onclick: () => { if (!this.run && this.picked.length) this.send(example.message); } },
          example.title && make("strong", { dir: "auto" }, example.title), make("span", { dir: "auto" }, example.message))))) : "");
  }

  send(text) {
    const turn = { id: newId(), user: text, models: [...this.picked], answers: {} };
    this.conversation.turns.push(turn);
    this.ask(turn, turn.models.map((model) => ({ model })));
  }

  askAgain(view, text) {
    const index = this.conversation.turns.indexOf(view.turn);
    this.conversation.turns.length = index;
    const models = view.turn.models.filter(isServed);
    const turn = { id: newId(), user: text, models: models.length ? models : [...this.picked], answers: {} };
    this.conversation.turns.push(turn);
    this.ask(turn, turn.models.map((model) => ({ model })));
    byId("fj-message").focus();
  }

  regenerate(view, model = null) {
    this.ask(view.turn, (model ? [model] : view.turn.models.filter(isServed)).map((name) => ({ model: name })));
  }

  continueAnswer(view, model) {
    const { text, token_ids: ids } = view.turn.answers[model];
    this.ask(view.turn, [{ model, continues: { text, token_ids: ids || [] } }]);
  }

  undo() {
    const turn = this.conversation.turns.pop();
    if (this.conversation.turns.length) saveConversation(this.conversation); else deleteConversation(this.conversation.id);
    this.rebuild();
    this.composer.put(turn.user);
  }

  ask(turn, targets, isResumed = false) {
    if (this.run || !targets.length) return;
    this.run = { id: newId(), turn, models: targets.map((target) => target.model), heard: Date.now(), reports: 0 };
    for (const { model, continues } of targets) {
      const before = turn.answers[model];
      turn.answers[model] = {
        id: newId(), state: "waiting", text: continues ? continues.text : "", blocks: continues ? before.blocks : [], reasoning: "",
        completion_tokens: 0, finish: null, error: null, token_ids: continues ? continues.token_ids : [], asked: Date.now(),
      };
    }
    this.rebuild();
    this.scroll(true);
    announce(`Asked ${new Intl.ListFormat("en").format(this.run.models.map((name) => modelOf(name).label))}`);
    saveConversation(this.conversation);
    const index = this.conversation.turns.indexOf(turn);
    trigger("ask", { question: { run: this.run.id, turns: wireTurns(this.conversation, index), targets } });
    if (!isResumed) this.checkServer(turn, targets, this.run);
  }

  // After a restart or a deployment, load the page anew and ask there: the stream of this one has ended.
  async checkServer(turn, targets, run) {
    const now = await readServerId();
    if (this.run !== run || run.reports) return;
    if (!now) this.end("error", "The server does not answer. It may be restarting: try again in a moment.");
    else if (now !== this.serverId) {
      sessionStorage.setItem("fjarr.resume", JSON.stringify({ turn: turn.id, targets }));
      this.run = null;
      location.reload();
    }
  }

  resume() {
    const kept = JSON.parse(sessionStorage.getItem("fjarr.resume") || "null");
    sessionStorage.removeItem("fjarr.resume");
    const turn = this.conversation.turns.at(-1);
    if (!kept || !turn || turn.id !== kept.turn) return;
    this.ask(turn, kept.targets.filter((target) => isServed(target.model)), true);
  }

  apply(report) {
    if (!report) return;
    if (this.stopped.has(report.run) && !report.is_over) {
      // It was stopped before the server knew it.
      trigger("stop");
      return;
    }
    if (!this.run || report.run !== this.run.id) return;
    this.run.heard = Date.now();
    this.run.reports += 1;
    const { turn } = this.run;
    for (const [model, answer] of Object.entries(report.answers)) {
      Object.assign(turn.answers[model], answer, { settings: report.settings });
    }
    if (report.is_over) this.finish();
    else this.viewOf(turn)?.update();
    this.scroll(false);
    this.keep();
  }

  viewOf(turn) {
    return this.views.find((view) => view.turn === turn);
  }

  // Save while answers come, but not with every report.
  keep() {
    if (this.keeping) return;
    this.keeping = setTimeout(() => { this.keeping = null; saveConversation(this.conversation); }, 1000);
  }

  stop() {
    if (!this.run) return;
    if (!this.run.reports) this.stopped.add(this.run.id);
    trigger("stop");
    this.end("abort");
    announce("Stopped");
  }

  end(finish, error = null) {
    for (const model of this.run.models) {
      const answer = this.run.turn.answers[model];
      if (answer.state !== "done") Object.assign(answer, { state: "done", finish, error, place: null });
    }
    this.finish();
  }

  finish() {
    const { turn } = this.run;
    this.run = null;
    saveConversation(this.conversation);
    this.refresh();
    announce(turn.models.map((model) => `${modelOf(model).label}: ${endOf(turn.answers[model]).toLowerCase()}`).join(". "));
  }

  checkSilence() {
    if (this.run && Date.now() - this.run.heard > SILENCE_MS) {
      this.end("error", "The server no longer answers. It may be restarting: try again in a moment.");
    }
  }

  scroll(isForced) {
    const log = byId("fj-log");
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 120;
    if (isForced || isAtEnd) requestAnimationFrame(() => { log.scrollTop = log.scrollHeight; });
  }
}

new Page().start();
