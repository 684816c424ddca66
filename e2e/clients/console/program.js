// The console in Debian's Chromium: what a person does with it, and what must never happen. Where the member is comes by
// standard input: host port user password. CONSOLE_SCREENSHOTS names a directory for pictures.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';
import { modules } from './modules.js';

const PATIENCE = 20_000;
// Bytes of the whole page on its way to a browser.
const MOST = 150 * 1024;
const HOSTILE = `<img src=x onerror="window.hacked=1">`;
const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const line = async () => (await input.next()).value;
const [host, port, user, password] = (await line()).split(' ');
const base = `http://${host}:${port}`;
const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const pictures = process.env.CONSOLE_SCREENSHOTS;

// Chromium's own sandbox needs what a test machine's root does not have.
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox', '--disable-quic'] });
const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, colorScheme: 'dark', acceptDownloads: true });
context.setDefaultTimeout(PATIENCE);
const page = await context.newPage();
const wrong = [];
function watch(page) {
  page.on('pageerror', (error) => wrong.push(`error: ${error.message}`));
  page.on('request', (request) => { if (!request.url().startsWith(base) && !request.url().startsWith('blob:')) wrong.push(`asked ${request.url()}`); });
  page.on('console', (message) => { if (/Content Security|Trusted/i.test(message.text())) wrong.push(message.text()); });
}
watch(page);
// Somebody else, with nothing of this browser's cache.
async function another(device) {
  const context = await browser.newContext(device);
  context.setDefaultTimeout(PATIENCE);
  const page = await context.newPage();
  watch(page);
  return page;
}

const step = (name) => console.log(name);
const has = (selector, text) => page.locator(selector, { hasText: text }).first().waitFor();
async function run(sql) {
  await page.fill('#sql', sql);
  await page.keyboard.press('Control+Enter');
  await page.waitForFunction(() => document.querySelector('#run').textContent === 'Run' && !document.querySelector('.message.busy'));
}
async function picture(name) {
  const png = await page.screenshot(pictures ? { path: join(pictures, `${name}.png`) } : {});
  assert(png.length > 10_000, name);
}
const cells = (row) => page.locator(`[aria-rowindex="${row + 1}"] td:not(.n)`).allTextContents();
async function accessible(what) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
  assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`), [], what);
}

step('a wrong password');
const loading = await context.newCDPSession(page);
await loading.send('Network.enable');
let received = 0;
loading.on('Network.loadingFinished', ({ encodedDataLength }) => { received += encodedDataLength; });
const began = performance.now();
await page.goto(`${base}/console/`);
await has('#login-title', 'Sign in');
console.log(`the page is there after ${Math.round(performance.now() - began)} ms and ${received} bytes`);
assert(received > 0 && received <= MOST, `${received} bytes`);
await loading.detach();
await accessible('login');
await page.fill('#login-user', user);
await page.fill('#login-password', `${password}x`);
await page.keyboard.press('Enter');
await has('#login-error', 'Wrong user name or password');
await page.fill('#login-password', password);
await page.keyboard.press('Enter');
await page.waitForSelector('#login', { state: 'hidden' });
await has('#user', user);

step('decisions');
await modules(page);

step('a query');
await run(`DROP TABLE IF EXISTS "${HOSTILE.replaceAll('"', '""')}"; DROP TABLE IF EXISTS things;
  CREATE TABLE things(id INTEGER PRIMARY KEY, name TEXT, data BLOB, note TEXT);
  CREATE INDEX things_by_name ON things(name);
  CREATE TABLE "${HOSTILE.replaceAll('"', '""')}"("<b>bold</b>" TEXT);
  INSERT INTO things VALUES(9223372036854775805, '${HOSTILE}', x'00ff10', NULL), (1, '', NULL, '<script>window.hacked=1</script>')`);
await has('.message.ok', '2 rows changed');
await run('SELECT * FROM things ORDER BY id DESC');
assert.deepEqual(await cells(1), ['9223372036854775805', HOSTILE, "x'00ff10'  3 B", 'NULL']);
assert.deepEqual(await cells(2), ['1', '', 'NULL', '<script>window.hacked=1</script>']);
assert.equal(await page.locator('.v-null').count(), 2);
await has('.foot', '2 rows');
await page.locator('[aria-rowindex="2"] td').nth(2).dblclick();
await has('#cell-value', HOSTILE);
await page.keyboard.press('Escape');

step('files of a result');
const csv = page.waitForEvent('download');
await page.click('button:text-is("CSV")');
assert.equal((await readFile(await (await csv).path(), 'utf8')).split('\r\n')[1], `9223372036854775805,"${HOSTILE.replaceAll('"', '""')}",X'00ff10',`);

const json = page.waitForEvent('download');
await page.click('button:text-is("JSON")');
const rows = `[{"id":9223372036854775805,"name":${JSON.stringify(HOSTILE)},"data":"X'00ff10'","note":null},
{"id":1,"name":"","data":null,"note":"<script>window.hacked=1</script>"}]\n`;
assert.equal(await readFile(await (await json).path(), 'utf8'), rows);

step('many rows');
await run('WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 100000) SELECT x, x * 2 AS y FROM c');
await page.locator('.frame').focus();
await page.keyboard.press('Control+End');
await page.waitForSelector('[aria-rowindex="100001"]');
assert.deepEqual(await cells(100000), ['100000', '200000']);
assert((await page.locator('.grid tbody tr').count()) < 150);

step('errors and plans');
await run('SELECT * FROM nowhere');
await has('.message.error', 'no such table: nowhere');
await page.fill('#sql', "SELECT * FROM things WHERE name = 'x'");
await page.keyboard.press('Control+Shift+Enter');
await has('.step.search', 'things_by_name');

step('the schema');
await page.locator('#schema summary', { hasText: HOSTILE }).click();
await has('.columns-of', '<b>bold</b>');
await page.locator('#schema summary', { hasText: 'things' }).first().click();
await has('.columns-of em', 'blob');
await accessible('query, dark');
await page.click('#theme');
await accessible('query, light');
await picture('query');
await page.click('#theme');

step('keys and history');
await page.keyboard.press('Escape');
await page.locator('body').click({ position: { x: 640, y: 24 } });
await page.keyboard.press('?');
await has('#shortcuts', 'Ctrl');
await page.keyboard.press('Escape');
await page.keyboard.press('Control+k');
await has('.entries', 'nowhere');
await page.keyboard.press('Escape');
const stored = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
assert(!stored.includes(password) && !stored.includes(btoa(`${user}:${password}`)), stored);
await page.fill('#sql', 'SELECT na');
await page.press('#sql', 'End');
await page.keyboard.type('m');
await has('#choices', 'name');
await page.keyboard.press('Tab');
assert.equal(await page.inputValue('#sql'), 'SELECT name');

step('nothing but keys');
const typist = await another({ viewport: { width: 1280, height: 800 } });
await typist.goto(`${base}/console/`);
await typist.waitForFunction(() => document.activeElement.id === 'login-user');
await typist.keyboard.type(user);
await typist.keyboard.press('Tab');
await typist.keyboard.type(password);
await typist.keyboard.press('Enter');
await typist.waitForSelector('#login', { state: 'hidden' });
// Out of the editor, where Tab completes, and back to the views.
await typist.keyboard.press('Escape');
const focus = () => typist.evaluate(() => document.activeElement.id);
for (let presses = 0; await focus() !== 'tab-query'; presses++) {
  assert(presses < 30, `Shift+Tab leads to ${await focus()}`);
  await typist.keyboard.press('Shift+Tab');
}
await typist.keyboard.press('ArrowRight');
assert.equal(await focus(), 'tab-cluster');
await typist.waitForSelector('.box.leader');
await typist.context().close();

step('members and charts');
await page.click('#tab-cluster');
await page.waitForSelector('.box.leader');
assert.equal(await page.locator('.box').count(), 3);
const fact = (name) => page.locator(`.fact:has(span:text-is("${name}")) b`).textContent();
const term = await fact('Term');
assert(Number(term) > 0, term);
await has('#pill-text', `leads · term ${term}`);
// Somebody writes until each plot has a line from one second to another.
async function execute(statement) {
  const headers = { 'content-type': 'application/json', authorization: `Basic ${btoa(`${user}:${password}`)}` };
  const answer = await fetch(`${base}/db/execute`, { method: 'POST', headers, body: JSON.stringify([statement]) });
  const { results } = await answer.json();
  assert(results.length === 1 && !results[0].error, JSON.stringify(results));
}
await execute('CREATE TABLE marks(a)');
let writing = true;
const written = (async () => {
  while (writing) await execute('INSERT INTO marks VALUES(1)');
})();
await page.waitForFunction(() => {
  const lines = [...document.querySelectorAll('#charts path.line')].map((line) => line.getAttribute('d'));
  const legend = [...document.querySelectorAll('#charts .legend span')].map((name) => name.textContent);
  // Reads and writes, two of the time to answer, entries, the lag of three members.
  return lines.length === 8 && lines.every((line) => /[\d.]+ [\d.]+L[\d.]+ [\d.]+/.test(line))
    && legend.some((name) => /^writes [\d.]*[1-9]/.test(name));
});
writing = false;
await written;
// When nobody writes nobody is behind, and the databases are equal.
await page.waitForFunction(() => {
  const column = (name) => [...document.querySelectorAll(`#members td[data-label="${name}"]`)].map((cell) => cell.textContent);
  const sums = column('Checksum');
  return column('Behind').join() === '0,0,0' && sums.every((sum) => /^[0-9a-f]{8} @ \d+$/.test(sum)) && new Set(sums).size === 1;
});
await has('.fact:has(span:text-is("Databases"))', 'all equal at');

step('a slow answer');
// Slower than the page asks, and the page is looked at anew meanwhile: that is no member that does not answer.
await page.route('**/nodes?*', async (route) => {
  await new Promise((later) => setTimeout(later, 1500));
  await route.continue();
});
for (let times = 0; times < 3; times += 1) {
  await page.waitForRequest(/\/nodes\?/);
  await page.evaluate(() => document.dispatchEvent(new Event('visibilitychange')));
}
await page.waitForResponse(/\/nodes\?/);
await page.unrouteAll({ behavior: 'ignoreErrors' });
assert.equal(await page.locator('#events', { hasText: 'does not answer' }).count(), 0);

step('the leader dies');
const leader = await page.locator('.box.leader .name').textContent();
await accessible('cluster, dark');
step('half');
await line();
await page.waitForFunction((before) => {
  const now = document.querySelector('.box.leader .name')?.textContent;
  return now && now !== before;
}, leader);
await page.waitForSelector('.box.away');
await has('#events', 'cannot be reached');
await page.click('#tab-query');
await run("INSERT INTO things(name) VALUES('after')");
await has('.message.ok', '1 row changed');
await page.click('#tab-cluster');
await picture('cluster');

step('backup and restore');
// Large enough for a restore that takes a while.
await execute('INSERT INTO marks VALUES(randomblob(4 << 20))');
await page.click('#tab-data');
const backup = page.waitForEvent('download');
await page.click('#backup button[type=submit]');
const copy = await (await backup).path();
assert.equal((await readFile(copy)).subarray(0, 15).toString(), 'SQLite format 3');
await page.click('#tab-query');
await run("DELETE FROM things");
await page.click('#tab-data');
await page.setInputFiles('#restore-file', copy);
await has('#restore-phrase', 'Type replace');
assert(await page.isDisabled('#restore-go'));
await page.fill('#restore-typed', 'replace');
await accessible('backup');
const network = await context.newCDPSession(page);
await network.send('Network.enable');
const throttle = (uploadThroughput) =>
  network.send('Network.emulateNetworkConditions', { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput });
await throttle(2 << 20);
await page.click('#restore-go');
await page.waitForFunction(() => {
  const [bar, state] = ['#restore-progress', '#restore-state'].map((id) => document.querySelector(id));
  return bar.checkVisibility() && bar.value > 0 && bar.value < bar.max && / of 4\.\d MiB$/.test(state.textContent);
});
await has('#restore-state', 'Done');
await page.waitForSelector('#restore-progress', { state: 'hidden' });
await throttle(-1);
await page.click('#tab-query');
await run("SELECT count(*) AS n FROM things");
assert.deepEqual(await cells(1), ['3']);

step('a reader');
await page.click('#user');
assert.equal(await page.locator('#schema summary').count(), 0);
await page.fill('#login-user', 'reader');
await page.fill('#login-password', password);
await page.keyboard.press('Enter');
await has('#user', 'reader');
await run("DELETE FROM things");
await has('.message.error', 'you may not do this');
await run("SELECT count(*) AS n FROM things");
assert.deepEqual(await cells(1), ['3']);
await page.click('#tab-cluster');
await has('#picture', 'may not see the cluster');
await page.click('#tab-data');
assert(await page.isDisabled('#backup button[type=submit]'));

step('a phone');
await page.setViewportSize({ width: 320, height: 640 });
for (const view of ['query', 'cluster', 'data']) {
  await page.click(`#tab-${view}`);
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 320, view);
}
await page.click('#tab-query');
await page.click('#schema-toggle');
await has('#schema summary', 'things');
await picture('phone');
await page.click('#schema-close');
await page.waitForSelector('#schema', { state: 'hidden' });

step('fingers');
const phone = await another({ viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
await phone.goto(`${base}/console/`);
for (const [field, text] of [['#login-user', user], ['#login-password', password]]) {
  await phone.tap(field);
  await phone.keyboard.type(text);
}
await phone.tap('#login-form button');
await phone.waitForSelector('#login', { state: 'hidden' });
await phone.tap('#sql');
await phone.keyboard.type("SELECT name FROM things WHERE name = 'after'");
await phone.tap('#run');
const row = phone.locator('[aria-rowindex="2"] td:not(.n)');
await row.waitFor();
assert.equal(await row.textContent(), 'after');
const place = await row.boundingBox();
assert(place.x >= 0 && place.x + place.width <= 390 && place.y >= 0 && place.y + place.height <= 844, JSON.stringify(place));
assert.equal(await phone.evaluate(() => document.documentElement.scrollWidth), 390);

assert.equal(await page.evaluate(() => window.hacked), undefined);
assert.deepEqual(wrong, []);
await browser.close();
console.log('done');
process.exit(0);
