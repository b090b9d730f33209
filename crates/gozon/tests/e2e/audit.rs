//! A busy shop is audited: what is only under way is not held against it.

use futures_util::future::join;

use crate::harness::{Combo, Shop, at_once};

on_every_combo!(a_busy_shop_passes_its_audits);

async fn a_busy_shop_passes_its_audits(combo: Combo) {
    let shop = Shop::on(combo).await;
    let mut users = vec![shop.new_user()];
    for _ in 0..7 {
        users.push(shop.new_user().with_balance(200).await);
    }
    let orders = (0..100).flat_map(|_| &users);
    let placing = at_once(16, orders, |user| user.place(5));
    let auditing = async {
        for _ in 0..5 {
            shop.audit().await;
        }
    };
    join(placing, auditing).await;
    shop.quiet().await;
    let report = shop.audit().await;
    assert!(report.contains("800 payments") && report.contains("0 NEW orders"), "{report}");
    shop.close().await;
}
