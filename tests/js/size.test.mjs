// How much a page has to load: what the client is minified and compressed to.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';

import { script } from './world.mjs';

const LIMIT = 4.5 * 1024;

test('minified and compressed, the client has at most 4.5 KiB', (context) => {
  const folder = mkdtempSync(join(tmpdir(), 'ws4redis-'));
  try {
    const quiet = ['--silent', '--no-audit', '--no-fund', '--ignore-scripts'];
    execFileSync('npm', ['install', ...quiet, '--prefix', folder, 'terser@5.44.1']);
  } catch (error) {
    if (process.env.CI === 'true') {
      throw error;
    }
    context.skip(`terser could not be fetched: ${error.message}`);
    return;
  }
  const terser = join(folder, 'node_modules', '.bin', 'terser');
  const options = ['--compress', 'passes=3', '--mangle'];
  const minified = execFileSync(terser, [script.pathname, ...options]);
  rmSync(folder, { recursive: true });
  const { length } = gzipSync(minified, { level: 9 });
  context.diagnostic(`${length} bytes`);
  assert.equal(length <= LIMIT, true, `${length} bytes`);
});
