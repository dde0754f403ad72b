// The dialog with a request as code and an answer as JSON.

function openDialog(title, tabs) {
  const dialog = byId("fj-dialog");
  const panel = make("pre", { class: "fj-source", id: "fj-panel", role: "tabpanel", tabindex: "0" }, make("code"));
  const buttons = Object.entries(tabs).map(([name, text]) =>
    make("button", { type: "button", role: "tab", "aria-controls": "fj-panel", onclick: () => select(name), "data-tab": name }, name));
  function select(name) {
    for (const button of buttons) {
      const isChosen = button.dataset.tab === name;
      button.setAttribute("aria-selected", isChosen);
      button.tabIndex = isChosen ? 0 : -1;
      if (isChosen && dialog.open) button.focus();
    }
    panel.dataset.tab = name;
    panel.setAttribute("aria-label", name);
    panel.firstChild.textContent = tabs[name];
  }
  const list = make("div", { role: "tablist", class: "fj-tabs", "aria-label": title, onkeydown: (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const names = Object.keys(tabs);
    if (step) select(names[(names.indexOf(panel.dataset.tab) + step + names.length) % names.length]);
  } }, buttons);
  const copy = make("button", { type: "button", class: "fj-button", onclick: () => copyText(tabs[panel.dataset.tab], copy) }, "Copy");
  dialog.replaceChildren(
    make("header", {}, make("h2", { id: "fj-dialog-title" }, title), iconButton("close", "Close", () => dialog.close())),
    make("div", { class: "fj-row fj-tabs-row" }, list, copy), panel);
  select(Object.keys(tabs)[0]);
  dialog.showModal();
  buttons[0].focus();
}

async function showCode(conversation, index, model) {
  const code = await call("snippets", { answered: wireAnswered(conversation, index, model), origin: location.origin });
  if (code.error) { openDialog("This request as code", { Error: code.error }); return; }
  openDialog("This request as code", { curl: code.curl, Python: code.python, JavaScript: code.javascript });
}

// JSON with lists of numbers, such as token ids, on one line.
function readableJson(document) {
  return JSON.stringify(document, null, 2).replace(/\[\s+(?:-?[\d.]+,?\s+)+\]/g, (list) => list.replace(/\s+/g, " "));
}

async function showJson(conversation, index, model) {
  const answer = conversation.turns[index].answers[model];
  const code = await call("snippets", { answered: wireAnswered(conversation, index, model), origin: location.origin });
  const { blocks, view, ...shown } = answer;
  openDialog("This answer as JSON", { Answer: readableJson(shown), Request: code.error || code.json });
}
