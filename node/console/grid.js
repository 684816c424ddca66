// Rows as a table of which only what is in view is in the page: a million rows scroll as ten do.

import { byId, copy, el } from "./dom.js";

const ROW = 27;
/** Browsers have no taller elements: beyond, a step of the scroll bar is more than one row. */
const TALLEST = 8_000_000;
const AHEAD = 12;
const SAMPLE = 80;
const SHOWN = 300;

/** A value as text and the class of how it looks. BLOBs are arrays of bytes. */
export function shown(value) {
  if (value === null || value === undefined) return { text: "NULL", kind: "null" };
  if (Array.isArray(value)) return { text: `x'${hex(value.slice(0, 24))}${value.length > 24 ? "…" : ""}'  ${value.length} B`, kind: "blob" };
  if (typeof value === "string") return { text: value.length > SHOWN ? `${value.slice(0, SHOWN)}…` : value, kind: value === "" ? "empty" : "text" };
  return { text: String(value), kind: typeof value === "boolean" ? "bool" : "number" };
}

export const hex = (bytes) => bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");

const whole = (value) => (Array.isArray(value) ? `x'${hex(value)}'` : value === null || value === undefined ? "NULL" : String(value));

/** An element with the rows of a result. */
export function grid({ columns, types = [], values = [] }) {
  const widths = columns.map((name, at) => widthOf(name, types[at], values, at));
  const total = widths.reduce((sum, width) => sum + width, 0) + numberWidth(values.length);
  const head = el("tr", {}, el("th", { scope: "col", class: "n", "aria-label": "row" }, ""), ...columns.map((name, at) =>
    el("th", { scope: "col", class: shown(values.find((row) => row[at] !== null)?.[at]).kind === "number" ? "v-number" : "", title: `${name}${types[at] ? ` ${types[at]}` : ""}` }, el("span", {}, name), el("small", {}, types[at] ?? ""))));
  const columnsOf = el("colgroup", {}, el("col"), ...widths.map(() => el("col")));
  [numberWidth(values.length), ...widths].forEach((width, at) => { columnsOf.children[at].style.width = `${width}px`; });
  const body = el("tbody");
  const table = el("table", { class: "grid", "aria-rowcount": values.length + 1, "aria-colcount": columns.length + 1 }, columnsOf, el("thead", {}, head), body);
  table.style.width = `${total}px`;
  const frame = el("div", { class: "frame", tabindex: "0", role: "region", "aria-label": `${values.length} rows` }, table);

  const height = Math.min(values.length * ROW, TALLEST);
  const scale = height === 0 ? 1 : (values.length * ROW) / height;
  let active = { row: 0, column: 0 }, drawnFrom = -1, drawnTo = -1;

  const draw = (force = false) => {
    const fit = Math.ceil((frame.clientHeight || 400) / ROW);
    const first = Math.floor((frame.scrollTop * scale) / ROW);
    const from = Math.max(0, Math.min(first, values.length - fit) - AHEAD);
    const to = Math.min(values.length, first + fit + AHEAD);
    if (!force && from === drawnFrom && to === drawnTo) return;
    [drawnFrom, drawnTo] = [from, to];
    // Where rows are taller than the page can be, those drawn stay beside the place that is looked at.
    const above = scale === 1 ? from * ROW : Math.max(0, frame.scrollTop - (first - from) * ROW);
    const below = Math.max(0, height - above - (to - from) * ROW);
    body.replaceChildren(spacer(above), ...values.slice(from, to).map((row, at) => line(row, from + at)), spacer(below));
    if (document.activeElement === frame) point();
  };
  const spacer = (pixels) => {
    const row = el("tr", { "aria-hidden": "true", class: "spacer" });
    row.style.height = `${pixels}px`;
    return row;
  };
  const line = (row, index) => el("tr", { "aria-rowindex": index + 2 }, el("td", { class: "n" }, String(index + 1)), ...columns.map((_, at) => {
    const { text, kind } = shown(row[at]);
    return el("td", { class: `v-${kind}`, "data-at": `${index}:${at}` }, text);
  }));
  const cell = () => body.querySelector(`[data-at="${active.row}:${active.column}"]`);
  const point = () => {
    body.querySelector(".active")?.classList.remove("active");
    cell()?.classList.add("active");
  };
  const open = () => {
    if (values[active.row]) openCell(columns[active.column], types[active.column], values[active.row][active.column]);
  };
  const move = (rows, cells) => {
    active = {
      row: Math.max(0, Math.min(values.length - 1, active.row + rows)),
      column: Math.max(0, Math.min(columns.length - 1, active.column + cells)),
    };
    const top = (active.row * ROW) / scale, visible = frame.clientHeight - 2 * ROW - 8;
    if (top < frame.scrollTop) frame.scrollTop = top;
    else if (top > frame.scrollTop + visible) frame.scrollTop = top - visible;
    draw();
    point();
    cell()?.scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  frame.addEventListener("scroll", () => draw(), { passive: true });
  new ResizeObserver(() => draw(true)).observe(frame);
  frame.addEventListener("focus", point);
  frame.addEventListener("click", (event) => {
    const at = event.target.closest("td[data-at]")?.dataset.at;
    if (!at || String(getSelection()) !== "") return;
    [active.row, active.column] = at.split(":").map(Number);
    frame.focus({ preventScroll: true });
    point();
  });
  frame.addEventListener("dblclick", (event) => { if (event.target.closest("td[data-at]")) open(); });
  frame.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(frame.clientHeight / ROW) - 3);
    const steps = {
      ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1], PageDown: [page, 0], PageUp: [-page, 0],
      Home: event.ctrlKey ? [-values.length, 0] : [0, -columns.length], End: event.ctrlKey ? [values.length, 0] : [0, columns.length],
    }[event.key];
    if (steps) move(...steps);
    else if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) open();
    else if (event.key.toLowerCase() === "c" && (event.ctrlKey || event.metaKey) && String(getSelection()) === "") copy(whole(values[active.row]?.[active.column]));
    else return;
    event.preventDefault();
  });
  draw(true);
  return frame;
}

const numberWidth = (count) => 26 + 8 * String(count).length;

function widthOf(name, type = "", values, at) {
  let most = name.length + (type ? type.length * 0.8 + 1.5 : 0);
  for (const row of values.slice(0, SAMPLE)) most = Math.max(most, shown(row[at]).text.length);
  return Math.round(Math.min(Math.max(most * 7.6 + 24, 64), 380));
}

/** The whole of one value. */
function openCell(column, type, value) {
  const { kind } = shown(value);
  byId("cell-title").textContent = column;
  const size = Array.isArray(value) ? `${value.length} bytes` : typeof value === "string" ? `${value.length} characters` : "";
  byId("cell-kind").textContent = [kind === "null" ? "NULL" : Array.isArray(value) ? "BLOB" : typeof value === "string" ? "text" : "number", type && `declared ${type}`, size].filter(Boolean).join(" · ");
  byId("cell-value").textContent = whole(value);
  byId("cell-copy").onclick = async (event) => { event.target.textContent = (await copy(whole(value))) ? "Copied" : "Not allowed"; };
  byId("cell-copy").textContent = "Copy";
  byId("cell").showModal();
}
