// Requests to the member that this page came from. Credentials are in this module's memory and nowhere else.

import { parseExact } from "./json.js";
import { isRead } from "./sql.js";

/** Bytes of an answer that are read; what is behind them is left out. */
const MOST_BYTES = 48 * 1024 * 1024;
/** How long a request goes on without a leader, or without an answer where asking again does no harm. */
const PATIENCE_MS = 30_000;
const PAUSE_MS = 400;

let authorization = null;
let unauthorized = () => {};

/** Why there is no answer. `kind`: `unauthorized`, `unreachable`, `unknown` (a write may have taken effect), `refused`. */
export class ApiError extends Error {
  constructor(kind, message, status = 0) {
    super(message);
    this.kind = kind;
    this.status = status;
  }
}

/** Who asks from now on; without a name nobody in particular. */
export function signIn(user, password) {
  const bytes = new TextEncoder().encode(`${user}:${password}`);
  authorization = user ? `Basic ${btoa(String.fromCharCode(...bytes))}` : null;
}

/** What to do when the member no longer believes who asks. */
export const onUnauthorized = (action) => { unauthorized = action; };

/** The headers that say who asks. */
export const credentials = () => (authorization ? { Authorization: authorization } : {});

/** One request; a status that tells of an error is an `ApiError`. `omit`: the browser shall not ask for a password itself. */
export async function send(path, { method = "GET", body, headers = {}, signal, quiet = false } = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      method, body, signal, cache: "no-store", credentials: "omit", headers: { ...credentials(), ...headers },
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("unreachable", "this member does not answer");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) {
    if (!quiet) unauthorized();
    throw new ApiError("unauthorized", "you may not do this, or are not signed in any more", 401);
  }
  const text = (await answer.text().catch(() => "")).trim();
  throw new ApiError("refused", text || answer.statusText || `status ${answer.status}`, answer.status);
}

/** The answer as JSON, with exact integers. */
export const getJson = async (path, options) => parseExact(await (await send(path, options)).text()).value;

/**
 * Runs statements (`"SQL"` or `["SQL", parameter…]`). `{results, error, cut, servedBy, milliseconds}`; waits for a leader
 * where that does no harm, and says so by `onWait`.
 */
export async function run(list, { level = "weak", transaction = false, signal, onWait = () => {} } = {}) {
  const kinds = list.map((statement) => isRead(typeof statement === "string" ? statement : statement[0]));
  const reads = !kinds.includes(false);
  // Each of the three needs the permissions of what is in it.
  const endpoint = reads ? "query" : kinds.includes(true) ? "request" : "execute";
  const query = `timings&blob_array&level=${encodeURIComponent(level)}${transaction ? "&transaction" : ""}`;
  const options = { method: "POST", body: JSON.stringify(list), headers: { "Content-Type": "application/json" }, signal };
  const path = `/db/${endpoint}?${query}`;
  const started = performance.now();
  for (;;) {
    try {
      const answer = await send(path, options);
      const { text, cut } = await read(answer, MOST_BYTES);
      const { value, cut: broken } = parseExact(text);
      const results = Array.isArray(value?.results) ? value.results : [];
      return {
        results, error: value?.error, cut: cut || broken, broken: broken && !cut,
        servedBy: answer.headers.get("x-rqlite-served-by"), milliseconds: performance.now() - started,
      };
    } catch (error) {
      if (signal?.aborted) throw error;
      const failure = error instanceof ApiError ? error : new ApiError("unreachable", "the connection broke");
      // 503 without a leader: nothing was written. A broken connection says nothing about a write.
      const again = failure.status === 503 || (reads && failure.kind === "unreachable");
      if (failure.kind === "unreachable" && !reads) {
        throw new ApiError("unknown", "The connection broke before the answer. Whether the write took effect is not known: look before you run it again.");
      }
      if (!again || performance.now() - started > PATIENCE_MS) throw failure;
      onWait(failure.message);
      await pause(PAUSE_MS, signal);
    }
  }
}

/** The rows of one query as objects; an error of the statement is thrown. */
export async function rows(sql, ...parameters) {
  const { results, error } = await run([[sql, ...parameters]]);
  const message = error ?? results[0]?.error;
  if (message) throw new ApiError("refused", message);
  const { columns = [], values = [] } = results[0] ?? {};
  return values.map((row) => Object.fromEntries(columns.map((name, at) => [name, row[at]])));
}

async function read(answer, most) {
  const decoder = new TextDecoder();
  const reader = answer.body.getReader();
  const pieces = [];
  for (let bytes = 0; ;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      // Ended early: what came is shown, and that it is not all.
      if (pieces.length === 0) throw error;
      return { text: pieces.join(""), cut: false };
    }
    if (piece.done) return { text: pieces.join("") + decoder.decode(), cut: false };
    bytes += piece.value.length;
    pieces.push(decoder.decode(piece.value, { stream: true }));
    if (bytes > most) {
      await reader.cancel();
      return { text: pieces.join(""), cut: true };
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}
