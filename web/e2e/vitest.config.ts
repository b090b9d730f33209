import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  // The tests share the page's own words and formats, some of which are runes.
  plugins: [svelte()],
  test: {
    include: ['e2e/**/*.e2e.ts'],
    // Real servers and browsers: one file at a time is enough for a small machine.
    fileParallelism: false,
    testTimeout: 90_000,
    hookTimeout: 90_000,
  },
});
