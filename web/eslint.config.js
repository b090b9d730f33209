import js from '@eslint/js';
import svelte from 'eslint-plugin-svelte';
import globals from 'globals';
import ts from 'typescript-eslint';
import svelteConfig from './svelte.config.js';

export default ts.config(
  { ignores: ['dist/', 'src/api/schema.gen.ts'] },
  js.configs.recommended,
  ...ts.configs.strict,
  ...ts.configs.stylistic,
  ...svelte.configs.recommended,
  { languageOptions: { globals: { ...globals.browser, ...globals.node } } },
  {
    files: ['**/*.svelte', '**/*.svelte.ts'],
    languageOptions: { parserOptions: { parser: ts.parser, svelteConfig } },
  },
  {
    rules: {
      // The compiler checks names, and knows the types that ESLint does not.
      'no-undef': 'off',
      // The content security policy forbids both.
      'svelte/no-inline-styles': 'error',
      'svelte/no-at-html-tags': 'error',
      // Plain collections are meant where nothing on the screen depends on them.
      'svelte/prefer-svelte-reactivity': 'off',
    },
  },
);
