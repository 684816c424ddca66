// Plots over the last two minutes, as SVG.

import { byId, el, svg } from "./dom.js";

const POINTS = 120;
const HEIGHT = 110, LEFT = 44, TOP = 8, BOTTOM = 16;
const PLOTS = [
  { title: "Requests", unit: "/s", note: "to this member", lines: [["reads", "reads"], ["writes", "writes"]] },
  { title: "Statements", unit: " ms", note: "time to answer, this member", lines: [["median", "p50"], ["99 %", "p99"]] },
  { title: "Log entries", unit: "/s", note: "whole cluster", lines: [["committed", "entries"]] },
  { title: "Lag", unit: "", note: "entries yet to apply", lines: null },
];
const place = byId("charts");
let figures = null;

/** A number in few letters. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(1)}G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(0)}k`;
  if (size >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return value.toFixed(size >= 10 ? 1 : 2);
}

/** The smallest of 1, 2, 5, 10, … that is not below. */
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((top) => top >= value * 0.999);
}

export function drawCharts(series) {
  figures ??= PLOTS.map(() => el("figure", { class: "card chart" }));
  if (!figures[0].isConnected) place.replaceChildren(...figures);
  PLOTS.forEach((plot, at) => figure(figures[at], plot, series));
}

function figure(element, { title, unit, note, lines }, series) {
  const width = Math.max(220, element.clientWidth - 28);
  const names = lines ?? [...new Set(series.flatMap(({ lag }) => Object.keys(lag)))].map((name) => [name, name]);
  const pick = (point, key) => (lines ? point[key] : point.lag[key]) ?? null;
  const top = ceiling(Math.max(0, ...series.flatMap((point) => names.map(([, key]) => pick(point, key) ?? 0))));
  const x = (at) => LEFT + ((POINTS - series.length + at) * (width - LEFT - 4)) / (POINTS - 1);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
  const latest = ([, key]) => series.length ? pick(series.at(-1), key) : null;
  const drawing = svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" },
    ...[0, 0.5, 1].flatMap((share) => [
      svg("line", { x1: LEFT, x2: width, y1: y(top * share), y2: y(top * share), class: "rule" }),
      svg("text", { x: LEFT - 6, y: y(top * share) + 4, class: "tick end" }, short(top * share)),
    ]),
    svg("text", { x: LEFT, y: HEIGHT - 2, class: "tick" }, "2 min ago"),
    svg("text", { x: width, y: HEIGHT - 2, class: "tick end" }, "now"),
    ...names.map(([, key], at) => svg("path", { class: `line line${at % 6}`, d: path(series.map((point) => pick(point, key)), x, y) })));
  const legend = el("div", { class: "legend" }, ...names.map((line, at) => el("span", { class: `key key${at % 6}` }, `${line[0]} `,
    el("b", {}, latest(line) === null ? "–" : `${short(latest(line))}${unit}`))));
  element.replaceChildren(el("figcaption", {}, el("h2", {}, title), el("small", {}, note)), drawing, legend);
}

/** Points without a value are a gap. */
function path(values, x, y) {
  let pen = "M", d = "";
  values.forEach((value, at) => {
    if (value === null) return void (pen = "M");
    d += `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    // A point between two gaps is drawn as one.
    if (pen === "M" && (values[at + 1] ?? null) === null) d += "h0.1";
    pen = "L";
  });
  return d;
}
