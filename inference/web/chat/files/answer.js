// One answer: its text as it grows, its figures, and what can be done with it.

const ENDS = {
  stop: "Complete", length: "Cut off at its limit", abort: "Stopped", error: "Failed", interrupted: "Interrupted",
};

function endOf(answer) {
  return ENDS[answer.finish] || answer.finish || "";
}

function figuresOf(answer) {
  const figures = [counted(answer.completion_tokens || 0, "token")];
  if (answer.first_token_s !== null && answer.first_token_s !== undefined) figures.push(`first after ${seconds(answer.first_token_s)}`);
  if (answer.tokens_per_s) figures.push(`${answer.tokens_per_s.toFixed(1)} tokens/s`);
  if (answer.state === "done") figures.push(endOf(answer).toLowerCase());
  return figures;
}

class AnswerView {
  constructor(turnView, model) {
    this.turnView = turnView;
    this.model = model;
    this.tokens = null;
    const about = modelOf(model);
    this.body = make("div", { class: "fj-body" });
    this.reasoning = make("div", { class: "fj-reasoning-text", dir: "auto" });
    this.reasoningSummary = make("summary", {}, "Reasoning");
    this.reasoningBox = make("details", { class: "fj-reasoning", hidden: true }, this.reasoningSummary, this.reasoning);
    this.note = make("div", { class: "fj-note", hidden: true });
    this.figures = make("p", { class: "fj-figures" });
    this.actions = make("div", { class: "fj-actions", role: "group", "aria-label": `Actions on the answer of ${about.label}` });
    this.node = make("article", { class: "fj-answer", "data-kind": about.kind, "aria-label": `Answer of ${about.label}` },
      make("header", {}, make("h2", {}, about.label), make("span", { class: "fj-kind" }, about.kind)),
      this.reasoningBox, this.body, this.note, make("footer", {}, this.figures, this.actions));
  }

  get answer() { return this.turnView.turn.answers[this.model]; }

  update() {
    const answer = this.answer;
    const isOver = answer.state === "done";
    this.node.setAttribute("aria-busy", !isOver);
    this._updateReasoning(answer, isOver);
    if (this.tokens) this._showTokens(); else this._updateBody(answer);
    this._updateNote(answer, isOver);
    this.figures.replaceChildren(...(answer.completion_tokens || isOver ? figuresOf(answer) : []).map((text) => make("span", {}, text)));
    this._updateActions(answer, isOver);
  }

  _updateReasoning(answer, isOver) {
    this.reasoningBox.hidden = !answer.reasoning;
    if (this.reasoning.textContent !== answer.reasoning) this.reasoning.textContent = answer.reasoning || "";
    this.reasoningSummary.textContent = !isOver && !answer.text ? "Reasoning…" : "Reasoning";
  }

  _updateBody(answer) {
    const blocks = answer.blocks || [];
    while (this.body.children.length > blocks.length) this.body.lastChild.remove();
    blocks.forEach((html, position) => {
      let block = this.body.children[position];
      if (!block) this.body.append(block = make("div", { class: "fj-block", dir: "auto" }));
      // Blocks that are complete stay as they are, with the user's selection in them.
      if (block.source !== html) { block.innerHTML = html; block.source = html; }
    });
  }

  _updateNote(answer, isOver) {
    const note = this._noteOf(answer, isOver);
    this.note.hidden = !note;
    this.note.dataset.kind = !isOver ? "waiting" : answer.finish === "error" ? "error" : "end";
    if (note && note.key !== this.noteKey) this.note.replaceChildren(...note.parts);
    this.noteKey = note ? note.key : null;
  }

  _noteOf(answer, isOver) {
    if (!isOver) {
      if (answer.state === "running" && (answer.text || answer.reasoning)) return null;
      const text = answer.place ? `Waiting: ${ordinal(answer.place)} in the queue` : "Waiting for the first token";
      return { key: text, parts: [make("span", { class: "fj-dots", "aria-hidden": "true" }, make("i"), make("i"), make("i")), make("span", {}, text)] };
    }
    const goOn = this.canContinue(answer)
      ? make("button", { type: "button", class: "fj-button", onclick: () => this.turnView.page.continueAnswer(this.turnView, this.model) }, "Continue") : null;
    const again = answer.finish === "error" && this.turnView.isLast()
      ? make("button", { type: "button", class: "fj-button", onclick: () => this.turnView.page.regenerate(this.turnView, this.model) }, "Try again") : null;
    const signIn = answer.error === TROUBLE.signedOut && this.turnView.isLast()
      ? make("button", { type: "button", class: "fj-button", onclick: () => this.turnView.signIn() }, "Sign in") : null;
    const text = answer.error || this._ending(answer);
    if (!text) return null;
    const buttons = signIn ? [signIn] : [goOn, again].filter(Boolean);
    return { key: [text, ...buttons.map((button) => button.textContent)].join(), parts: [make("span", {}, text), ...buttons] };
  }

  _ending(answer) {
    if (this._isContextFull(answer)) return `Cut off after ${counted(answer.completion_tokens, "token")}: the conversation fills the model's context.`;
    if (answer.finish === "length") return `Cut off after ${counted(answer.completion_tokens, "token")}, the length that Settings allow.`;
    if (answer.finish === "stop" && !answer.text.trim()) return "An empty answer: the model ended it at once.";
    if (answer.finish === "interrupted") return answer.text ? "Interrupted: the connection or the page was closed." : "Interrupted before the first token. Not a part of the conversation.";
    if (answer.finish === "abort") return answer.text ? "Stopped." : "Stopped before the first token. Not a part of the conversation.";
    return "";
  }

  canContinue(answer) {
    return this.turnView.isLast() && Boolean(answer.text) && ["length", "abort", "interrupted", "error"].includes(answer.finish)
      && isServed(this.model) && !this._isContextFull(answer);
  }

  _isContextFull(answer) {
    return answer.finish === "length" && Boolean(answer.settings) && answer.new_tokens < answer.settings.max_tokens;
  }

  _updateActions(answer, isOver) {
    const { page, turn } = this.turnView;
    const isRunning = Boolean(page.run);
    const versions = versionsOf(turn, this.model);
    const key = [isOver, isRunning, this.turnView.isLast(), answer.rating, Boolean(this.tokens), versions.length].join();
    if (key === this.actionsKey) return;
    const focused = this.actions.contains(document.activeElement) ? document.activeElement.dataset.action : null;
    this.actionsKey = key;
    this.actions.hidden = !isOver;
    const conversation = page.conversation;
    const index = () => conversation.turns.indexOf(turn);
    const served = isServed(this.model);
    const buttons = [
      ["copy", "Copy", (event) => copyText(this.answer.text, event.currentTarget), answer.text],
      ["again", "Regenerate", () => page.regenerate(this.turnView, this.model), this.turnView.isLast() && served && !isRunning],
      ["chance", "Token probabilities", () => this.toggleTokens(), served && !answer.lacks_tokens && answer.token_ids && answer.token_ids.length],
      ["code", "Show as code", () => showCode(conversation, index(), this.model), answer.settings],
      ["json", "Show as JSON", () => showJson(conversation, index(), this.model), answer.settings],
      ["good", "Good answer", () => this.rate(true), about.has_feedback && answer.text],
      ["bad", "Bad answer", () => this.rate(false), about.has_feedback && answer.text],
    ].filter(([, , , isShown]) => isShown).map(([name, label, act]) => {
      const pressed = { good: answer.rating === true, bad: answer.rating === false, chance: Boolean(this.tokens) }[name];
      return iconButton(name, label, act, { "data-action": name, ...(pressed === undefined ? {} : { "aria-pressed": String(pressed) }) });
    });
    const canSwitch = versions.length > 1 && this.turnView.isLast() && !isRunning;
    this.actions.replaceChildren(...(canSwitch ? [this._versionSwitch(versions)] : []), ...buttons);
    if (focused) this.actions.querySelector(`[data-action="${focused}"]`)?.focus();
  }

  _versionSwitch(versions) {
    const { page } = this.turnView;
    const at = versions.indexOf(this.answer);
    const step = (name, label, to) => iconButton(name, label, async () => {
      await page.showVersion(this.turnView, this.model, versions[to]);
      const { actions } = page.views.at(-1).answers.find((view) => view.model === this.model);
      (actions.querySelector(`[data-action="${name}"]:enabled`) || actions.querySelector(".fj-versions :enabled"))?.focus();
    }, { "data-action": name, disabled: !versions[to] });
    return make("span", { class: "fj-versions", role: "group", "aria-label": "Answers to this question" },
      step("earlier", "Earlier answer", at - 1), make("span", {}, `${at + 1} of ${versions.length}`), step("later", "Later answer", at + 1));
  }

  async rate(isGood) {
    const { page, turn } = this.turnView;
    const answer = this.answer;
    const wanted = answer.rating === isGood ? null : isGood;
    const result = await call("rate", { answered: wireAnswered(page.conversation, page.conversation.turns.indexOf(turn), this.model), is_good: wanted });
    if (result.error) { announce(result.error); this.warn(result.error); return; }
    if (wanted === null) delete answer.rating; else answer.rating = wanted;
    saveConversation(page.conversation);
    this.update();
    announce(wanted === null ? "The rating was taken back" : "Thank you: the rating is kept");
  }

  warn(text) {
    this.note.hidden = false;
    this.note.dataset.kind = "error";
    this.note.replaceChildren(make("span", {}, text));
    this.noteKey = text;
  }

  async toggleTokens() {
    if (this.tokens) {
      this.tokens = null;
      this.body.replaceChildren();
    } else {
      const { page, turn } = this.turnView;
      this.note.hidden = false;
      this.note.dataset.kind = "waiting";
      this.note.replaceChildren(make("span", {}, "Computing the probabilities"));
      const found = await call("probabilities", wireAnswered(page.conversation, page.conversation.turns.indexOf(turn), this.model));
      this.noteKey = null;
      this._updateNote(this.answer, true);
      if (found.error) { this.warn(found.error); return; }
      this.tokens = found.tokens;
    }
    this.update();
  }

  _showTokens() {
    if (this.body.querySelector(".fj-tokens")) return;
    const detail = make("p", { class: "fj-token-detail", "aria-live": "polite" }, "Point at a token, or use the arrow keys, to see what else was likely.");
    const nodes = this.tokens.map((token, position) => make("span", {
      class: "fj-token", "data-level": level(token.probability), onmouseenter: () => show(position), onclick: () => show(position),
    }, token.is_special ? "[end]" : token.text));
    let current = -1;
    const show = (position) => {
      nodes[current]?.classList.remove("fj-chosen");
      current = position;
      nodes[current].classList.add("fj-chosen");
      const token = this.tokens[position];
      const others = token.top.filter((each) => each.text !== token.text).slice(0, 4).map((each) => `${quoted(each)} ${percent(each.probability)}`);
      detail.textContent = `${quoted(token)} ${percent(token.probability)}${others.length ? `; likely too: ${others.join(", ")}` : ""}`;
    };
    const list = make("div", { class: "fj-tokens", dir: "auto", tabindex: "0", role: "group", "aria-label": "Tokens by probability", onkeydown: (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
      if (!step) return;
      event.preventDefault();
      show(Math.max(0, Math.min(nodes.length - 1, current + step)));
    } }, nodes);
    const legend = make("p", { class: "fj-legend" }, ["under 10 %", "10 to 40 %", "40 to 70 %", "70 to 90 %", "90 % and more"].map((text, index) =>
      make("span", { class: "fj-token", "data-level": String(index) }, text)));
    this.body.replaceChildren(list, detail, legend);
  }
}

function level(probability) {
  return String([0.1, 0.4, 0.7, 0.9].filter((bound) => probability >= bound).length);
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)} %`;
}

function quoted(token) {
  return token.is_special ? "the end" : `“${token.text.replaceAll("\n", "↵")}”`;
}
