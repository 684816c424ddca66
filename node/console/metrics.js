// Numbers of `/metrics`, and what two readings of them say about the time between.

/** OpenMetrics text as `Map` from name to `[{labels, value}]`. */
export function parseMetrics(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
    if (!found.has(match[1])) found.set(match[1], []);
    found.get(match[1]).push({ labels, value: Number(match[3].replace("Inf", "Infinity")) });
  }
  return found;
}

/** Buckets of a histogram, smallest first: `[{le, count}]`, `count` without those below. */
export function buckets(metrics, name, want = {}) {
  const wanted = ({ labels }) => Object.entries(want).every(([label, value]) => labels[label] === value);
  const sums = new Map();
  for (const { labels, value } of (metrics.get(`${name}_bucket`) ?? []).filter(wanted)) {
    const le = Number(labels.le.replace("Inf", "Infinity"));
    sums.set(le, (sums.get(le) ?? 0) + value);
  }
  let below = 0;
  return [...sums].sort(([a], [b]) => a - b).map(([le, upTo]) => {
    const count = upTo - below;
    below = upTo;
    return { le, count };
  });
}

/** What came between two readings of the same histogram; null if it began anew. */
export function between(before, now) {
  if (before.length !== now.length) return null;
  const difference = now.map(({ le, count }, at) => ({ le, count: count - before[at].count }));
  return difference.some(({ count }) => count < 0) ? null : difference;
}

/** The value below which `share` of the observations are, within a bucket by its share; null without observations. */
export function quantile(share, list) {
  const total = list.reduce((sum, { count }) => sum + count, 0);
  if (total === 0) return null;
  let left = share * total, from = 0;
  for (const { le, count } of list) {
    if (count > 0 && left <= count) return le === Infinity ? from : from + (le - from) * (left / count);
    left -= count;
    if (le !== Infinity) from = le;
  }
  return from;
}
