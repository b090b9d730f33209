import type { Order } from './api/client';
import { i18n } from './i18n/i18n.svelte';
import { href, router } from './router.svelte';

/** Whether this browser can show notifications at all, and may. */
export function permission(): NotificationPermission | 'unsupported' {
  return 'Notification' in window && isSecureContext ? Notification.permission : 'unsupported';
}

/**
 * Tells an outcome outside of the page, where the page can't be seen. The tag
 * makes several tabs of one user show one notification.
 */
export function ring(order: Order): void {
  if (!document.hidden || permission() !== 'granted') return;
  try {
    const notification = new Notification(i18n.t.outcome.title(order.status), {
      body: i18n.outcome(order),
      tag: order.id,
      icon: '/favicon.svg',
      lang: i18n.lang,
    });
    notification.onclick = () => {
      window.focus();
      router.go(href.order(order.id));
      notification.close();
    };
  } catch {
    // Some phones allow notifications from service workers only.
  }
}
