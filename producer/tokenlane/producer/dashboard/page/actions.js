// Asks before it acts, sends the action with the token, and says what was done.

import { byId, setText } from "./dom.js";

const STORED = "tokenlane token";
const dialog = byId("confirm");
let token = tokenFromUrl() ?? sessionStorage.getItem(STORED) ?? "";
let submit = () => {};

/** The headers that carry the token, if there is one. */
export function headers() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** Ask whether to do this, and do it. `action` is what the server gets; `verb` is on the button. */
export function confirmAction(title, text, verb, action) {
  open(title, text, verb, async () => {
    const response = await fetch("actions", {
      method: "POST",
      headers: { ...headers(), "Content-Type": "application/json" },
      body: JSON.stringify(action),
    });
    const answer = (await response.text()).trim();
    if (!response.ok) throw Object.assign(new Error(answer), { status: response.status });
    say(answer);
  });
}

/** Ask for the token with which the pool may be seen. Resolves once there is one. */
export function askForToken(reason) {
  return new Promise((resolve) => {
    open("Token", reason, "View the pool", async () => resolve(), true);
  });
}

function open(title, text, verb, work, asksForToken = !token) {
  setText(byId("confirm-title"), title);
  setText(byId("confirm-text"), text);
  setText(byId("confirm-yes"), verb);
  byId("token-field").hidden = !asksForToken;
  byId("token").value = "";
  showError("");
  submit = work;
  if (!dialog.open) dialog.showModal();
  (asksForToken ? byId("token") : byId("confirm-no")).focus();
}

dialog.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const yes = byId("confirm-yes");
  const given = byId("token").value.trim();
  if (given) token = given;
  yes.disabled = true;
  showError("");
  try {
    await submit();
    if (token) sessionStorage.setItem(STORED, token);
    dialog.close();
  } catch (error) {
    showError(error.status === undefined ? "The dashboard does not answer." : error.message);
    if (error.status === 401) {
      byId("token-field").hidden = false;
      byId("token").focus();
    }
  } finally {
    yes.disabled = false;
  }
});
byId("confirm-no").addEventListener("click", () => dialog.close());

function showError(text) {
  byId("confirm-error").hidden = !text;
  setText(byId("confirm-error"), text);
}

let silence;
function say(text) {
  setText(byId("done"), text);
  clearTimeout(silence);
  silence = setTimeout(() => setText(byId("done"), ""), 8000);
}

/** The token in the URL's fragment, which browsers do not send. It is removed from the URL, and so from the history. */
function tokenFromUrl() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found === null) return null;
  history.replaceState(null, "", location.pathname + location.search);
  sessionStorage.setItem(STORED, found);
  return found;
}
