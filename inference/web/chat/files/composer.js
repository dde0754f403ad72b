// The message box, and the choice of the models that a message is put to.

const DRAFT = "fjarr.draft";

// Safari ends a composition before the key that ended it, and marks that key by this code alone.
const COMPOSING = 229;

function isSending(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== COMPOSING;
}

function setUpComposer(page) {
  const message = byId("fj-message");
  const grow = () => {
    message.style.height = "auto";
    message.style.height = `${Math.min(message.scrollHeight, 240)}px`;
    byId("fj-send").disabled = !message.value.trim() || !page.picked.length;
  };
  // What is written survives a reload.
  const keepDraft = () => { try { sessionStorage.setItem(DRAFT, message.value); } catch { /* the page works without */ } };
  const send = () => {
    // Neither a blank message nor a second one while answers are coming.
    if (page.run || !message.value.trim() || !page.picked.length) return;
    const text = message.value;
    message.value = "";
    keepDraft();
    grow();
    page.send(text);
  };
  message.addEventListener("input", () => { keepDraft(); grow(); });
  message.addEventListener("keydown", (event) => {
    if (isSending(event)) { event.preventDefault(); send(); }
    if (event.key === "Escape" && page.run) page.stop();
  });
  byId("fj-composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  byId("fj-stop").addEventListener("click", () => { page.stop(); message.focus(); });
  byId("fj-send").append(icon("send"));
  byId("fj-stop").append(icon("stop"));
  const put = (text) => {
    // What is being written is not lost.
    message.value = message.value.trim() ? `${text}\n\n${message.value}` : text;
    keepDraft();
    grow();
    message.focus();
  };
  page.composer = { grow, put };
  message.value = sessionStorage.getItem(DRAFT) || "";
  grow();
}

function showModels(page) {
  const holder = byId("fj-models");
  if (about.models.length < 2) { holder.replaceChildren(); return; }
  holder.replaceChildren(about.models.length > about.max_compared ? modelLists(page) : modelBoxes(page));
}

function pick(page, models) {
  page.picked = models;
  try { localStorage.setItem("fjarr.models", JSON.stringify(models)); } catch { /* the page works without */ }
  showModels(page);
  showWelcome(page);
  page.composer.grow();
}

function modelBoxes(page) {
  const inOrder = (chosen) => about.models.map((model) => model.name).filter((name) => chosen.has(name));
  return make("fieldset", { class: "fj-chips" }, make("legend", { class: "fj-sr" }, "Models"), about.models.map((model) => {
    const input = make("input", { type: "checkbox", value: model.name, checked: page.picked.includes(model.name), onchange: () => {
      const chosen = new Set(page.picked);
      if (input.checked) chosen.add(model.name); else chosen.delete(model.name);
      pick(page, inOrder(chosen));
      holderInput(model.name)?.focus();
    } });
    return make("label", { class: "fj-chip", "data-kind": model.kind, title: model.name }, input, make("span", {}, model.label), make("small", {}, model.kind));
  }));
}

function holderInput(name) {
  return [...byId("fj-models").querySelectorAll("input")].find((input) => input.value === name);
}

function modelLists(page) {
  const set = (position, name) => {
    const models = [...page.picked];
    if (name) models[position] = name; else models.splice(position, 1);
    pick(page, [...new Set(models)]);
    byId("fj-models").querySelectorAll("select")[Math.min(position, page.picked.length - 1)].focus();
  };
  const lists = page.picked.map((picked, position) => make("span", { class: "fj-pick" },
    make("select", { "aria-label": `Model ${position + 1}`, onchange: (event) => set(position, event.target.value) },
      ["fine-tuned", "base"].map((kind) => make("optgroup", { label: kind }, about.models.filter((model) => model.kind === kind)
        .map((model) => make("option", { value: model.name, selected: model.name === picked, disabled: model.name !== picked && page.picked.includes(model.name) }, model.label))))),
    page.picked.length > 1 && iconButton("close", `Leave out ${modelOf(picked).label}`, () => set(position, null))));
  const free = about.models.find((model) => !page.picked.includes(model.name));
  const add = page.picked.length < about.max_compared && free
    ? iconButton("plus", "Compare with another model", () => set(page.picked.length, free.name)) : null;
  return make("div", { class: "fj-row", role: "group", "aria-label": "Models" }, lists, add);
}
