// The answers that a model has given to one question: to regenerate an answer keeps the one before.

function versionsOf(turn, model) {
  return [...(turn.others?.[model] || []), turn.answers[model]].filter(Boolean).sort((one, other) => one.asked - other.asked);
}

// Make an answer the one that counts, and keep the others that have a text.
function setAnswer(turn, model, answer) {
  const others = versionsOf(turn, model).filter((each) => each.id !== answer.id && each.text);
  turn.answers[model] = answer;
  if (others.length || turn.others) turn.others = { ...turn.others, [model]: others };
}
