// What an application does with rqlite-js. Where the database is comes by standard input: host port user password, and
// host:port of other members, if they are to be used.
import assert from 'node:assert/strict';
import { createInterface } from 'node:readline';
import rqlite from 'rqlite-js';

const WRITES = 200;
const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const line = async () => (await input.next()).value;

const [host, port, username, password, ...others] = (await line()).split(' ');
const hosts = [`${host}:${port}`, ...others].map((member) => `http://${member}`);
const client = new rqlite.DataApiClient(hosts, { authentication: { username, password } });

async function execute(statements, options) {
  const results = await client.execute(statements, options);
  assert.equal(results.hasError(), false, String(results.getFirstError()));
  return results;
}

await execute('DROP TABLE IF EXISTS js_items');
await execute('CREATE TABLE js_items (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, price REAL)');
const inserted = await execute([['INSERT INTO js_items(name, price) VALUES(:name, :price)', { name: 'lamp', price: 12.5 }]]);
assert.equal(inserted.get(0).getLastInsertId(), 1);
assert.equal(inserted.get(0).getRowsAffected(), 1);
await execute([
  ['INSERT INTO js_items(name, price) VALUES(?, ?)', 'chair', 40],
  ['INSERT INTO js_items(name, price) VALUES(?, ?)', "it's", null],
], { atomic: true });

const rows = (await client.query('SELECT id, name, price FROM js_items ORDER BY id', { level: 'linearizable' })).toArray();
assert.deepEqual(rows, [
  { id: 1, name: 'lamp', price: 12.5 },
  { id: 2, name: 'chair', price: 40 },
  { id: 3, name: "it's", price: null },
]);

const twice = await client.execute([['INSERT INTO js_items(name) VALUES(?)', 'lamp']]);
assert.equal(twice.hasError(), true);
assert.match(String(twice.getFirstError()), /UNIQUE constraint failed: js_items.name/);

await execute('DROP TABLE IF EXISTS js_counts');
await execute('CREATE TABLE js_counts (n INTEGER)');
for (let n = 0; n < WRITES; n += 1) {
  if (n === WRITES / 2) {
    console.log('half');
    await line();
  }
  await execute([['INSERT INTO js_counts VALUES(?)', n]]);
}
const counted = await client.query('SELECT count(*) AS n, count(DISTINCT n) AS d FROM js_counts', { level: 'strong' });
assert.deepEqual(counted.toArray(), [{ n: WRITES, d: WRITES }]);

console.log('done');
process.exit(0);
