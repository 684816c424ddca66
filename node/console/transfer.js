// Backups to the user's disk, and files from there.

import { credentials, send } from "./api.js";
import { bytes } from "./cluster.js";
import { byId, download, show } from "./dom.js";
import { may } from "./login.js";
import { seen } from "./monitor.js";

/** What a database file begins with. */
const MAGIC = "SQLite format 3\0";

/** `restored` is called when the database is another one. */
export function startTransfer(restored) {
  startBackup();
  startRestore(restored);
}

/** Shows what the user may do. */
export function allowTransfer() {
  for (const [form, permission] of [["backup", "backup"], ["restore", "load"]]) {
    const allowed = may(permission);
    for (const element of byId(form).elements) if (element.id !== "restore-go") element.disabled = !allowed;
    byId(`${form}-state`).textContent = allowed ? "" : `Your user may not do this (permission “${permission}”).`;
  }
}

function startBackup() {
  const form = byId("backup"), progress = byId("backup-progress"), state = byId("backup-state"), stop = byId("backup-stop");
  const button = form.querySelector("[type=submit]");
  let running = null;
  stop.addEventListener("click", () => running?.abort());
  form.vacuum.addEventListener("change", check);
  form.addEventListener("change", check);
  function check() {
    // SQL text has no free space.
    form.vacuum.disabled = form.fmt.value === "sql";
  }
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const sql = form.fmt.value === "sql", compress = form.compress.checked;
    const query = [sql && "fmt=sql", !sql && form.vacuum.checked && "vacuum", compress && "compress"].filter(Boolean).join("&");
    const expected = !sql && !compress ? Number(seen.status?.store.sqlite3.db_size ?? 0) : 0;
    running = new AbortController();
    busy(true);
    if (expected > 0) progress.max = expected;
    else progress.removeAttribute("value");
    try {
      const answer = await send(`/db/backup?${query}`, { signal: running.signal });
      const reader = answer.body.getReader();
      const pieces = [];
      let read = 0;
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
        pieces.push(piece.value);
        read += piece.value.length;
        if (expected > 0) progress.value = Math.min(read, expected);
        state.textContent = bytes(read);
      }
      const stamp = new Date().toISOString().slice(0, 19).replaceAll(":", "");
      download(`backup-${stamp}.${sql ? "sql" : "sqlite"}${compress ? ".gz" : ""}`, new Blob(pieces), "application/octet-stream");
      state.textContent = `${bytes(read)}, whole.`;
    } catch (error) {
      state.textContent = running.signal.aborted ? "Stopped." : `Not downloaded: ${error.message || "the connection broke"}.`;
    } finally {
      busy(false);
    }
  });
  function busy(on) {
    button.disabled = on;
    show(progress, on);
    show(stop, on);
  }
}

function startRestore(restored) {
  const [form, picked, warning, ask, phrase, typed, go, stop, progress, state] =
    ["restore", "restore-file", "restore-warning", "restore-ask", "restore-phrase", "restore-typed", "restore-go", "restore-stop", "restore-progress", "restore-state"].map(byId);
  let word = null, running = null;
  picked.addEventListener("change", async () => {
    word = null;
    typed.value = "";
    go.disabled = true;
    state.textContent = "";
    const file = picked.files[0];
    if (file) {
      const isDatabase = (await file.slice(0, MAGIC.length).text()) === MAGIC;
      word = isDatabase ? "replace" : "load";
      warning.textContent = isDatabase
        ? `Everything that is in the database now will be gone, on every member. ${file.name} (${bytes(file.size)}) takes its place.`
        : `${file.name} (${bytes(file.size)}) is no SQLite file. It will be run as SQL, all of it or nothing.`;
      phrase.textContent = `Type ${word} to go on`;
      go.textContent = isDatabase ? "Replace the database" : "Run the file";
    }
    show(warning, word !== null);
    show(ask, word !== null);
    if (word) typed.focus();
  });
  typed.addEventListener("input", () => { go.disabled = running !== null || typed.value.trim() !== word; });
  stop.addEventListener("click", () => running?.abort());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (word === null || typed.value.trim() !== word || running) return;
    busy(true);
    state.textContent = "";
    try {
      const answer = await upload(picked.files[0]);
      const failure = answer.error ?? answer.results?.find((result) => result.error)?.error;
      state.textContent = failure ? `Not done: ${failure}` : word === "replace" ? "Done: the database is the one of the file." : "Done.";
      if (!failure) {
        form.reset();
        word = null;
        show(warning, false);
        show(ask, false);
        restored();
      }
    } catch (error) {
      state.textContent = error.message;
    } finally {
      busy(false);
    }
  });
  // fetch() does not tell how much was sent.
  function upload(file) {
    return new Promise((resolve, reject) => {
      running = new XMLHttpRequest();
      running.open("POST", "/db/load");
      for (const [name, value] of Object.entries(credentials())) running.setRequestHeader(name, value);
      running.upload.onprogress = ({ loaded, total }) => {
        progress.max = total || 1;
        progress.value = loaded;
        state.textContent = loaded < total ? `${bytes(loaded)} of ${bytes(total)}` : "All sent; the members take it over …";
      };
      running.onload = () => {
        const { status, responseText } = running;
        if (status === 200) return resolve(JSON.parse(responseText));
        const words = status === 401 ? "you may not do this" : responseText.trim() || `status ${status}`;
        reject(new Error(`Not done: ${words}.`));
      };
      running.onerror = () => reject(new Error("The connection broke before the answer. Look whether it was done."));
      running.onabort = () => reject(new Error("Stopped. If all of it was sent, look whether it was done."));
      running.send(file);
    });
  }
  function busy(on) {
    if (!on) running = null;
    go.disabled = true;
    picked.disabled = on;
    show(progress, on);
    show(stop, on);
    if (!on) typed.dispatchEvent(new Event("input"));
  }
}
