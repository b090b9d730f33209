import { browser } from './storage';

const CYCLE = { auto: 'light', light: 'dark', dark: 'auto' } as const;

export type Theme = keyof typeof CYCLE;

/** Light, dark or as the system; `public/theme.js` restores it before the first paint. */
class ThemeChoice {
  current: Theme = $state('auto');

  start(): void {
    const kept = browser.getItem('gozon.theme');
    if (kept === 'light' || kept === 'dark') this.current = kept;
  }

  next(): void {
    this.current = CYCLE[this.current];
    if (this.current === 'auto') {
      delete document.documentElement.dataset.theme;
      browser.removeItem('gozon.theme');
    } else {
      document.documentElement.dataset.theme = this.current;
      browser.setItem('gozon.theme', this.current);
    }
  }
}

export const theme = new ThemeChoice();
