// Asks before it acts, sends the action with the token, and says what was done.

import { byId, setText } from "./dom.js";

const STORED = "tokenlane token";
const dialog = byId("confirm");
const form = dialog.querySelector("form");
let token = tokenFromUrl() ?? sessionStorage.getItem(STORED) ?? "";
/** What the dialog asks: `work` follows a "yes"; a question with `mustBeAnswered` stays until its work succeeded. */
let question = null;

/** The headers that carry the token, if there is one. */
export function headers() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** Ask whether to do this, and do it. `action` is what the server gets; `verb` is on the button. */
export function confirmAction(title, text, verb, action) {
  open(title, text, verb, { asksForToken: !token, mustBeAnswered: false, work: () => send(action) });
}

/** Ask for the token with which the pool may be seen. Resolves once there is one. */
export function askForToken(reason) {
  return new Promise((resolve) => {
    open("Token", reason, "View the pool", { asksForToken: true, mustBeAnswered: true, work: async () => resolve() });
  });
}

function open(title, text, verb, { asksForToken, ...asked }) {
  question = asked;
  setText(byId("confirm-title"), title);
  setText(byId("confirm-text"), text);
  setText(byId("confirm-yes"), verb);
  setText(byId("confirm-no"), "Leave it");
  byId("confirm-no").hidden = asked.mustBeAnswered;
  byId("confirm-yes").disabled = false;
  byId("token-field").hidden = !asksForToken;
  byId("token").value = "";
  showError("");
  if (!dialog.open) dialog.showModal();
  (asksForToken ? byId("token") : byId("confirm-no")).focus();
}

async function send(action) {
  const response = await fetch("actions", {
    method: "POST",
    headers: { ...headers(), "Content-Type": "application/json" },
    body: JSON.stringify(action),
  });
  const answer = (await response.text()).trim();
  if (!response.ok) throw Object.assign(new Error(answer), { status: response.status });
  say(answer, "ok");
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const asked = question;
  const isShown = () => dialog.open && question === asked; // a load takes minutes: the dialog may be closed meanwhile
  token = cleaned(byId("token").value) || token;
  byId("confirm-yes").disabled = true;
  setText(byId("confirm-no"), "Close"); // the work goes on without the dialog
  showError("");
  try {
    await asked.work();
    if (token) sessionStorage.setItem(STORED, token);
    if (isShown()) close();
  } catch (error) {
    const text = error.status === undefined ? "The dashboard does not answer." : error.message;
    if (!isShown()) return say(text, "fail");
    showError(text);
    byId("confirm-yes").disabled = false;
    setText(byId("confirm-no"), "Leave it");
    if (error.status === 401) {
      byId("token-field").hidden = false;
      byId("token").focus();
    }
  }
});
byId("confirm-no").addEventListener("click", close);
dialog.addEventListener("close", () => {
  if (question?.mustBeAnswered && !dialog.open) dialog.showModal(); // Escape closes any dialog, at least the second time
});

function close() {
  question = null;
  dialog.close();
}

// An address with a token that is pasted into an open tab loads nothing anew.
window.addEventListener("hashchange", () => {
  const found = tokenFromUrl();
  if (found === null) return;
  token = found;
  byId("token").value = "";
  byId("token-field").hidden = true;
  showError("");
  if (question?.mustBeAnswered) form.requestSubmit();
});

function showError(text) {
  byId("confirm-error").hidden = !text;
  setText(byId("confirm-error"), text);
}

let silence;
function say(text, severity) {
  byId("done").dataset.severity = severity;
  setText(byId("done"), text);
  clearTimeout(silence);
  silence = setTimeout(() => setText(byId("done"), ""), 8000);
}

/** The token in the URL's fragment, which browsers do not send. It is removed from the URL, and so from the history. */
function tokenFromUrl() {
  const given = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B")).get("token");
  if (given === null) return null;
  history.replaceState(null, "", location.pathname + location.search);
  const found = cleaned(given);
  if (found) sessionStorage.setItem(STORED, found);
  return found || null;
}

/** Without the spaces and invisible characters that come along when a token is copied. */
function cleaned(text) {
  return text.replace(/[^!-~]/g, "");
}
