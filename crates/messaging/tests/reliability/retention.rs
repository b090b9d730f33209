//! Forgetting in bounded batches.

use std::time::Duration;

use gozon_messaging::{Expiring, Retention};
use gozon_store::select;
use gozon_testkit::{TestDb, on_both_databases};

use crate::service::{Service, deliver};

on_both_databases!(old_marks_are_forgotten_in_batches, any_table_can_expire);

async fn old_marks_are_forgotten_in_batches(test: TestDb) {
    let service = Service::new(test).await;
    let inbox = service.inbox();
    let keep = Duration::from_hours(1);
    let retention = Retention::new(service.elsewhere(), vec![Expiring::inbox(keep)]);
    let old: Vec<_> = (0..2500).map(|n| service.alone(&format!("old{n}"))).collect();
    for chunk in old.chunks(500) {
        assert!(deliver(&inbox, chunk).await);
    }
    service.clock.advance(keep);
    assert!(deliver(&inbox, &[service.alone("new")]).await);
    assert!(!retention.step().await.unwrap(), "nothing is old enough yet");
    service.clock.advance(Duration::from_secs(1));
    assert!(retention.step().await.unwrap());
    assert_eq!(service.marks().await.len(), 1501);
    assert!(retention.step().await.unwrap());
    assert!(!retention.step().await.unwrap());
    assert_eq!(service.marks().await, ["of new"]);
    assert!(!retention.step().await.unwrap());
}

async fn any_table_can_expire(test: TestDb) {
    let service = Service::new(test).await;
    let mut tx = service.db.begin().await.unwrap();
    for n in 0..3 {
        tx.query("insert into parent (n) values ($1)").bind(100 + n).execute().await.unwrap();
    }
    tx.commit().await.unwrap();
    let parents = Expiring {
        table: "parent",
        keep: Duration::ZERO,
        delete: "with old as materialized (
                select n from parent where n >= 100 and $1 > 0 order by n limit $2 {skip_locked}
             )
             delete from parent where n in (select n from old)",
    };
    let retention = Retention::new(service.context.clone(), vec![parents]);
    assert!(!retention.step().await.unwrap());
    let mut reader = service.db.read().await.unwrap();
    let left = reader.query(select!("select count(*) from parent"));
    let (left,): (i64,) = left.fetch_one().await.unwrap();
    assert_eq!(left, 1);
}
