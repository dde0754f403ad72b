// The conversations that the browser keeps, and the two panels beside the chat.

function setUpHistory(page) {
  byId("fj-history-toggle").append(icon("menu"));
  byId("fj-new").append(icon("plus"), make("span", {}, "New chat"));
  byId("fj-settings-toggle").append(icon("sliders"), make("span", {}, "Settings"));
  byId("fj-new").addEventListener("click", () => { page.open(newConversation()); setCurrent(null); byId("fj-message").focus(); });
  const app = byId("fj-app");
  const panels = { history: byId("fj-history-toggle"), settings: byId("fj-settings-toggle") };
  const toggle = (name, isOpen) => {
    app.dataset[name] = isOpen ? "open" : "closed";
    document.body.dataset[`fj${name}`] = app.dataset[name];
    panels[name].setAttribute("aria-expanded", String(isOpen));
  };
  for (const [name, button] of Object.entries(panels)) {
    button.addEventListener("click", () => toggle(name, app.dataset[name] !== "open"));
  }
  toggle("settings", false);
  toggle("history", window.matchMedia("(min-width: 1100px)").matches && listConversations().length > 0);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || byId("fj-dialog").open) return;
    for (const [name, button] of Object.entries(panels)) {
      const panel = byId(name === "settings" ? "settings" : "fj-history");
      if (app.dataset[name] === "open" && panel.contains(document.activeElement)) { toggle(name, false); button.focus(); }
    }
  });
  byId("fj-export-markdown").addEventListener("click", () => download(fileName(page, "md"), "text/markdown", asMarkdown(page.conversation)));
  byId("fj-export-json").addEventListener("click", () => download(fileName(page, "json"), "application/json", asJson(page.conversation)));
  byId("fj-delete-all").addEventListener("click", () => {
    if (!confirm("Delete all conversations of this browser? They are kept nowhere else.")) return;
    for (const each of listConversations()) deleteConversation(each.id);
    page.open(newConversation());
    setCurrent(null);
  });
  // Another page of this browser has changed its conversations.
  window.addEventListener("storage", () => showHistory(page));
}

function fileName(page, ending) {
  const words = page.conversation.title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40);
  return `fjarr-${words || "conversation"}.${ending}`;
}

function showHistory(page) {
  const all = listConversations();
  byId("fj-conversations").replaceChildren(...all.map((each) => make("li", { "data-current": each.id === page.conversation.id },
    make("button", { type: "button", class: "fj-conversation", "aria-current": each.id === page.conversation.id ? "true" : null,
      onclick: () => { const found = loadConversation(each.id); if (found) page.open(found); } },
      make("span", { dir: "auto" }, each.title), make("time", {}, when(each.updated))),
    iconButton("trash", `Delete “${each.title}”`, () => {
      deleteConversation(each.id);
      if (each.id === page.conversation.id) { page.open(newConversation()); setCurrent(null); } else showHistory(page);
      byId("fj-new").focus();
    }))));
  const isEmpty = !page.conversation.turns.length;
  byId("fj-export-markdown").disabled = byId("fj-export-json").disabled = isEmpty;
  byId("fj-delete-all").hidden = !all.length;
  byId("fj-kept").textContent = all.length ? "Kept in this browser only." : "Conversations are kept here, in this browser only.";
}

function when(time) {
  const date = new Date(time);
  const isToday = date.toDateString() === new Date().toDateString();
  return date.toLocaleString([], isToday ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short" });
}
