// JSON without losses: integers beyond 2^53 become BigInt, and a text that was cut off gives what is whole in it.

const LONG = /\d{16}/;

/** `{value, cut}`: `cut` says that the text ended early. */
export function parseExact(text) {
  if (!LONG.test(text)) {
    try {
      return { value: JSON.parse(text), cut: false };
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
    }
  }
  return new Parser(text).run();
}

/** The reverse: BigInt as digits. */
export function writeExact(value) {
  if (typeof value === "bigint") return value.toString();
  if (Array.isArray(value)) return `[${value.map(writeExact).join(",")}]`;
  if (value !== null && typeof value === "object") {
    return `{${Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}:${writeExact(item)}`).join(",")}}`;
  }
  return JSON.stringify(value);
}

class Cut extends Error {}

const STRING = /"(?:[^"\\\u0000-\u001f]|\\.)*"/y;
const NUMBER = /-?\d+(\.\d+)?([eE][+-]?\d+)?/y;
const SPACE = /[ \t\r\n]*/y;
const WORDS = [["true", true], ["false", false], ["null", null]];

class Parser {
  constructor(text) {
    this.text = text;
    this.at = 0;
    this.root = undefined;
  }

  run() {
    try {
      this.value((value) => { this.root = value; });
    } catch (error) {
      if (!(error instanceof Cut)) throw error;
      return { value: this.root, cut: true };
    }
    if (this.next() !== undefined) throw new SyntaxError(`unexpected text at ${this.at}`);
    return { value: this.root, cut: false };
  }

  match(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found) this.at = pattern.lastIndex;
    return found;
  }

  next() {
    this.match(SPACE);
    return this.text[this.at];
  }

  expect(char) {
    const found = this.next();
    if (found === undefined) throw new Cut();
    if (found !== char) throw new SyntaxError(`unexpected ${found} at ${this.at}`);
    this.at += 1;
  }

  // Containers are put into place before they are filled, so that what was read stays when the text ends.
  value(put) {
    const char = this.next();
    if (char === undefined) throw new Cut();
    if (char === "{") return this.object(put);
    if (char === "[") return this.array(put);
    if (char === '"') return put(this.string());
    for (const [word, value] of WORDS) {
      if (this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return put(value);
      }
      if (word.startsWith(this.text.slice(this.at))) throw new Cut();
    }
    return put(this.number());
  }

  string() {
    const found = this.match(STRING);
    if (!found) throw new Cut();
    return JSON.parse(found[0]);
  }

  number() {
    const found = this.match(NUMBER);
    if (!found) {
      if (this.text.slice(this.at) === "-") throw new Cut();
      throw new SyntaxError(`unexpected ${this.text[this.at]} at ${this.at}`);
    }
    // A number at the very end may have lost digits.
    if (this.at === this.text.length && this.root !== undefined) throw new Cut();
    const [digits, fraction, exponent] = found;
    const number = Number(digits);
    if (fraction === undefined && exponent === undefined && !Number.isSafeInteger(number)) return BigInt(digits);
    return number;
  }

  array(put) {
    const items = [];
    put(items);
    this.at += 1;
    if (this.next() === "]") return void (this.at += 1);
    for (;;) {
      this.value((item) => items.push(item));
      const char = this.next();
      if (char === "]") return void (this.at += 1);
      this.expect(",");
    }
  }

  object(put) {
    const members = {};
    put(members);
    this.at += 1;
    if (this.next() === "}") return void (this.at += 1);
    for (;;) {
      const start = this.next();
      if (start === undefined) throw new Cut();
      if (start !== '"') throw new SyntaxError(`unexpected ${start} at ${this.at}`);
      const name = this.string();
      this.expect(":");
      // Defined, not assigned: a member may be called __proto__.
      this.value((item) => Object.defineProperty(members, name, { value: item, enumerable: true, configurable: true, writable: true }));
      const char = this.next();
      if (char === "}") return void (this.at += 1);
      this.expect(",");
    }
  }
}
