// Elements, icons, and words for numbers. Texts become text nodes: only HTML that the server has rendered from
// Markdown is inserted as HTML.

const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const ICONS = {
  menu: "M4 6h16M4 12h16M4 18h16",
  plus: "M12 5v14M5 12h14",
  sliders: "M4 7h9M19 7h1M4 17h1M11 17h9M16 4.5v5M8 14.5v5",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  down: "M12 5v14M6 13l6 6 6-6",
  earlier: "M15 6l-6 6 6 6",
  later: "M9 6l6 6-6 6",
  copy: "M9 9h10v11H9zM5 15V4h10",
  edit: "M4 20h4L19 9l-4-4L4 16z",
  again: "M20 11a8 8 0 1 0-2.3 6.3M20 5v6h-6",
  undo: "M9 7L4 12l5 5M4 12h10a6 6 0 0 1 6 6",
  code: "M9 7l-5 5 5 5M15 7l5 5-5 5",
  json: "M8 4c-3 0-2 4-2 6 0 1-1 2-2 2 1 0 2 1 2 2 0 2-1 6 2 6M16 4c3 0 2 4 2 6 0 1 1 2 2 2-1 0-2 1-2 2 0 2 1 6-2 6",
  chance: "M5 20V10M12 20V4M19 20v-7",
  good: "M7 11v9H4v-9zM7 11l4-7c1.500 0 2.500 1 2.200 2.600L12.600 10H19c1 0 1.700.9 1.500 1.900l-1.300 6.600c-.2.9-.9 1.500-1.800 1.500H7",
  bad: "M17 13V4h3v9zM17 13l-4 7c-1.500 0-2.500-1-2.200-2.600l.6-3.400H5c-1 0-1.700-.9-1.500-1.900l1.300-6.600C5 4.600 5.700 4 6.600 4H17",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  close: "M6 6l12 12M18 6L6 18",
  check: "M5 13l4 4L19 7",
};

// A text as it was written, as HTML.
function plainBlock(text) {
  return make("p", { class: "fj-plain" }, text).outerHTML;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "fj-svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

function iconButton(name, label, onclick, attributes = {}) {
  return make("button", { type: "button", class: "fj-icon", "aria-label": label, title: label, onclick, ...attributes },
    icon(name));
}

function newId() {
  // crypto.randomUUID exists on secure origins only.
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function counted(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}

function seconds(value) {
  return value < 10 ? `${value.toFixed(2)} s` : `${value.toFixed(1)} s`;
}

function ordinal(number) {
  const ending = { one: "st", two: "nd", few: "rd", other: "th" };
  return `${number}${ending[new Intl.PluralRules("en", { type: "ordinal" }).select(number)]}`;
}

function announce(text) {
  byId("fj-status").textContent = text;
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without a secure origin there is no clipboard, but there is a selection to copy.
    const area = make("textarea", { class: "fj-sr", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  announce("Copied");
  if (button && !button.dataset.copied) {
    button.dataset.copied = "yes";
    const before = [...button.childNodes];
    button.replaceChildren(button.classList.contains("fj-icon") ? icon("check") : "Copied");
    button.focus();
    setTimeout(() => { button.replaceChildren(...before); delete button.dataset.copied; }, 1200);
  }
}

function download(name, type, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
