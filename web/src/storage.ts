/**
 * The browser's storage, which may be full or closed to us: then nothing is
 * remembered, and the shop still works.
 */
export type Shelf = Pick<Storage, 'getItem' | 'setItem' | 'removeItem'>;

function shelf(open: () => Storage): Shelf {
  const attempt = <T>(use: (storage: Storage) => T, otherwise: T): T => {
    try {
      return use(open());
    } catch {
      return otherwise;
    }
  };
  return {
    getItem: (key) => attempt((storage) => storage.getItem(key), null),
    setItem: (key, value) => {
      attempt((storage) => {
        storage.setItem(key, value);
      }, undefined);
    },
    removeItem: (key) => {
      attempt((storage) => {
        storage.removeItem(key);
      }, undefined);
    },
  };
}

/** Remembered for this browser. */
export const browser = shelf(() => localStorage);
/** Remembered for this tab, across its reloads. */
export const tab = shelf(() => sessionStorage);

/** The JSON kept under `key`, or `otherwise` where there is none to be read. */
export function recall<T>(from: Shelf, key: string, otherwise: T): T {
  try {
    const kept = from.getItem(key);
    return kept === null ? otherwise : (JSON.parse(kept) as T);
  } catch {
    return otherwise;
  }
}
