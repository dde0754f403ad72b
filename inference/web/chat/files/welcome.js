// What the page shows before the first question.

function showWelcome(page) {
  const welcome = byId("fj-welcome");
  welcome.hidden = page.conversation.turns.length > 0;
  if (welcome.hidden) return;
  const labels = page.picked.map((name) => modelOf(name).label);
  const kinds = new Set(page.picked.map((name) => modelOf(name).kind));
  const title = kinds.size > 1 ? "See what fine-tuning changed" : labels.length > 1 ? "Compare the models" : "Ask the model";
  const text = labels.length > 1
    ? `Ask once: ${new Intl.ListFormat("en").format(labels)} answer side by side, with the same settings and the same seed.`
    : labels.length ? `${labels[0]} answers. Nothing leaves this server.` : "Choose a model below.";
  welcome.replaceChildren(make("h2", {}, title), make("p", {}, text),
    about.examples.length ? make("ul", { class: "fj-examples", "aria-label": "Examples" }, about.examples.map((example) => make("li", {},
      make("button", { type: "button", onclick: () => { if (!page.run && page.picked.length) page.send(example.message); } },
        example.title && make("strong", { dir: "auto" }, example.title), make("span", { dir: "auto" }, example.message))))) : "");
}
