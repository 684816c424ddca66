// SQL as far as the console has to know it: tokens for colours, where statements end, which of them only read.

const TOKEN = new RegExp([
  /(?<comment>--[^\n]*|\/\*[^]*?(?:\*\/|$))/,
  /(?<string>[xX]?'(?:[^']|'')*(?:'|$))/,
  /(?<name>"(?:[^"]|"")*(?:"|$)|`(?:[^`]|``)*(?:`|$)|\[[^\]]*(?:\]|$))/,
  /(?<number>0[xX][\da-fA-F]+|(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)?)/,
  /(?<parameter>\?\d*|[:@$][\w\u0080-\uffff]+)/,
  /(?<word>[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*)/,
  /(?<space>\s+)/,
  /(?<other>[^])/,
].map((part) => part.source).join("|"), "gy");

export const KEYWORDS = `ABORT ACTION ADD AFTER ALL ALTER ALWAYS ANALYZE AND AS ASC AUTOINCREMENT BEFORE BEGIN BETWEEN BY
CASCADE CASE CAST CHECK COLLATE COLUMN COMMIT CONFLICT CONSTRAINT CREATE CROSS CURRENT CURRENT_DATE CURRENT_TIME
CURRENT_TIMESTAMP DEFAULT DEFERRABLE DEFERRED DELETE DESC DISTINCT DO DROP EACH ELSE END ESCAPE EXCEPT EXCLUDE EXISTS
EXPLAIN FILTER FIRST FOLLOWING FOR FOREIGN FROM FULL GENERATED GLOB GROUP GROUPS HAVING IF IGNORE IN INDEX INDEXED
INITIALLY INNER INSERT INSTEAD INTERSECT INTO IS ISNULL JOIN KEY LAST LEFT LIKE LIMIT MATCH MATERIALIZED NATURAL NO NOT
NOTHING NOTNULL NULL NULLS OF OFFSET ON OR ORDER OTHERS OUTER OVER PARTITION PLAN PRAGMA PRECEDING PRIMARY QUERY RAISE
RANGE RECURSIVE REFERENCES REGEXP REINDEX RELEASE RENAME REPLACE RESTRICT RETURNING RIGHT ROLLBACK ROW ROWS SELECT SET
STRICT TABLE TEMP TEMPORARY THEN TIES TO TRANSACTION TRIGGER UNBOUNDED UNION UNIQUE UPDATE USING VACUUM VALUES VIEW
VIRTUAL WHEN WHERE WINDOW WITH WITHOUT`.split(/\s+/);
const IS_KEYWORD = new Set(KEYWORDS);

/** The tokens of a text: `{kind, text, start}`; together they are the text. */
export function* tokens(text) {
  TOKEN.lastIndex = 0;
  for (;;) {
    const start = TOKEN.lastIndex;
    const found = TOKEN.exec(text);
    if (!found) return;
    const resume = TOKEN.lastIndex;
    let kind = Object.keys(found.groups).find((name) => found.groups[name] !== undefined);
    if (kind === "word" && IS_KEYWORD.has(found[0].toUpperCase())) kind = "keyword";
    yield { kind, text: found[0], start };
    TOKEN.lastIndex = resume; // somebody may have used it meanwhile
  }
}

const EXPLAIN = new Set(["EXPLAIN", "QUERY", "PLAN"]);

/** Statements with their place: `{sql, start, end}`. Semicolons in the body of a trigger do not end one. */
export function statements(text) {
  const found = [];
  let start = null, end = 0, phase = "start";
  const finish = () => {
    if (start !== null) found.push({ sql: text.slice(start, end), start, end });
    start = null;
    phase = "start";
  };
  for (const token of tokens(text)) {
    if (token.kind === "space" || token.kind === "comment") continue;
    if (token.text === ";") {
      if (phase === "trigger" || phase === "semicolon") {
        phase = "semicolon";
        end = token.start + 1;
      } else finish();
      continue;
    }
    if (start === null) start = token.start;
    end = token.start + token.text.length;
    phase = after(phase, token.text.toUpperCase());
  }
  finish();
  return found;
}

function after(phase, word) {
  if (phase === "start" && EXPLAIN.has(word)) return "start";
  if (phase === "start") return word === "CREATE" ? "create" : "normal";
  if (phase === "create" && (word === "TEMP" || word === "TEMPORARY")) return "create";
  if (phase === "create") return word === "TRIGGER" ? "trigger" : "normal";
  if (phase === "semicolon" && word === "END") return "ended";
  if (phase === "semicolon" || phase === "trigger" || phase === "ended") return "trigger";
  return "normal";
}

/** The statement that the cursor is in, or behind. */
export function statementAt(text, cursor) {
  const all = statements(text);
  return all.find((statement) => cursor <= statement.end + 1) ?? all.at(-1);
}

const VERBS = new Set(["SELECT", "VALUES", "INSERT", "REPLACE", "UPDATE", "DELETE"]);

/** Whether a statement can only read: then it may be asked again, and needs no permission to write. */
export function isRead(sql) {
  let first = null, depth = 0;
  for (const { kind, text } of tokens(sql)) {
    if (kind === "space" || kind === "comment") continue;
    const word = text.toUpperCase();
    if (first === null) {
      first = word;
      if (word === "SELECT" || word === "VALUES" || word === "EXPLAIN") return true;
      if (word !== "WITH" && word !== "PRAGMA") return false;
    }
    if (first === "PRAGMA" && text === "=") return false;
    if (text === "(") depth += 1;
    else if (text === ")") depth -= 1;
    else if (first === "WITH" && depth === 0 && VERBS.has(word)) return word === "SELECT" || word === "VALUES";
  }
  return first === "PRAGMA";
}

/** The first word of a statement. */
export function verb(sql) {
  for (const { kind, text } of tokens(sql)) if (kind !== "space" && kind !== "comment") return text.toUpperCase();
  return "";
}

/** A name as SQL, whatever is in it. */
export const quoteName = (name) => /^[A-Za-z_]\w*$/.test(name) && !IS_KEYWORD.has(name.toUpperCase()) ? name : `"${name.replaceAll('"', '""')}"`;
