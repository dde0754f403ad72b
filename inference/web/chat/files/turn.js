// One turn: the question, and the answers to it side by side.

class TurnView {
  constructor(page, turn) {
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
    this.question.replaceChildren(make("div", { class: "fj-bubble", dir: "auto" }, make("span", { class: "fj-sr", dir: "ltr" }, "You: "), turn.user), actions);
    if (focused) actions.firstChild.focus();
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
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); save(); }
    });
    this.question.replaceChildren(make("form", { class: "fj-edit", onsubmit: (event) => { event.preventDefault(); save(); } }, area,
      make("div", { class: "fj-row" },
        make("button", { type: "button", class: "fj-button", onclick: () => this.showQuestion() }, "Cancel"),
        make("button", { type: "submit", class: "fj-button fj-primary" }, "Ask again"))));
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}
