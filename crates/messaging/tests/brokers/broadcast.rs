//! Topics that are broadcast: every listener hears everything.

use gozon_messaging::Batch;

use crate::subject::{Rig, Subject, batch, ids, in_time, receive};

fn said(rig: &Rig, what: &str) -> Vec<Batch> {
    (0..20).map(|n| batch(rig.broadcast, what, n * 5..(n + 1) * 5)).collect()
}

pub async fn every_listener_hears_everything(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(in_time(rig.elsewhere().subscribe(rig.broadcast)).await.unwrap());
    }
    listeners.push(rig.subscribe(rig.broadcast).await);
    let words = said(&rig, "said");
    in_time(rig.broker.publish(&words)).await.unwrap();
    for listener in &mut listeners {
        let heard = receive(listener.as_mut(), &words).await;
        assert_eq!(ids(&heard), ids(&words));
    }
}

pub async fn late_listener_hears_only_what_is_said_later(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let mut early = rig.subscribe(rig.broadcast).await;
    let (before, after) = (said(&rig, "before"), said(&rig, "after"));
    in_time(rig.broker.publish(&before)).await.unwrap();
    let mut late = in_time(rig.elsewhere().subscribe(rig.broadcast)).await.unwrap();
    in_time(rig.broker.publish(&after)).await.unwrap();
    assert_eq!(ids(&receive(late.as_mut(), &after).await), ids(&after));
    receive(early.as_mut(), &[before, after].concat()).await;
}

pub async fn nobody_need_listen(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let words = said(&rig, "unheard");
    in_time(rig.broker.publish(&words)).await.unwrap();
    drop(rig.subscribe(rig.broadcast).await);
    in_time(rig.broker.publish(&words)).await.unwrap();
}
