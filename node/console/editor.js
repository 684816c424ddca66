// The editor: a text area over a coloured copy of its text, and completions.

import { byId, el, show } from "./dom.js";
import { KEYWORDS, statementAt, statements, tokens } from "./sql.js";

const DRAFT = "sqlited.draft";
/** Longer texts are not coloured: that is done again with each key. */
const COLOURED = 100_000;
const CHOICES = 8;

const area = byId("sql"), ink = byId("ink"), choices = byId("choices");
let words = [];
let chosen = 0;

/** Names that complete, besides SQL's own. */
export function setWords(names) {
  const keywords = KEYWORDS.map((word) => ({ word, kind: "SQL" }));
  words = [...names, ...keywords];
}

export const text = () => area.value;

/** Puts a text into the editor; it can be undone. */
export function setText(value) {
  area.focus();
  area.select();
  insert(value);
}

/** What is to be run: the selection, else everything, as statements. */
export function selected() {
  const { selectionStart: from, selectionEnd: to, value } = area;
  return statements(from === to ? value : value.slice(from, to));
}

/** The statement at the cursor. */
export const current = () => [statementAt(area.value, area.selectionStart)].filter(Boolean);

export function startEditor() {
  setWords([]);
  area.value = sessionStorage.getItem(DRAFT) ?? "";
  area.addEventListener("input", () => { draw(); offer(); });
  area.addEventListener("scroll", follow);
  area.addEventListener("keydown", key);
  area.addEventListener("blur", () => show(choices, false));
  area.addEventListener("pointerdown", () => show(choices, false));
  new ResizeObserver(follow).observe(area);
  draw();
}

function insert(value) {
  // The old command is the only way that keeps the browser's undo; where it is gone the text is replaced.
  if (!document.execCommand("insertText", false, value)) {
    area.setRangeText(value, area.selectionStart, area.selectionEnd, "end");
    area.dispatchEvent(new Event("input"));
  }
}

function draw() {
  const value = area.value;
  sessionStorage.setItem(DRAFT, value);
  if (value.length > COLOURED) ink.replaceChildren(value);
  else {
    ink.replaceChildren(...[...tokens(value)].map(({ kind, text }) =>
      (kind === "space" || kind === "word" || kind === "other" ? text : el("span", { class: `t-${kind}` }, text))));
  }
  // A text that ends with a newline has one line more in a text area than in a block.
  ink.append("\n");
  follow();
}

function follow() {
  ink.scrollTop = area.scrollTop;
  ink.scrollLeft = area.scrollLeft;
}

function key(event) {
  if (!choices.hidden) {
    const count = choices.children.length;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      return mark((chosen + (event.key === "ArrowDown" ? 1 : count - 1)) % count);
    }
    if ((event.key === "Enter" && !event.ctrlKey && !event.metaKey && !event.altKey) || event.key === "Tab") {
      event.preventDefault();
      return take(chosen);
    }
    if (event.key === "Escape") {
      event.stopPropagation();
      return show(choices, false);
    }
  }
  if (event.key === " " && event.ctrlKey) {
    event.preventDefault();
    offer(true);
  }
}

/** The word before the cursor. */
function typed() {
  const before = area.value.slice(0, area.selectionStart);
  return /[\w\u0080-\uffff]*$/.exec(before)[0];
}

function offer(asked = false) {
  const start = typed(), low = start.toLowerCase();
  const next = area.value[area.selectionStart] ?? "";
  const wanted = (asked || start.length >= 2) && !/\w/.test(next) && area.selectionStart === area.selectionEnd;
  const inText = [...tokens(area.value.slice(0, area.selectionStart))].at(-1);
  const found = !wanted || ["string", "comment", "number"].includes(inText?.kind) ? []
    : words.filter(({ word }) => word.toLowerCase().startsWith(low) && word.toLowerCase() !== low).slice(0, CHOICES);
  show(choices, found.length > 0);
  if (found.length === 0) return;
  choices.replaceChildren(...found.map(({ word, kind }, at) => el("li", {
    role: "option", id: `choice-${at}`, onpointerdown: (event) => { event.preventDefault(); take(at); },
  }, el("span", {}, word), el("small", {}, kind))));
  place();
  mark(0);
}

function mark(at) {
  chosen = at;
  [...choices.children].forEach((item, index) => item.setAttribute("aria-selected", index === at));
  area.setAttribute("aria-activedescendant", `choice-${at}`);
}

function take(at) {
  const word = choices.children[at].firstChild.textContent;
  const start = typed();
  area.setSelectionRange(area.selectionStart - start.length, area.selectionStart);
  const lower = start !== "" && start === start.toLowerCase() && KEYWORDS.includes(word);
  insert(lower ? word.toLowerCase() : word);
  show(choices, false);
}

/** Under the cursor: lines do not wrap and letters have one width. */
function place() {
  const before = area.value.slice(0, area.selectionStart - typed().length).split("\n");
  const style = getComputedStyle(area);
  const probe = el("span", { class: "probe" }, "0".repeat(100));
  ink.append(probe);
  const width = probe.getBoundingClientRect().width / 100;
  probe.remove();
  const line = parseFloat(style.lineHeight);
  const left = parseFloat(style.paddingLeft) + before.at(-1).length * width - area.scrollLeft;
  const top = parseFloat(style.paddingTop) + before.length * line - area.scrollTop;
  choices.style.left = `${Math.max(0, Math.min(left, area.clientWidth - 190))}px`;
  choices.style.top = `${Math.min(top, area.clientHeight)}px`;
}
