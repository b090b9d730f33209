import { toDecimal, type Lang } from '../money';

/** Words of a counted thing, one for each plural form the language has. */
export type Counted = Partial<Record<Intl.LDMLPluralRule, string>>;

const LOCALE: Record<Lang, string> = { en: 'en-GB', ru: 'ru-RU' };

/** Numbers, money, times and plurals as the language writes them. */
export class Format {
  readonly #money: Intl.NumberFormat;
  readonly #wholeMoney: Intl.NumberFormat;
  readonly #number: Intl.NumberFormat;
  readonly #plural: Intl.PluralRules;
  readonly #time: Intl.DateTimeFormat;
  readonly #day: Intl.DateTimeFormat;
  readonly #dayTime: Intl.DateTimeFormat;

  constructor(
    private readonly lang: Lang,
    timeZone?: string,
  ) {
    const locale = LOCALE[lang];
    const rubles = { style: 'currency', currency: 'RUB', currencyDisplay: 'narrowSymbol' } as const;
    this.#money = new Intl.NumberFormat(locale, rubles);
    this.#wholeMoney = new Intl.NumberFormat(locale, { ...rubles, maximumFractionDigits: 0 });
    this.#number = new Intl.NumberFormat(locale);
    this.#plural = new Intl.PluralRules(locale);
    const clock = { hour: '2-digit', minute: '2-digit', second: '2-digit', timeZone } as const;
    const calendar = { day: 'numeric', month: 'short', year: 'numeric', timeZone } as const;
    this.#time = new Intl.DateTimeFormat(locale, clock);
    this.#day = new Intl.DateTimeFormat(locale, calendar);
    this.#dayTime = new Intl.DateTimeFormat(locale, { ...calendar, ...clock });
  }

  /** Kopecks as rubles, always with the kopecks. */
  money(minor: number): string {
    return this.#money.format(toDecimal(minor));
  }

  /** Kopecks as rubles, with kopecks only where there are any. */
  shortMoney(minor: number): string {
    return (minor % 100 === 0 ? this.#wholeMoney : this.#money).format(toDecimal(minor));
  }

  /** A change of the balance, with its sign. */
  change(minor: number): string {
    return `${minor < 0 ? '−' : '+'}${this.money(Math.abs(minor))}`;
  }

  /** The time, and the day too unless it is `now`'s. */
  moment(iso: string, now: Date): string {
    const date = new Date(iso);
    return this.#day.format(date) === this.#day.format(now) ? this.#time.format(date) : this.#dayTime.format(date);
  }

  fullMoment(iso: string): string {
    return this.#dayTime.format(new Date(iso));
  }

  day(iso: string): string {
    return this.#day.format(new Date(iso));
  }

  /** A number with its thing: "5 orders". */
  count(number: number, of: Counted): string {
    const word = of[this.#plural.select(number)] ?? of.other ?? '';
    return `${this.#number.format(number)} ${word}`;
  }

  /** How long something took, in the unit that suits it. */
  duration(ms: number): string {
    const [value, unit, digits] =
      ms < 1000 ? [ms, 'millisecond', 0] : ms < 60_000 ? [ms / 1000, 'second', 1] : ms < 3_600_000 ? [ms / 60_000, 'minute', 1] : [ms / 3_600_000, 'hour', 1];
    return new Intl.NumberFormat(LOCALE[this.lang], {
      style: 'unit',
      unit: unit as string,
      unitDisplay: 'long',
      maximumFractionDigits: digits as number,
    }).format(value as number);
  }
}
