// The tables of the page: one function for each, which renders the items that it is given.

import { confirmAction } from "./actions.js";
import { chart } from "./charts.js";
import { age, byId, cell, element, rows, setText } from "./dom.js";

const WAITING = [{ column: 1, name: "waiting", color: "--waiting", fill: "--waiting-fill", factor: 1, digits: 0 }];
const LEAST_WAITING = 10; // the height of a chart of fewer: one waiting request is no backlog
const FLOW = [
  { column: 2, name: "came", color: "--came", factor: 60, digits: 1 },
  { column: 3, name: "ended", color: "--ended", factor: 60, digits: 1 },
];

const body = (id) => byId(id).tBodies[0];
const badge = () => element("span", { class: "badge" });

function setBadge(target, text, severity) {
  setText(target, text);
  target.dataset.severity = severity;
}

function button(text, onclick) {
  return element("button", { type: "button", onclick }, text);
}

function perMinute(perSecond) {
  return (60 * perSecond).toFixed(60 * perSecond < 9.95 ? 1 : 0);
}

export const renderRoles = rows(body("roles"), (role) => role.name, (first) => {
  let role = first;
  const standing = badge();
  const waiting = cell("Waiting", "number");
  const oldest = cell("Oldest", "number");
  const running = cell("Running", "number");
  const why = cell("Waits for", "why");
  const depth = chart(first.name, WAITING, LEAST_WAITING);
  const flow = chart(first.name, FLOW, 1);
  const came = element("span", { class: "came" }); // in the colours of the chart's lines
  const ended = element("span", { class: "ended" });
  const act = button("", () => {
    if (role.is_paused) {
      confirmAction(`Resume role ${role.name}?`, "Its requests start again.", "Resume", { action: "resume", role: role.name });
    } else {
      const text = "Its requests wait until it is resumed. The pool still accepts them, and requests that run go on.";
      confirmAction(`Pause role ${role.name}?`, text, "Pause", { action: "pause", role: role.name });
    }
  });
  const row = element(
    "tr", {},
    element("th", { scope: "row" }, element("span", { class: "name" }, first.name), standing),
    waiting, oldest, running, why,
    cell("Waiting, last 2 min", "plot", depth.element),
    cell("Per minute, last 2 min", "plot", element("span", { class: "rates" }, came, ", ", ended), flow.element),
    cell("", "actions", act),
  );
  return {
    row,
    update(next) {
      role = next;
      row.dataset.severity = role.severity;
      setBadge(standing, role.standing, role.severity);
      setText(waiting, role.waiting);
      setText(oldest, age(role.oldest_ms));
      setText(running, role.running);
      setText(why, role.waits_for || "–");
      setText(came, `${perMinute(role.accepted)} came`);
      setText(ended, `${perMinute(role.ended)} ended`);
      depth.update();
      flow.update();
      setText(act, role.is_paused ? "Resume" : "Pause");
      act.setAttribute("aria-label", `${role.is_paused ? "Resume" : "Pause"} role ${role.name}`);
    },
    end() {
      depth.end();
      flow.end();
    },
  };
});

export const renderLanes = rows(body("lanes"), (lane) => lane.name, (first) => {
  let lane = first;
  const state = badge();
  const bar = element("span", { class: "filled" });
  const load = element("span");
  const tokens = cell("Tokens/s", "number");
  const why = cell("Why", "why");
  const models = element("ul", { class: "models" });
  const renderModels = rows(models, (name) => name, (name) => modelRow(first.name, name, () => lane.loads));
  const act = button("", () => {
    if (lane.is_drained) {
      confirmAction(`Resume lane ${lane.name}?`, "It gets new work again.", "Resume", { action: "resume", lane: lane.name });
    } else {
      const text = "It gets no new work until it is resumed. Requests that run there go on.";
      confirmAction(`Drain lane ${lane.name}?`, text, "Drain", { action: "drain", lane: lane.name });
    }
  });
  const row = element(
    "tr", {},
    element("th", { scope: "row" }, element("span", { class: "name" }, first.name), state),
    cell("Load", "load", element("span", { class: "bar", "aria-hidden": "true" }, bar), load),
    tokens, cell("Models", "", models), why, cell("", "actions", act),
  );
  return {
    row,
    update(next) {
      lane = next;
      row.dataset.severity = lane.severity;
      setBadge(state, lane.state, lane.severity);
      const taken = lane.running + lane.queued;
      bar.style.width = `${lane.limit ? Math.min(100, (100 * taken) / lane.limit) : 0}%`;
      setText(load, lane.limit ? `${taken} of ${lane.limit}` : `${taken}`);
      setText(tokens, lane.tokens_per_s === null ? "–" : lane.tokens_per_s.toFixed(0));
      setText(why, lane.why || (lane.error ? `last error: ${lane.error}` : ""));
      renderModels(lane.models);
      setText(act, lane.is_drained ? "Resume" : "Drain");
      act.setAttribute("aria-label", `${lane.is_drained ? "Resume" : "Drain"} lane ${lane.name}`);
    },
  };
});

/** A model of a lane. `loads()`: whether the lane now loads and unloads models on command. */
function modelRow(lane, model, loads) {
  const change = (action, verb, text) => {
    const made = button(verb, () => confirmAction(`${verb} model ${model}?`, text, verb, { action, lane, model }));
    made.setAttribute("aria-label", `${verb} model ${model} on lane ${lane}`);
    return made;
  };
  const buttons = [
    change("load", "Load", `Lane ${lane} loads it into memory, which may take minutes.`),
    change("unload", "Unload", `Lane ${lane} frees its memory. The next request for it loads it again.`),
  ];
  return {
    row: element("li", {}, element("span", { class: "name" }, model), ...buttons),
    update() {
      for (const each of buttons) each.hidden = !loads();
    },
  };
}

const STATE_SEVERITY = { running: "ok", dispatched: "ok", waiting: "none", delayed: "warn" };

export const renderRequests = rows(body("requests"), (request) => request.id, (first) => {
  const role = cell("Role");
  const state = badge();
  const stateCell = cell("State", "", state);
  const old = cell("Age", "number");
  const place = cell("Place");
  const where = cell("Lane, or waits for", "why");
  const act = button("Cancel", () => {
    const text = `A request of role ${first.role}. Its agent gets the error "cancelled".`;
    confirmAction(`Cancel request ${first.id.slice(0, 8)}?`, text, "Cancel it", { action: "cancel", request: first.id });
  });
  act.setAttribute("aria-label", `Cancel request ${first.id.slice(0, 8)} of role ${first.role}`);
  const row = element(
    "tr", {},
    element("th", { scope: "row", title: first.id }, element("code", {}, first.id.slice(0, 8))),
    role, stateCell, old, place, where, cell("", "actions", act),
  );
  return {
    row,
    update(request) {
      setText(role, request.priority && request.priority !== "normal" ? `${request.role} (${request.priority})` : request.role);
      setBadge(state, request.is_stopping ? "stopping" : request.state, STATE_SEVERITY[request.state] ?? "none");
      setText(old, age(request.age_ms));
      const starts = request.starts_in ? `, starts in ${request.starts_in}` : "";
      setText(place, request.position === null ? "–" : `${request.position} of ${request.in_queue}${starts}`);
      const lane = request.lane ? `${request.lane}${request.model ? ` with ${request.model}` : ""}` : "–";
      const tries = request.starts > 1 ? `, attempt ${request.starts}` : "";
      setText(where, request.waits_for || `${lane}${tries}`);
      where.title = request.why;
    },
  };
});

export const renderFailures = rows(body("failures"), (failure) => failure.key, (first) => {
  const count = cell("In the last minute", "number");
  const newest = cell("Newest requests", "why");
  const row = element(
    "tr", {},
    element("th", { scope: "row" }, first.role), cell("Error", "", element("code", {}, first.code)),
    cell("Lane", "", first.lane || "–"), count, newest,
  );
  return {
    row,
    update(failure) {
      setText(count, failure.requests || "–");
      const requests = failure.newest.slice(0, 3).map((each) => `${each.id.slice(0, 8)} ${age(each.ended_ms)} ago`);
      setText(newest, requests.join(", "));
    },
  };
});

export const renderProblems = rows(byId("problems"), (problem) => problem.text, (first) => ({
  row: element("li", { "data-severity": first.severity }, [first.text, first.advice].filter(Boolean).join(" → ")),
  update() {},
}));
