// Asks this member how the cluster is, once a second while the page is looked at, and tells whoever listens.

import { ApiError, getJson, send } from "./api.js";
import { between, buckets, parseMetrics, quantile } from "./metrics.js";

const PERIOD_MS = 1000;
/** How long a member may take to say who it is before it counts as not reachable. */
const PROBE = "900ms";
/** Points of a plot: two minutes. */
const KEPT = 120;

const listeners = [];
let timer = null;
let running = false;
let asking = null;
let last = null;

/** What is known: `{reachable, status, nodes, at}`, and `series` for the plots. */
export const seen = { reachable: null, status: null, nodes: null, message: "", series: [] };

export const onNews = (listener) => listeners.push(listener);

export function start() {
  running = true;
  document.addEventListener("visibilitychange", look);
  look();
}

export function stop() {
  running = false;
  document.removeEventListener("visibilitychange", look);
  clearTimeout(timer);
  asking?.abort();
  last = null;
}

/** Forgets what was seen. */
export const forget = () => Object.assign(seen, { reachable: null, status: null, nodes: null, message: "", series: [] });

function look() {
  clearTimeout(timer);
  if (!running || document.hidden) return;
  asking?.abort();
  const mine = new AbortController();
  asking = mine;
  // One that was given up for another has no say in when the next one is due.
  ask(mine.signal).finally(() => {
    if (asking === mine && running && !document.hidden) timer = setTimeout(look, PERIOD_MS);
  });
}

async function ask(givenUp) {
  const options = { signal: AbortSignal.any([givenUp, AbortSignal.timeout(5000)]), quiet: true };
  try {
    const [status, nodes, metrics, counters] = await Promise.all([
      getJson("/status", options),
      getJson(`/nodes?ver=2&nonvoters&progress&timeout=${PROBE}`, options),
      send("/metrics", options).then((answer) => answer.text()),
      getJson("/debug/vars?key=http", options),
    ]);
    Object.assign(seen, { reachable: true, status, nodes: nodes.nodes, message: "" });
    remember(status, nodes.nodes, parseMetrics(metrics), counters.http);
  } catch (error) {
    if (givenUp.aborted) return;
    const forbidden = error instanceof ApiError && error.kind === "unauthorized";
    const message = error instanceof ApiError ? error.message : "this member does not answer";
    Object.assign(seen, { reachable: forbidden ? null : false, message });
    if (forbidden) stop();
    // Rates across a gap would be of the gap.
    last = null;
  }
  for (const listener of listeners) listener(seen);
}

function remember(status, nodes, metrics, counters) {
  const now = {
    at: performance.now(),
    reads: counters.queries,
    writes: counters.executions + counters.requests,
    committed: Number(status.cluster.committedIndex),
    latency: buckets(metrics, "sqlited_http_request_duration_seconds", { kind: "sql" }),
  };
  const before = last;
  last = now;
  if (!before) return;
  const seconds = (now.at - before.at) / 1000;
  // A member that started again counts from 0.
  const rate = (name) => (now[name] >= before[name] ? (now[name] - before[name]) / seconds : null);
  const came = between(before.latency, now.latency);
  const at = (share) => {
    const value = came && quantile(share, came);
    return value === null ? null : value * 1000;
  };
  const lag = Object.fromEntries(nodes.map((node) => [node.id, lagOf(node, now.committed)]));
  seen.series.push({ reads: rate("reads"), writes: rate("writes"), entries: rate("committed"), p50: at(0.5), p99: at(0.99), lag });
  if (seen.series.length > KEPT) seen.series.shift();
}

/** Entries that a member has not applied of those that are committed; null if that is not known. */
export function lagOf(node, committed) {
  if (!node.reachable || node.applied_index === undefined || node.applied_index === null) return null;
  return Math.max(0, committed - Number(node.applied_index));
}
