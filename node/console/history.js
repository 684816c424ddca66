// What was run, kept by this browser. Only the text of statements is kept: never results, users or passwords.

import { byId, el } from "./dom.js";

const KEY = "sqlited.history";
const MOST = 200;
/** Longer texts are not kept. */
const LONGEST = 20_000;

function load() {
  try {
    const list = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(list) ? list.filter((item) => typeof item?.sql === "string") : [];
  } catch {
    return []; // somebody else wrote there
  }
}

function save(list) {
  try {
    localStorage.setItem(KEY, JSON.stringify(list));
  } catch {
    // No room: the history is a convenience.
  }
}

/** Keeps a text, the newest first, each once. */
export function remember(sql) {
  const text = sql.trim();
  if (text === "" || text.length > LONGEST) return;
  save([{ sql: text, at: Date.now() }, ...load().filter((item) => item.sql !== text)].slice(0, MOST));
}

let step = -1;

/** The text before (1) or after (-1) the one that was shown last, if there is one. */
export function walk(by) {
  const list = load();
  const next = step + by;
  if (next < 0 || next >= list.length) return null;
  step = next;
  return list[step].sql;
}

/** Begins at the newest again. */
export const rewind = () => { step = -1; };

export function startHistory(use) {
  const dialog = byId("history"), filter = byId("history-filter"), list = byId("history-list");
  const draw = () => {
    const wanted = filter.value.toLowerCase();
    const found = load().filter(({ sql }) => sql.toLowerCase().includes(wanted));
    list.replaceChildren(...found.map(({ sql, at }) => el("button", {
      type: "button", onclick: () => { dialog.close(); use(sql); },
    }, el("code", {}, sql), el("small", {}, new Date(at).toLocaleString()))));
    if (found.length === 0) list.append(el("p", { class: "note" }, "Nothing yet."));
  };
  filter.addEventListener("input", draw);
  byId("history-clear").addEventListener("click", () => { save([]); draw(); });
  const open = () => { filter.value = ""; draw(); dialog.showModal(); };
  byId("history-open").addEventListener("click", open);
  return open;
}
