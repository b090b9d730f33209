import { gzipSync } from 'node:zlib';
import type { Plugin } from 'vite';

/** Fails the build when all of its JavaScript, gzipped, passes `limit` bytes. */
export function sizeBudget(limit: number): Plugin {
  return {
    name: 'size-budget',
    apply: 'build',
    generateBundle(_options, bundle) {
      const total = Object.values(bundle)
        .filter((output) => output.type === 'chunk')
        .reduce((sum, chunk) => sum + gzipSync(chunk.code).length, 0);
      const told = `${(total / 1000).toFixed(1)} kB of gzipped JavaScript, limit ${limit / 1000} kB`;
      if (total > limit) this.error(told);
      this.info(told);
    },
  };
}
