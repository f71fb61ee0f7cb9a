// The page: follows the pool's events and renders the newest look.

import { askForToken, headers } from "./actions.js";
import { addSample, setHistory, showNumbers } from "./charts.js";
import { byId, setText } from "./dom.js";
import { followEvents } from "./stream.js";
import { renderFailures, renderLanes, renderProblems, renderRequests, renderRoles } from "./tables.js";

let newest = null;
let announced = "";
let bug = "";

function render() {
  if (newest === null) return;
  const { view, outage, requests, failed, more_requests: areMore } = newest;
  byId("outage").hidden = !outage;
  setText(byId("outage"), outage && view !== null ? `${outage} The figures below are older than that.` : outage);
  byId("main").classList.toggle("stale", Boolean(outage));
  if (view === null) return;
  renderHeadline(view);
  renderRoles(view.roles);
  renderLanes(view.lanes);
  if (failed !== null) renderFailures(failuresOf(view, failed));
  renderProblems(view.problems);
  if (requests !== null) renderRequestsOf(view, requests, areMore);
  for (const [id, isEmpty] of [
    ["roles", view.roles.length === 0],
    ["lanes", view.lanes.length === 0],
    ["failures", failed !== null && byId("failures").tBodies[0].rows.length === 0],
    ["requests", requests !== null && byId("requests").tBodies[0].rows.length === 0],
  ]) {
    byId(id).hidden = isEmpty;
    byId(`no-${id}`).hidden = !isEmpty;
  }
  for (const [id, omitted] of [["roles", view.more_roles], ["lanes", view.more_lanes]]) {
    byId(`more-${id}`).hidden = omitted === 0;
    setText(byId(`more-${id}`), `And ${omitted} more, which are no worse.`);
  }
  byId("bug").hidden = true;
}

function renderRequestsOf(view, requests, areMore) {
  renderRequests(requests.filter(matches(byId("filter").value)));
  const none = requests.length ? `None of the ${requests.length} requests matches the filter.` : "No request waits or runs.";
  setText(byId("no-requests"), none);
  const all = view.waiting + view.running + view.delayed;
  byId("more-requests").hidden = !areMore || all <= requests.length;
  setText(byId("more-requests"), `${requests.length} of ${all} requests, those with the nearest deadlines.`);
}

function renderHeadline({ headline, ...view }) {
  byId("headline").dataset.severity = headline.severity;
  setText(byId("sentence"), headline.text);
  setText(byId("why"), headline.why);
  setText(byId("advice"), headline.advice ? `→ ${headline.advice}` : "");
  setText(byId("pool"), view.pool);
  const delayed = view.delayed ? `, ${view.delayed} delayed` : "";
  const lanes = view.lanes.length + view.more_lanes;
  setText(byId("totals"), `${view.waiting} waiting${delayed}, ${view.running} running · ${view.accepting} of ${lanes} lanes up`);
  document.title = `${headline.severity === "ok" ? "" : "⚠ "}${view.waiting} waiting · tokenlane ${view.pool}`;
  const worst = view.roles[0];
  const kind = `${headline.severity} ${worst && worst.severity !== "ok" ? `${worst.name} ${worst.standing}` : ""}`;
  if (kind !== announced) setText(byId("announcement"), headline.text);
  announced = kind;
}

/** The failures of the last minute, and those before of which the pool still knows requests, by role, lane and error. */
function failuresOf(view, failed) {
  const found = new Map();
  const entry = ({ role, code, lane }) => {
    const key = JSON.stringify([role, code, lane]);
    if (!found.has(key)) found.set(key, { key, role, code, lane, requests: 0, newest: [] });
    return found.get(key);
  };
  for (const role of view.roles) {
    for (const failure of role.failures) entry({ role: role.name, ...failure }).requests = failure.requests;
  }
  for (const record of failed) entry(record).newest.push(record);
  return [...found.values()].sort((one, other) => other.requests - one.requests);
}

function matches(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return (request) => {
    const known = [request.id, request.role, request.state, request.lane, request.model, request.waits_for, request.why];
    return words.every((word) => known.some((part) => part.toLowerCase().includes(word)));
  };
}

function setLink(state, text) {
  byId("link").dataset.state = state;
  setText(byId("link"), text);
}

byId("filter").addEventListener("input", render);
byId("numbers").addEventListener("click", ({ currentTarget }) => {
  const wanted = currentTarget.getAttribute("aria-pressed") !== "true";
  currentTarget.setAttribute("aria-pressed", String(wanted));
  showNumbers(wanted);
  render();
});
window.addEventListener("resize", render);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);

// An error of the page itself, such as one in `render`. The console gets it once: each look may repeat it.
window.addEventListener("error", (event) => {
  if (event.message === bug) event.preventDefault();
  bug = event.message;
  setText(byId("bug-error"), bug);
  byId("bug").hidden = false;
  byId("main").classList.add("stale");
  setLink("lost", "this page failed");
});

followEvents(headers, {
  history: setHistory,
  look(look) {
    newest = look;
    if (look.view !== null) addSample(look.view);
    render();
    setLink(look.outage ? "outage" : "live", look.outage ? "no new figures" : "live");
  },
  lost(reason) {
    setLink("lost", `${reason} Trying again.`);
    byId("main").classList.add("stale");
  },
  refused(reason) {
    setLink("lost", "token needed");
    return askForToken(reason);
  },
});
