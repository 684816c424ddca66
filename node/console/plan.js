// EXPLAIN QUERY PLAN as a tree.

import { el } from "./dom.js";

/** Whether rows are those of a plan. */
export const isPlan = ({ columns }) => columns?.join() === "id,parent,notused,detail";

/** Rows `[id, parent, unused, detail]` as nested lists. A step without a parent among them is at the top. */
export function planTree(values) {
  const steps = new Map(values.map(([id, parent, , detail]) => [id, { parent, detail: String(detail), children: [] }]));
  const roots = [];
  for (const step of steps.values()) (steps.get(step.parent)?.children ?? roots).push(step);
  return roots;
}

/** What a step costs, in a word: whole tables that are read are what one looks for. */
export function weight(detail) {
  if (/^SCAN (?!.*\bUSING\b.*\bINDEX\b)(?!CONSTANT ROW)/.test(detail)) return "scan";
  if (/^USE TEMP B-TREE/.test(detail) || /\bAUTOMATIC\b/.test(detail)) return "sort";
  if (/^SEARCH\b/.test(detail)) return "search";
  return "step";
}

const WORDS = { scan: "reads all of it", sort: "sorts or builds an index for it", search: "finds it by an index", step: "" };

export function plan(values) {
  const list = (steps) => el("ul", {}, ...steps.map(({ detail, children }) => el("li", {},
    el("span", { class: `step ${weight(detail)}`, title: WORDS[weight(detail)] }, detail),
    children.length > 0 && list(children))));
  return el("div", { class: "plan", tabindex: "0", role: "region", "aria-label": "Query plan" }, list(planTree(values)));
}
