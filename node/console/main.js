// Puts the parts together: views, running statements, shortcuts.

import { ApiError, run } from "./api.js";
import { clearCluster, drawCluster, startCluster, take } from "./cluster.js";
import { byId, show } from "./dom.js";
import { current, selected, setText, startEditor, text } from "./editor.js";
import { remember, rewind, startHistory, walk } from "./history.js";
import { startKeys } from "./keys.js";
import { may, startLogin } from "./login.js";
import { onNews, start as startMonitor, stop as stopMonitor } from "./monitor.js";
import { showAnswer, showMessage } from "./results.js";
import { forget, read as readSchema, startSchema } from "./schema.js";
import { startTheme } from "./theme.js";
import { allowTransfer, startTransfer } from "./transfer.js";
import { verb } from "./sql.js";

const VIEWS = ["query", "cluster", "data"];
const CHANGES_SCHEMA = new Set(["CREATE", "DROP", "ALTER"]);
let running = null;

function view(name) {
  for (const other of VIEWS) {
    show(byId(`view-${other}`), other === name);
    const tab = byId(`tab-${other}`);
    tab.setAttribute("aria-selected", other === name);
    tab.tabIndex = other === name ? 0 : -1;
  }
  if (location.hash.slice(1) !== name) history.replaceState(null, "", `#${name}`);
  if (name === "cluster") drawCluster();
  if (name === "query") byId("sql").focus({ preventScroll: true });
}

/** Runs statements; while they run the button stops them. */
async function execute(list, prefix = "") {
  if (running) return;
  if (list.length === 0) return showMessage("There is nothing to run: write a statement.");
  const button = byId("run"), sql = list.map((statement) => `${prefix}${statement.sql}`);
  running = new AbortController();
  button.textContent = "Stop";
  showMessage("Running …", "busy");
  remember(text());
  rewind();
  try {
    const options = { level: byId("level").value, transaction: byId("transaction").checked, signal: running.signal };
    const answer = await run(sql, { ...options, onWait: (why) => showMessage(`Waiting: ${why} …`, "busy") });
    showAnswer(sql, answer);
    if (sql.some((one) => CHANGES_SCHEMA.has(verb(one)))) readSchema();
  } catch (error) {
    if (running.signal.aborted) showMessage("Stopped. A write may have taken effect all the same.", "warn");
    else if (error instanceof ApiError) showMessage(error.message, error.kind === "unknown" ? "warn" : "error");
    else throw error;
  } finally {
    running = null;
    button.textContent = "Run";
  }
}

const runSelected = () => execute(selected());
const explain = () => execute(selected().map((statement) => ({ sql: statement.sql.replace(/^\s*EXPLAIN\s+(QUERY\s+PLAN\s+)?/i, "") })), "EXPLAIN QUERY PLAN ");

function browse(sql) {
  setText(sql);
  toggleSchema(false);
  runSelected();
}

function toggleSchema(open = !byId("schema").classList.contains("open")) {
  byId("schema").classList.toggle("open", open);
  byId("schema-toggle").setAttribute("aria-expanded", open);
}

function step(by) {
  const sql = walk(by);
  if (sql !== null) setText(sql);
}

function startViews() {
  VIEWS.forEach((name) => byId(`tab-${name}`).addEventListener("click", () => view(name)));
  document.querySelector(".tabs").addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const at = VIEWS.findIndex((name) => !byId(`view-${name}`).hidden);
    const next = VIEWS[(at + by + VIEWS.length) % VIEWS.length];
    view(next);
    byId(`tab-${next}`).focus();
  });
  byId("pill").addEventListener("click", () => view("cluster"));
  byId("run").addEventListener("click", () => (running ? running.abort() : runSelected()));
  byId("explain").addEventListener("click", explain);
  byId("schema-toggle").addEventListener("click", () => toggleSchema());
  byId("schema-close").addEventListener("click", () => toggleSchema(false));
  byId("schema").addEventListener("keydown", (event) => { if (event.key === "Escape") toggleSchema(false); });
  const fromAddress = () => view(VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "query");
  addEventListener("hashchange", fromAddress);
  fromAddress();
}

function enter() {
  if (may("query")) readSchema();
  allowTransfer();
  if (may("status")) startMonitor();
  else {
    byId("pill-text").textContent = "connected";
    clearCluster("Your user may not see the cluster (permission “status”).");
  }
  showMessage("Results come here.");
}

function leave() {
  running?.abort();
  stopMonitor();
  clearCluster();
  forget();
  showMessage("");
}

startTheme();
startEditor();
startCluster();
startViews();
startSchema(browse);
startTransfer(readSchema);
const openHistory = startHistory((sql) => setText(sql));
startKeys([
  ["Ctrl+Enter", "Run the selection, or everything", runSelected],
  ["Alt+Enter", "Run the statement at the cursor", () => execute(current())],
  ["Ctrl+Shift+Enter", "Explain the selection, or everything", explain],
  ["Alt+↑", "What was run before", () => step(1)],
  ["Alt+↓", "What was run after that", () => step(-1)],
  ["Ctrl+K", "History", openHistory],
  ["Ctrl+Space", "Complete a name"],
  ["/", "To the editor", () => view("query")],
  ["1", "Query", () => view("query")],
  ["2", "Cluster", () => view("cluster")],
  ["3", "Backup", () => view("data")],
  ["T", "Dark or light", () => byId("theme").click()],
]);
onNews(take);
startLogin(enter, leave);
