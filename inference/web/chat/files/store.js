// Conversations in the browser's storage, one entry each, so that pages that are open side by side do not
// overwrite each other's.

const PREFIX = "fjarr.conversation.";
const CURRENT = "fjarr.current";

function newConversation() {
  return { id: newId(), title: "", created: Date.now(), updated: Date.now(), turns: [] };
}

function loadConversation(id) {
  try {
    const found = JSON.parse(localStorage.getItem(PREFIX + id));
    if (!found || !Array.isArray(found.turns)) return null;
    for (const turn of found.turns) {
      for (const answer of Object.values(turn.answers)) {
        // It was still coming when the page was closed.
        if (answer.state !== "done") Object.assign(answer, { state: "done", finish: "interrupted" });
      }
    }
    return found;
  } catch {
    return null;
  }
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
  conversation.updated = Date.now();
  conversation.title = conversation.turns[0].user.trim().split("\n")[0].slice(0, 80);
  const kept = JSON.stringify(conversation, (key, value) => (key === "blocks" || key === "view" ? undefined : value));
  for (;;) {
    try {
      localStorage.setItem(PREFIX + conversation.id, kept);
      setCurrent(conversation.id);
      return;
    } catch (error) {
      // The storage is full: the oldest conversation makes room.
      const oldest = listConversations().filter((each) => each.id !== conversation.id).pop();
      if (!oldest) { console.warn("the conversation is not kept", error); return; }
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
