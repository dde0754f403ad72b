// The page: which conversation is open, and what runs.

let about = null;

const modelOf = (name) => about.models.find((model) => model.name === name) || { name, label: name.split("/").pop(), kind: "not served now" };
const isServed = (name) => about.models.some((model) => model.name === name);

const SILENCE_MS = 15000;
const RESUME = "fjarr.resume";

class Page {
  constructor() {
    this.conversation = newConversation();
    this.views = [];
    this.picked = [];
    this.run = null;
    this.stopped = new Set();
  }

  async start() {
    this.log = new Log();
    await this.learn();
    this.serverId = (await findServer()).id;
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
    window.addEventListener("storage", (event) => this.adopt(event.key));
    window.addEventListener("pagehide", () => { if (this.run) saveConversation(this.conversation); });
    byId("fj-app").dataset.ready = "yes";
    if (window.matchMedia("(pointer: fine)").matches) byId("fj-message").focus();
    this.resume();
  }

  // Ask which models there are. While they are replaced there are none.
  async learn() {
    for (;;) {
      const found = await call("describe");
      if (!found.error) about = found;
      if (about && about.models.length) break;
      byId("fj-facts").textContent = found.error || "The model is starting";
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
    this.stop();
    this.conversation = conversation;
    await this.render(answersOf(conversation));
    if (conversation !== this.conversation) return;
    if (conversation.turns.length) setCurrent(conversation.id);
    this.rebuild();
    this.log.scrollToEnd();
  }

  async render(answers) {
    const missing = answers.filter((answer) => !answer.blocks);
    if (!missing.length) return;
    const rendered = await call("render", missing.map((answer) => answer.text));
    // What cannot be rendered now is shown as it was written.
    missing.forEach((answer, index) => { answer.blocks = rendered.error ? [plainBlock(answer.text)] : rendered[index]; });
  }

  // Another page of this browser has gone on with this conversation.
  async adopt(key) {
    showHistory(this);
    const found = readConversation(this.conversation.id);
    if (key !== keyOf(this.conversation) || this.run || !found || found.stamp === this.conversation.stamp) return;
    if (isComing(found) || this.views.some((view) => view.isEdited)) return;
    await this.open(found);
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
    showWelcome(this);
    showHistory(this);
  }

  send(text) {
    const turn = { id: newId(), user: text, models: [...this.picked], answers: {} };
    this.conversation.turns.push(turn);
    this.ask(turn, turn.models.map((model) => ({ model })));
  }

  askAgain(view, text) {
    const index = this.conversation.turns.indexOf(view.turn);
    // What followed the edited message stays, in a conversation of its own.
    if (!view.isLast()) this.conversation = branchOf(this.conversation);
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

  async showVersion(view, model, answer) {
    setAnswer(view.turn, model, answer);
    saveConversation(this.conversation);
    await this.render([answer]);
    this.rebuild();
    const versions = versionsOf(view.turn, model);
    announce(`Answer ${versions.indexOf(answer) + 1} of ${versions.length}`);
  }

  continueAnswer(view, model) {
    this.ask(view.turn, [continuationOf(view.turn, model)]);
  }

  undo() {
    const turn = this.conversation.turns.pop();
    if (this.conversation.turns.length) saveConversation(this.conversation); else deleteConversation(this.conversation.id);
    this.rebuild();
    this.composer.put(turn.user);
  }

  ask(turn, targets, isResumed = false) {
    if (this.run || !targets.length) return;
    this.run = { id: newId(), turn, targets, models: targets.map((target) => target.model), heard: Date.now(), reports: 0 };
    for (const { model, continues } of targets) setAnswer(turn, model, waitingAnswer(continues, turn.answers[model]));
    saveConversation(this.conversation);
    this.rebuild();
    this.log.scrollToEnd();
    announce(`Asked ${new Intl.ListFormat("en").format(this.run.models.map((name) => modelOf(name).label))}`);
    const index = this.conversation.turns.indexOf(turn);
    trigger("ask", { question: { run: this.run.id, turns: wireTurns(this.conversation, index), targets } });
    if (!isResumed) this.checkServer(this.run);
  }

  // After a restart or a deployment, load the page anew and ask there: the stream of this one has ended.
  async checkServer(run) {
    const { id, status } = await findServer();
    if (this.run !== run || run.reports) return;
    if (!id) this.end("error", troubleOf(status));
    else if (id !== this.serverId) {
      this.run = null;
      this.reload(run.turn, run.targets);
    }
  }

  // Load the page anew, if need be through the sign-in, and ask there.
  reload(turn, targets) {
    try { sessionStorage.setItem(RESUME, JSON.stringify({ turn: turn.id, targets })); } catch { /* the user asks again */ }
    location.reload();
  }

  resume() {
    const kept = JSON.parse(sessionStorage.getItem(RESUME) || "null");
    sessionStorage.removeItem(RESUME);
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
    else {
      this.views.find((view) => view.turn === turn)?.update();
      this.keep();
    }
    this.log.follow();
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
    clearTimeout(this.keeping);
    this.keeping = null;
    saveConversation(this.conversation);
    this.refresh();
    announce(turn.models.map((model) => `${modelOf(model).label}: ${endOf(turn.answers[model]).toLowerCase()}`).join(". "));
  }

  async checkSilence() {
    const { run } = this;
    if (!run || Date.now() - run.heard <= SILENCE_MS) return;
    const { id, status } = await findServer();
    if (this.run === run) this.end("error", id ? TROUBLE.cut : troubleOf(status));
  }
}

new Page().start();
