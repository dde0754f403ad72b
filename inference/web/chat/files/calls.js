// Calls of the server. Where one fails, Gradio's client returns nothing, whatever the reason.

const TROUBLE = {
  lost: "The server does not answer. It may be restarting: try again in a moment.",
  signedOut: "You are signed out. Conversations stay in this browser.",
  cut: "The connection was lost before the answer ended.",
  failed: "The server could not do this; its log says why.",
};

// Gradio's id of the process that serves the page, and the status of the answer: null and 0 without a server.
async function findServer() {
  const answer = await fetch("/gradio_api/app_id").catch(() => null);
  if (!answer) return { id: null, status: 0 };
  const found = await answer.json().catch(() => null);
  return { id: found && answer.ok ? String(found.app_id) : null, status: answer.status };
}

// A sentence about a server that gave no id.
function troubleOf(status) {
  return status === 401 ? TROUBLE.signedOut : TROUBLE.lost;
}

// What a function of the server returns, or an error as a sentence for the user.
async function call(name, argument = null) {
  const found = await server[name](argument).catch(() => null);
  if (found !== null && found !== undefined) return found;
  const { id, status } = await findServer();
  return { error: id ? TROUBLE.failed : troubleOf(status) };
}
