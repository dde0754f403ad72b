// One turn: the question, and the answers to it side by side.

const LONG_LINES = 16;
const LONG_CHARACTERS = 1600;

function isLong(text) {
  return text.length > LONG_CHARACTERS || text.split("\n").length > LONG_LINES;
}

class TurnView {
  constructor(page, turn) {
    this.isFolded = isLong(turn.user);
    this.page = page;
    this.turn = turn;
    this.question = make("div", { class: "fj-question" });
    this.columns = make("div", { class: "fj-columns", "data-count": turn.models.length });
    this.answers = turn.models.map((model) => new AnswerView(this, model));
    this.columns.append(...this.answers.map((view) => view.node));
    this.node = make("li", { class: "fj-turn" }, this.question, this.columns);
    this.showQuestion();
  }

  isLast() {
    return this.page.conversation.turns.at(-1) === this.turn;
  }

  // The page asks after the sign-in what could not be asked.
  signIn() {
    const failed = this.turn.models.filter((model) => this.turn.answers[model]?.error === TROUBLE.signedOut);
    this.page.reload(this.turn, failed.map((model) => continuationOf(this.turn, model)));
  }

  update() {
    for (const view of this.answers) view.update();
    const key = `${Boolean(this.page.run)}${this.isLast()}`;
    if (key !== this.key && !this.isEdited) this.showQuestion();
    this.key = key;
  }

  showQuestion() {
    const { page, turn } = this;
    this.isEdited = false;
    const isIdle = !page.run;
    const focused = this.question.contains(document.activeElement);
    const actions = make("div", { class: "fj-actions", role: "group", "aria-label": "Actions on your message" },
      iconButton("copy", "Copy your message", (event) => copyText(turn.user, event.currentTarget)),
      isIdle && iconButton("edit", "Edit and ask again", () => this.edit()),
      isIdle && this.isLast() && turn.models.length > 1 && iconButton("again", "Regenerate all answers", () => page.regenerate(this)),
      isIdle && this.isLast() && iconButton("undo", "Undo: take the message back", () => page.undo()));
    const bubble = make("div", { class: "fj-bubble", dir: "auto", "data-folded": String(this.isFolded) }, make("span", { class: "fj-sr", dir: "ltr" }, "You: "), turn.user);
    this.question.replaceChildren(bubble, ...(isLong(turn.user) ? [this._foldButton(bubble)] : []), actions);
    if (focused) actions.firstChild.focus();
  }

  _foldButton(bubble) {
    const lines = this.turn.user.split("\n").length;
    const label = () => (this.isFolded ? `Show all${lines > LONG_LINES ? ` ${counted(lines, "line")}` : ""}` : "Show less");
    const button = make("button", { type: "button", class: "fj-fold", "aria-expanded": String(!this.isFolded), onclick: () => {
      this.isFolded = !this.isFolded;
      bubble.dataset.folded = String(this.isFolded);
      button.setAttribute("aria-expanded", String(!this.isFolded));
      button.textContent = label();
    } }, label());
    return button;
  }

  edit() {
    this.isEdited = true;
    const area = make("textarea", { "aria-label": "Edit your message", dir: "auto", rows: Math.min(10, this.turn.user.split("\n").length + 1) });
    area.value = this.turn.user;
    const save = () => {
      if (!area.value.trim()) return;
      this.page.askAgain(this, area.value);
    };
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { this.showQuestion(); this.question.querySelector("button").focus(); }
      if (isSending(event)) { event.preventDefault(); save(); }
    });
    this.question.replaceChildren(make("form", { class: "fj-edit", onsubmit: (event) => { event.preventDefault(); save(); } }, area,
      make("div", { class: "fj-row" },
        make("button", { type: "button", class: "fj-button", onclick: () => this.showQuestion() }, "Cancel"),
        make("button", { type: "submit", class: "fj-button fj-primary" }, "Ask again"))));
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}
