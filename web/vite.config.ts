import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';
import { compressed } from './build/compress';
import { contentSecurityPolicy } from './build/csp';
import { sizeBudget } from './build/size';

const shop = process.env.GOZON_URL ?? 'http://localhost:8080';

export default defineConfig({
  plugins: [svelte(), contentSecurityPolicy(), sizeBudget(100_000), compressed()],
  build: { target: 'es2022', modulePreload: { polyfill: false }, assetsInlineLimit: 0 },
  server: { proxy: { '/accounts': shop, '/orders': { target: shop, ws: true } } },
  resolve: process.env.VITEST ? { conditions: ['browser'] } : {},
  test: { include: ['src/**/*.test.ts'] },
});
