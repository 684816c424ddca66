// Shortcuts, in one list that is also their help.

import { byId, el } from "./dom.js";

/** `[keys, text, does, when]`; keys as `Ctrl+Enter`, of which Ctrl is also ⌘. `when` tells whether it is meant now. */
export function startKeys(shortcuts) {
  const dialog = byId("shortcuts");
  const typing = (target) => /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
  const all = [...shortcuts, ["?", "This list", () => dialog.showModal()], ["Esc", "Close what is open, leave the editor"]];
  byId("shortcuts-list").replaceChildren(...all.flatMap(([keys, text]) => [
    el("dt", {}, ...keys.split("+").flatMap((key, at) => [at > 0 ? "+" : null, el("kbd", {}, key)])), el("dd", {}, text)]));
  byId("help").addEventListener("click", () => dialog.showModal());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && event.target.id === "sql") return event.target.blur();
    if (document.querySelector("dialog[open]")) return;
    const name = [event.ctrlKey || event.metaKey ? "Ctrl" : "", event.altKey ? "Alt" : "", event.shiftKey && event.key.length > 1 ? "Shift" : "", NAMES[event.key] ?? event.key].filter(Boolean).join("+");
    const found = all.find(([keys]) => keys.toLowerCase() === name.toLowerCase());
    if (!found?.[2] || (!name.includes("+") && typing(event.target))) return;
    event.preventDefault();
    found[2]();
  });
}

const NAMES = { ArrowUp: "↑", ArrowDown: "↓", Escape: "Esc" };
