// The cluster as it is now: facts, picture, each member, what changed.

import { drawCharts, short } from "./charts.js";
import { byId, el } from "./dom.js";
import { forget, lagOf, seen } from "./monitor.js";
import { picture } from "./picture.js";

const EVENTS = 60;
const CONSISTENT = {
  consistent: ["all equal", "ok"], unknown: ["not compared yet", ""], othersDiffer: ["another member differs", "bad"],
  divided: ["no state has a majority", "bad"], minority: ["this member differs", "bad"], damaged: ["a damaged page", "bad"],
};

let known = null;
let width = 0;

export function startCluster() {
  const place = byId("picture");
  new ResizeObserver(() => {
    if (Math.abs(place.clientWidth - width) > 1) drawCluster();
  }).observe(place);
}

/** Forgets it all: somebody else may come. `why`: what stands in its place. */
export function clearCluster(why = "") {
  forget();
  known = null;
  for (const id of ["facts", "picture", "members", "charts", "events"]) byId(id).replaceChildren();
  if (why) byId("picture").append(el("p", { class: "note" }, why));
}

/** Takes news; draws only what can be seen. */
export function take() {
  if (seen.status) note();
  pill();
  if (!byId("view-cluster").hidden) drawCluster();
}

const leaderOf = (nodes) => nodes?.find((node) => node.leader && node.reachable)?.id ?? null;

/** In a word, at the top of every view. */
function pill() {
  const element = byId("pill"), banner = byId("banner");
  const { reachable, status, nodes, message } = seen;
  let state = "ok", text;
  if (reachable === null) [state, text] = ["", "connected"];
  else if (!reachable) [state, text] = ["bad", "no answer"];
  else {
    document.title = `${status.store.node_id} · sqlited`;
    const leader = leaderOf(nodes), away = nodes.filter((node) => !node.reachable).length;
    const { term, consistency } = status.cluster;
    text = leader ? `${leader} leads · term ${term}` : "no leader";
    state = !leader || CONSISTENT[consistency?.state]?.[1] === "bad" ? "bad" : away > 0 ? "warn" : "ok";
    text += ` · ${nodes.length - away}/${nodes.length}`;
  }
  element.className = `pill ${state}`;
  // A live region that is written each second would be read each second.
  const label = byId("pill-text");
  if (label.textContent !== text) label.textContent = text;
  const trouble = reachable === false ? `This member: ${message}. Trying again …` : reachable && text.startsWith("no leader") ? "No member leads at this moment. Writes wait." : "";
  if (banner.textContent !== trouble) banner.textContent = trouble;
  banner.hidden = trouble === "";
}

/** Adds to what happened what differs from the last look. */
function note() {
  const { reachable, status, nodes } = seen;
  if (!reachable) {
    if (known?.reachable) say("this member does not answer", "bad");
    known = { ...known, reachable };
    return;
  }
  const now = {
    reachable, leader: leaderOf(nodes), term: status.cluster.term, consistency: status.cluster.consistency?.state,
    members: new Map(nodes.map((node) => [node.id, node])),
  };
  if (!known?.members) {
    say(now.leader ? `${now.leader} leads in term ${now.term}` : "no member leads", now.leader ? "" : "bad");
  } else {
    if (known.reachable === false) say("this member answers again", "ok");
    if (now.leader !== known.leader) say(now.leader ? `${now.leader} leads in term ${now.term}` : `${known.leader} no longer leads`, now.leader ? "ok" : "bad");
    else if (now.term !== known.term) say(`term ${now.term}`);
    for (const [id, node] of now.members) {
      const before = known.members.get(id);
      if (!before) say(`${id} is a member`, "ok");
      else if (before.reachable !== node.reachable) say(node.reachable ? `${id} can be reached again` : `${id} cannot be reached`, node.reachable ? "ok" : "bad");
      else if (before.voter !== node.voter) say(node.voter ? `${id} votes` : `${id} no longer votes`);
    }
    for (const id of known.members.keys()) if (!now.members.has(id)) say(`${id} was removed`);
    const [words, state] = CONSISTENT[now.consistency] ?? ["", ""];
    if (now.consistency !== known.consistency && state === "bad") say(`databases: ${words}`, "bad");
  }
  known = now;
}

function say(text, state = "") {
  const list = byId("events");
  list.prepend(el("li", { class: state }, el("time", {}, new Date().toLocaleTimeString()), text));
  while (list.children.length > EVENTS) list.lastChild.remove();
}

export function drawCluster() {
  if (!seen.status) return;
  const { status, nodes } = seen;
  const committed = Number(status.cluster.committedIndex);
  const members = nodes.map((node) => ({
    ...node, lag: lagOf(node, committed), self: node.id === status.store.node_id,
    leader: node.leader && node.reachable, milliseconds: node.time === undefined ? null : node.time * 1000,
  }));
  facts(status, members);
  const place = byId("picture");
  width = place.clientWidth;
  place.replaceChildren(picture(members, Math.max(180, width)));
  table(members, status);
  drawCharts(seen.series);
}

function facts(status, members) {
  const { cluster, store } = status;
  const leader = members.find((member) => member.leader)?.id ?? "nobody";
  const [words, state] = CONSISTENT[cluster.consistency?.state] ?? ["unknown", ""];
  const at = cluster.consistency?.index ? ` at ${cluster.consistency.index}` : "";
  const disk = cluster.storage && cluster.storage.capacityBytes > 0 ? `${bytes(cluster.storage.availableBytes)} free` : "";
  const list = [
    ["Leader", leader, leader === "nobody" ? "bad" : ""], ["Term", cluster.term], ["Committed", cluster.committedIndex],
    ["Databases", `${words}${at}`, state], ["Size", bytes(store.sqlite3.db_size)], ["WAL", bytes(store.sqlite3.wal_size)], ["Disk", disk],
    ["This member", store.node_id],
  ];
  byId("facts").replaceChildren(...list.filter(([, value]) => value !== "").map(([name, value, kind]) =>
    el("div", { class: `fact ${kind ?? ""}` }, el("span", {}, name), el("b", {}, String(value)))));
}

const COLUMNS = ["Member", "Role", "Applied", "Behind", "Checksum", "Answers in", "Clients", "Version"];

function table(members, status) {
  const role = (member) => (member.leader ? "leader" : member.voter ? "voter" : "read replica");
  const sum = ({ checksum }) => (checksum ? el("code", { title: `after entry ${checksum.index}` }, `${checksum.sum.slice(0, 8)} @ ${checksum.index}`) : "–");
  const row = (member) => {
    const cells = member.reachable
      ? [String(member.applied_index ?? "–"), member.lag === null ? "–" : short(member.lag), sum(member), `${short(member.milliseconds)} ms`]
      : ["–", "–", "–", el("span", { class: "bad", title: member.error }, "no answer")];
    const all = [el("b", {}, member.id), el("span", { class: `badge ${role(member).replace(" ", "-")}` }, role(member)), ...cells, member.api_addr ?? "", member.version || "–"];
    return el("tr", { class: member.reachable ? "" : "away" }, ...all.map((cell, at) => el("td", { "data-label": COLUMNS[at] }, cell)));
  };
  byId("members").replaceChildren(
    el("thead", {}, el("tr", {}, ...COLUMNS.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, ...members.map(row)));
  byId("members").setAttribute("aria-label", `Members of ${status.cluster.clusterId ?? "the cluster"}`);
}

/** Bytes in few letters. */
export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = Number(count), at = 0;
  while (value >= 1024 && at < units.length - 1) [value, at] = [value / 1024, at + 1];
  return `${value.toFixed(value >= 100 || at === 0 ? 0 : 1)} ${units[at]}`;
}
