import type { Plugin } from 'vite';

/**
 * What the page may load: its own files and its own server, nothing else.
 *
 * The server sends the same policy as a header, with `frame-ancestors`, which
 * a `<meta>` cannot express; this copy holds behind any other static server.
 */
export const POLICY = [
  "default-src 'self'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src 'self' data:",
  "object-src 'none'",
  "base-uri 'none'",
].join('; ');

/** Writes the policy into the built page (the dev server needs inline styles). */
export function contentSecurityPolicy(): Plugin {
  return {
    name: 'content-security-policy',
    apply: 'build',
    transformIndexHtml: () => [
      {
        tag: 'meta',
        attrs: { 'http-equiv': 'Content-Security-Policy', content: POLICY },
        injectTo: 'head-prepend',
      },
    ],
  };
}
