// What the quick start has its reader do in the console, in Debian's Chromium. By standard input: the address, the user
// and the password, a line each; then statements, or the name of a view, as a line of JSON each. After each the cells
// that are shown, or the members, are printed, as a line of JSON too.
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const line = async () => (await input.next()).value;
const [address, user, password] = [await line(), await line(), await line()];

// Chromium's own sandbox needs what a test machine's root does not have.
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox', '--disable-quic'] });
// The reader goes on, though nobody vouches for the cluster's own authority.
const context = await browser.newContext({ ignoreHTTPSErrors: true });
context.setDefaultTimeout(35_000);
const page = await context.newPage();
await page.goto(address);
await page.fill('#login-user', user);
await page.fill('#login-password', password);
await page.keyboard.press('Enter');
await page.waitForSelector('#login', { state: 'hidden' });

for (let next = await line(); next !== undefined; next = await line()) {
  const { sql } = JSON.parse(next);
  if (sql === undefined) {
    await page.click('#tab-cluster');
    await page.waitForSelector('.box.leader');
    console.log(JSON.stringify(await page.locator('.box .name').allTextContents()));
    continue;
  }
  await page.click('#tab-query');
  await page.fill('#sql', sql);
  await page.keyboard.press('Control+Enter');
  await page.waitForFunction(() => document.querySelector('#run').textContent === 'Run' && !document.querySelector('.message.busy'), null, { polling: 50 });
  const errors = await page.locator('.message.error').allTextContents();
  if (errors.length) throw new Error(errors.join(' '));
  const rows = await page.locator('[aria-rowindex]:has(td)').all();
  console.log(JSON.stringify(await Promise.all(rows.map((row) => row.locator('td:not(.n)').allTextContents()))));
}
await browser.close();
