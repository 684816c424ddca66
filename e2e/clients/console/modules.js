// The console's modules that only decide, by table, in the browser that runs them.
import assert from 'node:assert/strict';

const CUT = '{"results":[{"columns":["a"],"values":[[1,"9007199254740993"],[2,"b';
const TRIGGER = "CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; UPDATE a SET x = 'END;'; END";

/** Calls `name` of a module with arguments; BigInt comes back as text with an n. */
const call = (page, module, name, ...args) => page.evaluate(async ([module, name, args]) => {
  const value = (await import(`/console/${module}.js`))[name](...args);
  return JSON.parse(JSON.stringify(value ?? null, (_, item) => (typeof item === 'bigint' ? `${item}n` : item === Infinity ? 'inf' : item)));
}, [module, name, args]);

export async function modules(page) {
  for (const [text, value, cut] of [
    ['[1,1.5,-3,true,null,"x"]', [1, 1.5, -3, true, null, 'x'], false],
    ['[9223372036854775807,-9223372036854775808,9007199254740991]', ['9223372036854775807n', '-9223372036854775808n', 9007199254740991], false],
    ['{"a":"9223372036854775807 \\"\\u00e4"}', { a: '9223372036854775807 "ä' }, false],
    ['[0.30000000000000004,1e300]', [0.30000000000000004, 1e300], false],
    [CUT, { results: [{ columns: ['a'], values: [[1, '9007199254740993'], [2]] }] }, true],
    ['{"results":[{"values":[[9007199254740993],[12', { results: [{ values: [['9007199254740993n'], []] }] }, true],
  ]) assert.deepEqual(await call(page, 'json', 'parseExact', text), { value, cut }, text);
  await assert.rejects(call(page, 'json', 'parseExact', '[1 2]'), /unexpected/);

  for (const [text, expected] of [
    ['', []],
    [' ;; ', []],
    ["SELECT ';'; SELECT 2", ["SELECT ';'", 'SELECT 2']],
    ['SELECT 1 -- no; end\n;SELECT "a;b"', ['SELECT 1', 'SELECT "a;b"']],
    [`${TRIGGER}; SELECT 2`, [TRIGGER, 'SELECT 2']],
    ['CREATE TABLE trigger_log(x); SELECT 1', ['CREATE TABLE trigger_log(x)', 'SELECT 1']],
  ]) assert.deepEqual((await call(page, 'sql', 'statements', text)).map(({ sql }) => sql), expected, text);

  for (const [sql, expected] of [
    ['SELECT 1', true], ['-- why\nvalues(1)', true], ['EXPLAIN DELETE FROM t', true], ['DELETE FROM t', false],
    ['WITH x AS (SELECT 1) SELECT * FROM x', true], ['WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x', false],
    ['PRAGMA user_version', true], ['PRAGMA user_version = 3', false], ['', false],
  ]) assert.equal(await call(page, 'sql', 'isRead', sql), expected, sql);
  for (const [name, expected] of [['orders', 'orders'], ['group', '"group"'], ['a "b', '"a ""b"'], ['1x', '"1x"']]) {
    assert.equal(await call(page, 'sql', 'quoteName', name), expected);
  }

  const list = [{ le: 1, count: 50 }, { le: 2, count: 49 }, { le: 4, count: 1 }];
  for (const [share, expected] of [[0.5, 1], [0.25, 0.5], [0.99, 2], [1, 4]]) {
    assert.equal(await call(page, 'metrics', 'quantile', share, list), expected, String(share));
  }
  assert.equal(await call(page, 'metrics', 'quantile', 0.5, []), null);
  assert.equal(await call(page, 'metrics', 'between', [{ le: 1, count: 5 }], [{ le: 1, count: 3 }]), null);

  const plan = [[2, 0, 0, 'SCAN o'], [5, 2, 0, 'SEARCH c USING INDEX x (a=?)'], [9, 0, 0, 'USE TEMP B-TREE FOR ORDER BY']];
  assert.deepEqual((await call(page, 'plan', 'planTree', plan)).map(({ detail, children }) => [detail, children.length]), [['SCAN o', 1], ['USE TEMP B-TREE FOR ORDER BY', 0]]);
  for (const [detail, expected] of [['SCAN o', 'scan'], ['SCAN o USING COVERING INDEX i', 'step'], ['SEARCH c USING INDEX x (a=?)', 'search'], ['USE TEMP B-TREE FOR ORDER BY', 'sort']]) {
    assert.equal(await call(page, 'plan', 'weight', detail), expected, detail);
  }

  const result = { columns: ['a', 'a', 'b,"'], values: [[null, '', 'x"\n'], [1, [0, 255], true]] };
  assert.equal(await call(page, 'results', 'toCsv', result), 'a,a,"b,"""\r\n,"","x""\n"\r\n1,X\'00ff\',true\r\n');
  assert.deepEqual(JSON.parse(await call(page, 'results', 'toJson', result)), [{ a: null, a_2: '', 'b,"': 'x"\n' }, { a: 1, a_2: "X'00ff'", 'b,"': true }]);

  const members = ['a', 'b', 'c', 'd'].map((id, at) => ({ id, leader: at === 0, voter: at < 3, reachable: true }));
  for (const [width, rows] of [[800, 3], [272, 3], [200, 4]]) {
    const { boxes } = await call(page, 'picture', 'layout', members, width);
    assert.equal(new Set(boxes.map(({ y }) => y)).size, rows, String(width));
    assert(boxes.every(({ x }) => x >= 0 && x < width), String(width));
  }
}
