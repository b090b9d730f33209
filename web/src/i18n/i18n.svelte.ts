import type { Order } from '../api/client';
import type { Lang } from '../money';
import { browser } from '../storage';
import { en, type Messages } from './en';
import { Format } from './format';
import { ru } from './ru';

const MESSAGES: Record<Lang, Messages> = { en, ru };
const FORMATS: Record<Lang, Format> = { en: new Format('en'), ru: new Format('ru') };

/** The first of the visitor's languages that the page speaks. */
export function preferred(languages: readonly string[]): Lang {
  for (const language of languages) {
    const base = language.toLowerCase().split('-')[0];
    if (base === 'ru' || base === 'en') return base;
  }
  return 'en';
}

/** The language of the page: the visitor's choice, or else the browser's. */
class I18n {
  lang: Lang = $state('en');

  get t(): Messages {
    return MESSAGES[this.lang];
  }

  get format(): Format {
    return FORMATS[this.lang];
  }

  start(): void {
    const chosen = browser.getItem('gozon.lang');
    this.lang = chosen === 'ru' || chosen === 'en' ? chosen : preferred(navigator.languages);
    document.documentElement.lang = this.lang;
  }

  toggle(): void {
    this.lang = this.lang === 'en' ? 'ru' : 'en';
    document.documentElement.lang = this.lang;
    browser.setItem('gozon.lang', this.lang);
  }

  /** What became of an order, in one plain sentence or two. */
  outcome(order: Order): string {
    const what = `${order.description} · ${this.format.money(order.amount)}`;
    const reason = this.reason(order);
    return reason ? `${what}. ${reason}` : what;
  }

  reason(order: Order): string | null {
    return order.cancel_reason ? this.t.outcome.reason[order.cancel_reason] : null;
  }
}

export const i18n = new I18n();
