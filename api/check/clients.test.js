// Clients are generated from the OpenAPI document without a complaint, and the examples of
// docs/clients.md, with those clients, pass against a shop in one process.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';

import { openShop, path } from './shop.js';

const run = promisify(execFile);

/** The last example in a language; those before it are about installing. */
async function example(language) {
  const text = await readFile(path('../docs/clients.md'), 'utf8');
  const blocks = [...text.matchAll(/```(\w+)\n(.*?)```/gs)].filter((block) => block[1] === language);
  assert.ok(blocks.length > 0, `docs/clients.md has an example in ${language}`);
  // The shell's example comes first, before the installing of other languages.
  return (language === 'sh' ? blocks[0] : blocks.at(-1))[2];
}

/** A folder that is gone after the test. */
async function folder(t) {
  const name = await mkdtemp(join(tmpdir(), 'gozon-clients-'));
  t.after(() => rm(name, { recursive: true }));
  return name;
}

/** Runs an example against a shop of its own; it must print a finished order. */
async function assertBuysAHat(t, cwd, program, args, extra = {}) {
  const env = { ...process.env, ...extra, GOZON_URL: await openShop(t) };
  const { stdout } = await run(program, args, { cwd, env });
  assert.match(stdout, /FINISHED/);
  assert.match(stdout, /12900/);
}

test('curl', async (t) => {
  const cwd = await folder(t);
  await writeFile(join(cwd, 'hat.sh'), await example('sh'));
  await assertBuysAHat(t, cwd, 'bash', ['-euo', 'pipefail', 'hat.sh']);
});

test('a generated Python client', async (t) => {
  const cwd = await folder(t);
  const bin = path('.venv/bin');
  // No linters after it: what is generated is used as it is.
  await writeFile(join(cwd, 'config.yaml'), 'post_hooks: []\n');
  const args = ['generate', '--path', path('openapi.json'), '--output-path', 'client'];
  const generator = join(bin, 'openapi-python-client');
  await run(generator, [...args, '--config', 'config.yaml', '--fail-on-warning'], { cwd });
  await writeFile(join(cwd, 'hat.py'), await example('python'));
  const extra = { PYTHONPATH: join(cwd, 'client') };
  await assertBuysAHat(t, cwd, join(bin, 'python'), ['-W', 'error', 'hat.py'], extra);
});

test('a generated TypeScript client', async (t) => {
  const cwd = await folder(t);
  const bin = (name) => path(`node_modules/.bin/${name}`);
  await symlink(path('node_modules'), join(cwd, 'node_modules'));
  await writeFile(join(cwd, 'package.json'), '{"type": "module"}');
  await run(bin('openapi-typescript'), [path('openapi.json'), '--output', 'gozon.d.ts'], { cwd });
  await writeFile(join(cwd, 'hat.ts'), await example('ts'));
  const strict = ['--strict', '--exactOptionalPropertyTypes', '--target', 'es2022'];
  const modules = ['--module', 'nodenext', '--types', 'node'];
  await run(bin('tsc'), [...strict, ...modules, 'hat.ts'], { cwd }).catch(({ stdout }) => {
    assert.fail(stdout);
  });
  await assertBuysAHat(t, cwd, process.execPath, ['hat.js']);
});

test('clients of OpenAPI Generator', async (t) => {
  const cwd = await folder(t);
  const generator = path('../scripts/openapi-generator');
  const document = path('openapi.json');
  const { stdout: judgement } = await run(generator, ['validate', '-i', document], { cwd });
  assert.match(judgement, /No validation issues detected/);

  await symlink(path('node_modules'), join(cwd, 'node_modules'));
  await run(generator, ['generate', '-g', 'typescript-fetch', '-i', document, '-o', 'ts'], { cwd });
  // Each type has the name that the document gives it, and there is no other.
  const schemas = JSON.parse(await readFile(document, 'utf8')).components.schemas;
  const types = Object.entries(schemas).filter(([, schema]) => schema.properties || schema.enum);
  const names = types.map(([name]) => `${name.replace('_', '')}.ts`);
  assert.deepEqual((await readdir(join(cwd, 'ts/models'))).sort(), [...names, 'index.ts'].sort());
  const options = ['--strict', '--noEmit', '--target', 'es2022', '--lib', 'es2022,dom'];
  const modules = ['--module', 'esnext', '--moduleResolution', 'bundler'];
  await run(path('node_modules/.bin/tsc'), [...options, ...modules, 'ts/index.ts'], { cwd });

  await run(generator, ['generate', '-g', 'python', '-i', document, '-o', 'python'], { cwd });
  await run('python3', ['-m', 'compileall', '-q', 'python/openapi_client'], { cwd });
});

const hasGo = await run('go', ['version']).then(() => true, () => false);

test('Go', { skip: !hasGo && 'go is not installed' }, async (t) => {
  const cwd = await folder(t);
  await writeFile(join(cwd, 'hat.go'), await example('go'));
  await assertBuysAHat(t, cwd, 'go', ['run', 'hat.go']);
});
