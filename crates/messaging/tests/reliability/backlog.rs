//! The gauges that say how long messages have been waiting.

use std::time::Duration;

use gozon_messaging::{BacklogMetrics, Relay};
use gozon_testkit::TestDb;
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::{
    broker::Mood,
    service::{Service, deliver},
    use_case::Fate,
};

#[tokio::test]
async fn ages_and_dead_letters_on_sqlite() {
    ages_and_dead_letters(TestDb::sqlite()).await;
}

#[tokio::test]
async fn ages_and_dead_letters_on_postgres() {
    ages_and_dead_letters(TestDb::postgres().await).await;
}

/// On one thread, where the recorder of this test is.
async fn ages_and_dead_letters(test: TestDb) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let gauge = |name: &str| {
        let line = format!("{name}{{service=\"test\"}} ");
        let rendered = metrics.render();
        rendered.lines().find_map(|l| l.strip_prefix(&line)).map(str::to_owned)
    };

    let mut service = Service::new(test).await;
    let mut relay: Relay = service.relay();
    let waiting = BacklogMetrics::new(service.context.clone(), relay.low_water());
    let all = |outbox: &str, inbox: &str, dead: &str| {
        assert_eq!(gauge("gozon_outbox_oldest_age_seconds").as_deref(), Some(outbox));
        assert_eq!(gauge("gozon_inbox_oldest_age_seconds").as_deref(), Some(inbox));
        assert_eq!(gauge("gozon_dead_letters").as_deref(), Some(dead));
    };
    waiting.step().await.unwrap();
    all("0", "0", "0");

    service.leave_behind(&["stuck"]).await;
    let inbox = service.inbox();
    service.use_case.will("waits", Fate::Fails, 1);
    service.clock.advance(Duration::from_secs(10));
    assert!(deliver(&inbox, &[service.alone("waits")]).await);
    service.bury(&["dies"]).await;
    service.clock.advance(Duration::from_mins(1));
    service.leave_behind(&["fresh"]).await;
    waiting.step().await.unwrap();
    all("70", "60", "1");

    // Still the age of the message, however often it was tried.
    service.broker.is(Mood::Away);
    for _ in 0..3 {
        service.clock.advance(Duration::from_secs(10));
        relay.step().await;
    }
    waiting.step().await.unwrap();
    all("100", "90", "1");

    service.broker.is(Mood::Well);
    while !service.unsent().await.is_empty() {
        service.clock.advance(Duration::from_secs(10));
        relay.step().await;
    }
    assert_eq!(inbox.retry_step().await.unwrap(), 1);
    waiting.step().await.unwrap();
    all("0", "0", "1");
}
