// Requests that are generated from the OpenAPI document, good and bad ones and sequences of them,
// are answered as the document says. What is asked for is in schemathesis.toml.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';

import { openShop, path } from './shop.js';

const run = promisify(execFile);
/** The most that a failed run prints, in bytes. */
const maxBuffer = 64 * 1024 * 1024;

test('a shop keeps to its OpenAPI document', async (t) => {
  const url = await openShop(t);
  const args = ['--config-file', 'schemathesis.toml', 'run', 'openapi.json', '--url', url];
  const options = { cwd: path('.'), maxBuffer, env: { ...process.env, NO_COLOR: '1' } };
  const { stdout } = await run(path('.venv/bin/schemathesis'), args, options).catch((error) => {
    assert.fail(error.stdout || error.message);
  });
  const [, tested] = stdout.match(/Tested: (\d+)/) ?? [];
  assert.ok(Number(tested) >= 8, stdout);
});
