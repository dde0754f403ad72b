// The conversations that the browser keeps, and the two panels beside the chat.

// From so many on, they can be searched.
const MANY = 6;

function setUpHistory(page) {
  byId("fj-history-toggle").append(icon("menu"));
  byId("fj-new").append(icon("plus"), make("span", {}, "New chat"));
  byId("fj-settings-toggle").append(icon("sliders"), make("span", {}, "Settings"));
  byId("fj-new").addEventListener("click", () => {
    page.open(newConversation());
    setCurrent(null);
    page.closeDrawers();
    byId("fj-message").focus();
  });
  const app = byId("fj-app");
  const panels = { history: byId("fj-history-toggle"), settings: byId("fj-settings-toggle") };
  const nodes = { history: byId("fj-history"), settings: byId("settings") };
  const isNarrow = () => window.matchMedia("(max-width: 700px)").matches;
  const toggle = (name, isOpen) => {
    if (isOpen && isNarrow()) for (const other of Object.keys(panels)) if (other !== name) toggle(other, false);
    app.dataset[name] = isOpen ? "open" : "closed";
    document.body.dataset[`fj${name}`] = app.dataset[name];
    panels[name].setAttribute("aria-expanded", String(isOpen));
  };
  for (const [name, button] of Object.entries(panels)) {
    button.addEventListener("click", () => toggle(name, app.dataset[name] !== "open"));
  }
  // On a small screen the panels are drawers above the chat.
  page.closeDrawers = () => { if (isNarrow()) for (const name of Object.keys(panels)) toggle(name, false); };
  document.addEventListener("pointerdown", (event) => {
    const isInside = [...Object.values(nodes), ...Object.values(panels)].some((node) => node.contains(event.target));
    if (!isInside && app.contains(event.target)) page.closeDrawers();
  });
  toggle("settings", false);
  toggle("history", window.matchMedia("(min-width: 1100px)").matches && listConversations().length > 0);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || byId("fj-dialog").open) return;
    for (const [name, button] of Object.entries(panels)) {
      if (app.dataset[name] === "open" && nodes[name].contains(document.activeElement)) { toggle(name, false); button.focus(); }
    }
  });
  byId("fj-search").addEventListener("input", () => showHistory(page));
  byId("fj-export-markdown").addEventListener("click", () => download(fileName(page, "md"), "text/markdown", asMarkdown(page.conversation)));
  byId("fj-export-json").addEventListener("click", () => download(fileName(page, "json"), "application/json", asJson(page.conversation)));
  byId("fj-delete-all").addEventListener("click", () => {
    if (!confirm("Delete all conversations of this browser? They are kept nowhere else.")) return;
    page.stop(); // which saves what there is
    for (const each of listConversations()) deleteConversation(each.id);
    page.open(newConversation());
    setCurrent(null);
  });
}

// What a search looks at.
function textOf(conversation) {
  const texts = conversation.turns.flatMap((turn) => [turn.user, ...Object.values(turn.answers).map((answer) => answer.text)]);
  return texts.join("\n").toLowerCase();
}

function fileName(page, ending) {
  const words = page.conversation.title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40);
  return `fjarr-${words || "conversation"}.${ending}`;
}

function showHistory(page) {
  const all = listConversations();
  byId("fj-search").hidden = all.length < MANY;
  const words = all.length < MANY ? "" : byId("fj-search").value.trim().toLowerCase();
  const found = words ? all.filter((each) => textOf(each).includes(words)) : all;
  byId("fj-conversations").replaceChildren(...found.map((each) => make("li", { "data-current": String(each.id === page.conversation.id) },
    make("button", { type: "button", class: "fj-conversation", "aria-current": each.id === page.conversation.id ? "true" : null,
      onclick: () => { const opened = loadConversation(each.id); if (opened) page.open(opened); page.closeDrawers(); } },
      make("span", { dir: "auto" }, each.title), make("time", {}, when(each.updated))),
    iconButton("trash", `Delete “${each.title}”`, () => {
      if (!confirm(`Delete “${each.title}”? It is kept nowhere else.`)) return;
      const isOpen = each.id === page.conversation.id;
      if (isOpen) page.stop(); // which saves what there is
      deleteConversation(each.id);
      if (isOpen) { page.open(newConversation()); setCurrent(null); } else showHistory(page);
      byId("fj-new").focus();
    }))), ...(found.length || !words ? [] : [make("li", { class: "fj-none" }, "Nothing found")]));
  const isEmpty = !page.conversation.turns.length;
  byId("fj-export-markdown").disabled = byId("fj-export-json").disabled = isEmpty;
  byId("fj-delete-all").hidden = !all.length;
  byId("fj-kept").textContent = storageNote || (all.length ? "Kept in this browser only." : "Conversations are kept here, in this browser only.");
}

function when(time) {
  const date = new Date(time);
  const isToday = date.toDateString() === new Date().toDateString();
  return date.toLocaleString([], isToday ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short" });
}
