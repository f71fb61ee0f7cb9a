// The charts of roles, drawn by uPlot, and the same numbers as a table for those who prefer it.

import { element, setText } from "./dom.js";

const SPAN_MS = 120_000;
const GAP_MS = 5000; // samples come once a second; where they are this far apart, nobody looked in between
const HEIGHT = 36;
const MARKS_S = [120, 90, 60, 30, 0];

const samples = new Map();
let newest = 0;
let asNumbers = window.uPlot === undefined;

/** Take the samples of the last two minutes: for each role, time in ms, waiting, and came and ended per second. */
export function setHistory(history) {
  samples.clear();
  for (const [role, known] of Object.entries(history)) samples.set(role, known);
}

/** Add a look at the roles. */
export function addSample(view) {
  newest = view.time_ms;
  const names = new Set(view.roles.map((role) => role.name));
  for (const role of view.roles) {
    const known = samples.get(role.name) ?? [];
    if (known.length === 0 || known.at(-1)[0] < newest) known.push([newest, role.waiting, role.accepted, role.ended]);
    samples.set(role.name, known.filter((sample) => sample[0] >= newest - SPAN_MS));
  }
  for (const name of samples.keys()) if (!names.has(name)) samples.delete(name);
}

/** Show tables in place of charts, or charts again. Without uPlot there are only tables. */
export function showNumbers(wanted) {
  asNumbers = wanted || window.uPlot === undefined;
}

/**
 * A chart of some columns of a role's samples. `lines`: each with `column`, `name`, `color` (a CSS variable), `factor`.
 * `least`: the value that the chart is high enough for, at least.
 */
export function chart(role, lines, least) {
  const canvas = element("div", { class: "canvas", "aria-hidden": "true" });
  const summary = element("span", { class: "unseen" });
  const table = numbersTable(lines);
  const box = element("div", { class: "chart" }, canvas, summary, table.element);
  let plot = null;
  return {
    element: box,
    update() {
      const known = samples.get(role) ?? [];
      canvas.hidden = asNumbers;
      table.element.hidden = !asNumbers;
      if (asNumbers) table.update(known);
      else plot = draw(canvas, plot, known, lines, least);
      setText(summary, asNumbers ? "" : described(known, lines));
    },
    /** Free the plot: uPlot's listeners on the window would keep it. */
    end() {
      plot?.destroy();
      plot = null;
    },
  };
}

function draw(canvas, plot, known, lines, least) {
  const width = canvas.clientWidth;
  if (!width) return plot;
  const drawn = withGaps(known);
  const valuesOf = ({ column, factor }) => drawn.map((sample) => (sample.length > 1 ? sample[column] * factor : null));
  const data = [drawn.map(([time]) => time), ...lines.map(valuesOf)];
  if (plot === null) return new window.uPlot(options(width, lines, least), data, canvas);
  if (plot.width !== width) plot.setSize({ width, height: HEIGHT });
  plot.setData(data);
  return plot;
}

/** The samples, with one that has only a time in each gap, where uPlot interrupts its line. */
function withGaps(known) {
  return known.flatMap((sample, index) => {
    const isAfterGap = index > 0 && sample[0] - known[index - 1][0] > GAP_MS;
    return isAfterGap ? [[sample[0] - 1], sample] : [sample];
  });
}

function options(width, lines, least) {
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
  return {
    width,
    height: HEIGHT,
    padding: [3, 1, 1, 1],
    legend: { show: false },
    cursor: { show: false },
    axes: [{ show: false }, { show: false }],
    scales: {
      x: { time: false, range: () => [newest - SPAN_MS, newest] },
      y: { range: (_, _low, high) => [0, Math.max(least, high) * 1.05] },
    },
    series: [
      {},
      ...lines.map((line) => ({
        label: line.name,
        stroke: () => color(line.color),
        fill: line.fill ? () => color(line.fill) : undefined,
        width: 1.5,
        points: { show: false },
      })),
    ],
  };
}

function valueAt(known, secondsAgo, line) {
  const time = newest - 1000 * secondsAgo;
  const sample = known.findLast((each) => each[0] <= time + 500);
  const isMissing = sample === undefined || time - sample[0] > GAP_MS;
  return isMissing ? "–" : (sample[line.column] * line.factor).toFixed(line.digits);
}

function described(known, lines) {
  const parts = lines.map((line) => `${line.name} ${valueAt(known, 60, line)} a minute ago, ${valueAt(known, 0, line)} now`);
  return parts.join("; ");
}

function numbersTable(lines) {
  const head = MARKS_S.map((seconds) => element("th", { scope: "col" }, seconds ? `−${seconds} s` : "now"));
  const bodies = lines.map((line) => {
    const cells = MARKS_S.map(() => element("td"));
    return { line, cells, row: element("tr", {}, element("th", { scope: "row" }, line.name), ...cells) };
  });
  const made = element(
    "table",
    { class: "numbers" },
    element("thead", {}, element("tr", {}, element("td"), ...head)),
    element("tbody", {}, ...bodies.map((body) => body.row)),
  );
  return {
    element: made,
    update(known) {
      for (const { line, cells } of bodies) {
        MARKS_S.forEach((seconds, index) => setText(cells[index], valueAt(known, seconds, line)));
      }
    },
  };
}
