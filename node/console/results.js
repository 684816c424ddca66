// What statements answered: one tab for each, rows as a table, plans as a tree, and files of them.

import { byId, download, el } from "./dom.js";
import { grid, hex } from "./grid.js";
import { writeExact } from "./json.js";
import { isPlan, plan } from "./plan.js";
import { verb } from "./sql.js";

const CHANGES_ROWS = new Set(["INSERT", "REPLACE", "UPDATE", "DELETE", "WITH"]);
/** Results that have a tab; a script may have thousands. */
const TABS = 200;

const place = byId("results");

/** Says what is going on. */
export function showMessage(text, kind = "note") {
  place.replaceChildren(el("p", { class: `message ${kind}`, role: kind === "error" ? "alert" : "status" }, text));
}

/** Shows an answer of `api.run` to `list` of SQL. */
export function showAnswer(list, answer) {
  const { results, error, cut, broken, servedBy, milliseconds } = answer;
  if (error) return showMessage(error, "error");
  const failed = results.findIndex((result) => result.error);
  const withRows = results.findLastIndex((result) => result.columns);
  let at = failed >= 0 ? failed : withRows >= 0 ? withRows : results.length - 1;
  at = Math.min(at, TABS - 1);
  // Read aloud instead of the rows.
  const foot = el("div", { class: "foot", role: "status" });
  const body = el("div", { class: "body" });
  const tabs = el("div", { class: "chips", role: "tablist", "aria-label": "Results" });
  const select = (index) => {
    [...tabs.children].forEach((tab, other) => {
      tab.setAttribute("aria-selected", other === index);
      tab.tabIndex = other === index ? 0 : -1;
    });
    const result = results[index];
    body.replaceChildren(bodyOf(list[index] ?? "", result));
    foot.replaceChildren(...footOf(list[index] ?? "", result, { servedBy, milliseconds, count: results.length }));
  };
  if (results.length > 1) {
    tabs.append(...results.slice(0, TABS).map((result, index) => el("button", {
      role: "tab", class: result.error ? "bad" : "", title: list[index], onclick: () => select(index),
    }, `${index + 1} ${verb(list[index] ?? "")}`, el("small", {}, summary(list[index] ?? "", result)))));
    tabs.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const next = by && tabs.children[[...tabs.children].indexOf(document.activeElement) + by];
      if (next) { next.click(); next.focus(); }
    });
  }
  const notes = [];
  if (cut && !broken) notes.push("The answer is large and was cut off: ask for less, for example with LIMIT.");
  if (broken) notes.push("The answer ended early: this is not all of it.");
  if (results.length > TABS) notes.push(`${results.length} results, of which the first ${TABS} are shown.`);
  const left = list.length - results.length;
  if (left > 0 && !cut) notes.push(`${left} more ${left === 1 ? "statement was" : "statements were"} not run.`);
  place.replaceChildren(...(results.length > 1 ? [tabs] : []), ...notes.map((note) => el("p", { class: "message warn" }, note)), body, foot);
  if (results.length === 0) return showMessage("Nothing to show.");
  select(at);
}

function summary(sql, result) {
  if (result.error) return "failed";
  if (result.columns) return many(result.values?.length ?? 0, "row");
  return CHANGES_ROWS.has(verb(sql)) ? `${many(result.rows_affected ?? 0, "row")} changed` : "done";
}

const many = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

function bodyOf(sql, result) {
  if (result.error) return el("div", { class: "failure", role: "alert" }, el("p", { class: "message error" }, result.error), el("pre", {}, sql));
  if (!result.columns) return el("p", { class: "message ok" }, summary(sql, result), result.last_insert_id && CHANGES_ROWS.has(verb(sql)) ? `, last id ${result.last_insert_id}` : "");
  if (isPlan(result)) return plan(result.values ?? []);
  return grid(result);
}

function footOf(sql, result, { servedBy, milliseconds, count }) {
  const times = `${result.time === undefined ? "" : `${(result.time * 1000).toFixed(result.time < 0.01 ? 2 : 0)} ms in SQLite · `}${milliseconds.toFixed(0)} ms in all`;
  const parts = [el("span", {}, summary(sql, result)), el("span", { class: "quiet" }, times)];
  if (servedBy) parts.push(el("span", { class: "quiet by" }, `by ${servedBy}`));
  parts.push(el("span", { class: "grow" }));
  if (result.columns) {
    const name = `result-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}`;
    parts.push(
      el("button", { class: "small", title: "Download as CSV", onclick: () => download(`${name}.csv`, toCsv(result), "text/csv") }, "CSV"),
      el("button", { class: "small", title: "Download as JSON", onclick: () => download(`${name}.json`, toJson(result), "application/json") }, "JSON"),
    );
  }
  return parts;
}

const blob = (value) => `X'${hex(value)}'`;

/** RFC 4180: NULL is empty, an empty text is "". */
export function toCsv({ columns, values = [] }) {
  const text = (value) => (value === "" || /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const cell = (value) => (value === null || value === undefined ? "" : text(Array.isArray(value) ? blob(value) : String(value)));
  return [columns.map(text), ...values.map((row) => row.map(cell))].map((row) => `${row.join(",")}\r\n`).join("");
}

/** A list of objects; columns that share a name are numbered. BLOBs are written as this API takes them. */
export function toJson({ columns, values = [] }) {
  const seen = new Map();
  const names = columns.map((name) => {
    const count = (seen.get(name) ?? 0) + 1;
    seen.set(name, count);
    return count === 1 ? name : `${name}_${count}`;
  });
  const row = (cells) => `{${names.map((name, at) => `${JSON.stringify(name)}:${writeExact(Array.isArray(cells[at]) ? blob(cells[at]) : cells[at] ?? null)}`).join(",")}}`;
  return `[${values.map(row).join(",\n")}]\n`;
}
