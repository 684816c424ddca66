// The members as a picture: who leads, to whom the log goes, who is behind or away.

import { svg } from "./dom.js";
import { short } from "./charts.js";

const WIDE = { width: 158, height: 58, gap: 22, rise: 60, name: 16 };
/** Two beside each other on a phone. */
const NARROW = { width: 130, height: 58, gap: 8, rise: 40, name: 13 };

/** Where things are: the leader on top, voters below, read replicas below them. Pure, so that it can be tested. */
export function layout(members, width) {
  const size = width < 2 * WIDE.width + WIDE.gap ? NARROW : WIDE;
  const leader = members.find((member) => member.leader);
  const rest = members.filter((member) => member !== leader);
  const perRow = Math.max(1, Math.floor((width + size.gap) / (size.width + size.gap)));
  const rows = leader ? [[leader]] : [];
  for (const group of [rest.filter((member) => member.voter), rest.filter((member) => !member.voter)]) {
    for (let at = 0; at < group.length; at += perRow) rows.push(group.slice(at, at + perRow));
  }
  const boxes = rows.flatMap((row, level) => {
    const used = row.length * size.width + (row.length - 1) * size.gap;
    return row.map((member, at) => ({ member, x: (width - used) / 2 + at * (size.width + size.gap), y: 6 + level * (size.height + size.rise) }));
  });
  return { boxes, size, height: 12 + rows.length * size.height + Math.max(0, rows.length - 1) * size.rise };
}

/** `members`: `{id, leader, voter, reachable, lag, self}`. */
export function picture(members, width) {
  const { boxes, size, height } = layout(members, width);
  const from = boxes.find(({ member }) => member.leader);
  const links = from ? boxes.filter((box) => box !== from).map((to) => link(from, to, size)) : [];
  const words = members.map(({ id, leader, voter, reachable, lag }) => `${id} ${leader ? "leads" : voter ? "follows" : "is a read replica"}${reachable ? "" : ", not reachable"}${lag ? `, ${lag} entries behind` : ""}`);
  return svg("svg", { class: "members-picture", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words.join("; ") },
    ...links, ...boxes.map((at) => box(at, size)));
}

function link(from, to, size) {
  const [x1, y1, x2, y2] = [from.x + size.width / 2, from.y + size.height, to.x + size.width / 2, to.y];
  const middle = (y1 + y2) / 2;
  const state = !to.member.reachable ? "away" : to.member.lag > 64 ? "behind" : "well";
  const d = `M${x1} ${y1}C${x1} ${middle} ${x2} ${middle} ${x2} ${y2}`;
  return svg("path", { class: `link ${state}`, d });
}

function box({ member, x, y }, size) {
  const { id, leader, voter, reachable, lag, self } = member;
  const role = leader ? "leader" : voter ? "follower" : "replica";
  const state = !reachable ? "not reachable" : lag === null ? role : lag === 0 ? `${role} · up to date` : `${role} · ${short(lag)} behind`;
  const name = id.length > size.name ? `${id.slice(0, size.name - 1)}…` : id;
  return svg("g", { class: `box ${role}${reachable ? "" : " away"}${lag > 64 ? " behind" : ""}`, transform: `translate(${x} ${y})` },
    svg("title", {}, `${id}: ${state}`),
    svg("rect", { width: size.width, height: size.height, rx: 9 }),
    svg("circle", { cx: 18, cy: 21, r: 4.5 }),
    svg("text", { x: 31, y: 25.5, class: "name" }, name),
    svg("text", { x: 14, y: 45, class: "state" }, state),
    self && size === WIDE && svg("text", { x: size.width - 12, y: 25, class: "self" }, "here"));
}
