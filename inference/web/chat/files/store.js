// Conversations in the browser's storage, one entry each, so that pages that are open side by side do not
// overwrite each other's.

// What the user should know of the storage; empty while all is kept.
let storageNote = "";

const PREFIX = "fjarr.conversation.";
const CURRENT = "fjarr.current";

function newConversation() {
  return { id: newId(), title: "", created: Date.now(), updated: Date.now(), turns: [] };
}

// A conversation that begins as another one does, to go on in another way.
function branchOf(conversation) {
  return { ...conversation, ...newConversation(), turns: [...conversation.turns], stamp: undefined };
}

function keyOf(conversation) {
  return PREFIX + conversation.id;
}

// What the storage has; null where it has nothing that can be used.
function readConversation(id) {
  try {
    const found = JSON.parse(localStorage.getItem(PREFIX + id));
    return found && Array.isArray(found.turns) ? found : null;
  } catch {
    return null;
  }
}

function answersOf(conversation) {
  return conversation.turns.flatMap((turn) => Object.values(turn.answers));
}

function isComing(conversation) {
  return answersOf(conversation).some((answer) => answer.state !== "done");
}

function loadConversation(id) {
  const found = readConversation(id);
  for (const answer of found ? answersOf(found) : []) {
    // It was still coming when the page was closed.
    if (answer.state !== "done") Object.assign(answer, { state: "done", finish: "interrupted" });
  }
  return found;
}

function listConversations() {
  const ids = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX)).map((key) => key.slice(PREFIX.length));
  return ids.map(loadConversation).filter(Boolean).sort((one, other) => other.updated - one.updated);
}

function currentId() {
  // A page's own, else that of the page that was used last: sessionStorage survives a reload.
  return sessionStorage.getItem(CURRENT) || localStorage.getItem(CURRENT);
}

function saveConversation(conversation) {
  if (!conversation.turns.length) return;
  // Another page has gone on with it as well: both are kept, this one under a new name.
  const stored = readConversation(conversation.id);
  if (stored && stored.stamp !== conversation.stamp) conversation.id = newId();
  conversation.stamp = newId();
  conversation.updated = Date.now();
  conversation.title = conversation.turns[0].user.trim().split("\n")[0].slice(0, 80);
  const kept = JSON.stringify(conversation, (key, value) => (key === "blocks" || key === "view" ? undefined : value));
  for (;;) {
    try {
      localStorage.setItem(PREFIX + conversation.id, kept);
      setCurrent(conversation.id);
      return;
    } catch {
      // The storage is full: the oldest conversation makes room.
      const oldest = listConversations().filter((each) => each.id !== conversation.id).pop();
      storageNote = oldest ? `The browser's storage was full: the oldest conversation, “${oldest.title}”, was removed.`
        : "The browser's storage is full: this conversation is not kept. Export it.";
      announce(storageNote);
      if (!oldest) return;
      localStorage.removeItem(PREFIX + oldest.id);
    }
  }
}

function setCurrent(id) {
  for (const storage of [sessionStorage, localStorage]) {
    try {
      if (id) storage.setItem(CURRENT, id); else storage.removeItem(CURRENT);
    } catch { /* full, or not allowed: the page works without */ }
  }
}

function deleteConversation(id) {
  localStorage.removeItem(PREFIX + id);
}

// An answer before its first token, with the text that it continues.
function waitingAnswer(continues, before) {
  return {
    id: continues ? before.id : newId(), asked: continues ? before.asked : Date.now(), state: "waiting",
    text: continues ? continues.text : "", blocks: continues ? before.blocks : [], reasoning: "",
    completion_tokens: 0, finish: null, error: null, token_ids: continues ? continues.token_ids : [],
    // The tokens of a text that was interrupted are not known.
    lacks_tokens: Boolean(continues && (before.lacks_tokens || !continues.token_ids.length)),
  };
}

// A model, and the text of its answer if there is some, to go on from.
function continuationOf(turn, model) {
  const { text, token_ids: ids } = turn.answers[model];
  return text ? { model, continues: { text, token_ids: ids || [] } } : { model };
}

function isInConversation(answer) {
  return Boolean(answer.text) || answer.finish === "stop";
}

// The turns up to one, as the server takes them. The last one is the question.
function wireTurns(conversation, index) {
  return conversation.turns.slice(0, index + 1).map((turn, position) => ({
    user: turn.user,
    answers: position === index ? {} : Object.fromEntries(
      turn.models.filter((model) => turn.answers[model] && isInConversation(turn.answers[model]))
        .map((model) => [model, turn.answers[model].text])),
  }));
}

function wireAnswered(conversation, index, model) {
  const answer = conversation.turns[index].answers[model];
  return {
    id: answer.id, model, turns: wireTurns(conversation, index), settings: answer.settings,
    text: answer.text, token_ids: answer.token_ids || [],
  };
}

function asMarkdown(conversation) {
  const parts = [`# ${conversation.title}`];
  for (const turn of conversation.turns) {
    parts.push(`## You\n\n${turn.user}`);
    for (const model of turn.models) {
      const answer = turn.answers[model];
      parts.push(`## ${model}\n\n${answer.text || `*${endOf(answer).toLowerCase()}*`}\n\n*${figuresOf(answer).join(" · ")}*`);
    }
  }
  return parts.join("\n\n") + "\n";
}

function asJson(conversation) {
  return JSON.stringify(conversation, (key, value) => (key === "blocks" || key === "view" ? undefined : value), 2) + "\n";
}
