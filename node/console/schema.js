// Tables, views, indexes and triggers, and what is in each of them.

import { rows } from "./api.js";
import { byId, el } from "./dom.js";
import { setWords } from "./editor.js";
import { quoteName } from "./sql.js";

const OBJECTS = `SELECT type, name, tbl_name AS "table", sql FROM sqlite_schema
  WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_sqlited\\_%' ESCAPE '\\' ORDER BY name COLLATE NOCASE`;
const COLUMNS = `SELECT name, type, "notnull" AS required, dflt_value AS fallback, pk, hidden FROM pragma_table_xinfo(?)`;
const FOREIGN_KEYS = `SELECT "from" AS name, "table" AS target, "to" AS target_column FROM pragma_foreign_key_list(?)`;
// One view that is broken fails all: then there are completions for tables only.
const COLUMN_WORDS = `SELECT DISTINCT p.name FROM sqlite_schema m, pragma_table_info(m.name) p
  WHERE m.type = 'table' AND m.name NOT LIKE '\\_sqlited\\_%' ESCAPE '\\' LIMIT 5000`;
const GROUPS = [["table", "Tables"], ["view", "Views"], ["index", "Indexes"], ["trigger", "Triggers"]];

const tree = byId("schema-tree"), filter = byId("schema-filter");
let objects = [];
let use = () => {};
const opened = new Set();

/** `browse(sql)` runs a statement. */
export function startSchema(browse) {
  use = browse;
  filter.addEventListener("input", draw);
  byId("schema-reload").addEventListener("click", () => read());
}

/** Reads the schema again. */
export async function read() {
  try {
    objects = await rows(OBJECTS);
    draw();
    const columns = await rows(COLUMN_WORDS).catch(() => []);
    setWords([
      ...objects.map(({ name, type }) => ({ word: quoteName(name), kind: type })),
      ...columns.map(({ name }) => ({ word: quoteName(name), kind: "column" })),
    ]);
  } catch (error) {
    objects = [];
    tree.replaceChildren(el("p", { class: "note" }, error.message));
  }
}

/** Forgets it: somebody else may come. */
export function forget() {
  objects = [];
  opened.clear();
  tree.replaceChildren();
  setWords([]);
}

function draw() {
  const wanted = filter.value.toLowerCase();
  const found = objects.filter(({ name, table }) => `${name} ${table}`.toLowerCase().includes(wanted));
  const groups = GROUPS.map(([type, title]) => [title, found.filter((object) => object.type === type)]);
  tree.replaceChildren(...groups.filter(([, list]) => list.length > 0).map(([title, list]) =>
    el("section", {}, el("h2", {}, title, el("small", {}, String(list.length))), ...list.map(entry))));
  if (found.length === 0) tree.append(el("p", { class: "note" }, objects.length === 0 ? "No tables yet." : "Nothing of that name."));
}

function entry(object) {
  const { type, name, table, sql } = object;
  const key = `${type} ${name}`;
  const inside = el("div", { class: "inside" });
  const details = el("details", { open: opened.has(key) }, el("summary", { title: name }, el("span", {}, name),
    table !== name && el("small", {}, table)), inside);
  const fill = async () => {
    if (inside.hasChildNodes()) return;
    const buttons = [];
    if (type === "table" || type === "view") {
      buttons.push(el("button", { class: "small", onclick: () => use(`SELECT * FROM ${quoteName(name)} LIMIT 100;`) }, "First rows"));
      buttons.push(el("button", { class: "small", onclick: () => use(`SELECT count(*) FROM ${quoteName(name)};`) }, "Count"));
      const list = el("ul", { class: "columns-of" }, el("li", { class: "note" }, "…"));
      inside.append(list);
      await fillColumns(list, name);
    }
    inside.append(el("div", { class: "row" }, ...buttons));
    if (sql) inside.append(el("pre", { class: "ddl", tabindex: "0" }, sql));
  };
  details.addEventListener("toggle", () => {
    if (!details.open) return void opened.delete(key);
    opened.add(key);
    fill();
  });
  if (details.open) fill();
  return details;
}

async function fillColumns(list, table) {
  try {
    const [columns, keys] = await Promise.all([rows(COLUMNS, table), rows(FOREIGN_KEYS, table)]);
    list.replaceChildren(...columns.map(({ name, type, required, fallback, pk, hidden }) => {
      const key = keys.find((one) => one.name === name);
      const marks = [
        pk ? "PK" : "", key ? `→ ${key.target}${key.target_column ? `.${key.target_column}` : ""}` : "",
        required && !pk ? "not null" : "", hidden === 2 || hidden === 3 ? "generated" : "", fallback === null ? "" : `= ${fallback}`,
      ].filter(Boolean);
      return el("li", { title: [name, type, ...marks].join(" ") }, el("span", {}, name), el("em", {}, String(type).toLowerCase()), el("small", {}, marks.join(" · ")));
    }));
  } catch (error) {
    list.replaceChildren(el("li", { class: "note" }, error.message));
  }
}
