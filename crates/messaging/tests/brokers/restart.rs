//! The server dies by `kill -9` and comes back: same port, same data.

use std::{
    env,
    sync::{Arc, Mutex},
    time::Duration,
};

use gozon_contract::Topic;
use gozon_messaging::{Batch, Broker, BrokerError};
use tokio::{
    process::Command,
    sync::{oneshot, watch},
    time::sleep,
};

use crate::subject::{MANY_BYTES, Rig, Server, Subject, batch, ids, in_time, receive};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// RabbitMQ 3.10 writes down with a delay which queues it has. One that it forgot in a crash stays
/// without a leader until the server is started once more; so a queue has to be this old.
const SETTLED: Duration = Duration::from_secs(3);

async fn services(command: &str, server: &Server) {
    assert!(
        env::var_os("GOZON_SERVICES_DIR").is_some(),
        "GOZON_SERVICES_DIR is not set, so {} can't be restarted here; run the tests with \
         `scripts/services run -- cargo test` or `make test`, without {}",
        server.name,
        server.variable,
    );
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/services");
    let status = Command::new(script).args([command, server.name]).status().await.unwrap();
    assert!(status.success(), "scripts/services {command} {}", server.name);
}

/// Publishes as a relay does: until it is safe.
async fn publish(broker: &dyn Broker, batches: &[Batch]) {
    in_time(async {
        while let Err(error) = broker.publish(batches).await {
            assert!(matches!(error, BrokerError::Away(_)), "{error}");
            sleep(PAUSE).await;
        }
    })
    .await;
}

/// Consumes as an inbox does: attaches again whenever the broker was lost.
async fn consume(broker: Arc<dyn Broker>, topic: Topic, seen: Arc<Mutex<Vec<Batch>>>) {
    loop {
        if let Ok(mut consumer) = broker.subscribe(topic).await {
            while let Ok(received) = consumer.receive(MANY_BYTES).await {
                if consumer.ack().await.is_ok() {
                    seen.lock().unwrap().extend(received);
                }
            }
        }
        sleep(PAUSE).await;
    }
}

pub async fn nothing_is_lost_when_the_server_is_killed(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let seen = Arc::<Mutex<Vec<Batch>>>::default();
    let consumers: Vec<_> = (0..2)
        .map(|_| tokio::spawn(consume(rig.elsewhere(), rig.queue, Arc::clone(&seen))))
        .collect();

    let broker = Arc::clone(&rig.broker);
    let (progress, mut batches) = watch::channel(0);
    let (enough, mut stop) = oneshot::channel();
    let queue = rig.queue;
    let publisher = tokio::spawn(async move {
        let mut safe = Vec::new();
        while stop.try_recv().is_err() {
            let start = safe.len() * 25;
            let two = [0, 25].map(|n| batch(queue, "m", start + n..start + n + 25));
            publish(broker.as_ref(), &two).await;
            safe.extend(two);
            progress.send_modify(|count| *count += 1);
            sleep(Duration::from_millis(5)).await;
        }
        safe
    });

    in_time(batches.wait_for(|count| *count > 20)).await.unwrap();
    sleep(SETTLED).await;
    services("kill", subject.server()).await;
    services("up", subject.server()).await;
    let so_far = *batches.borrow();
    in_time(batches.wait_for(|count| *count > so_far + 20)).await.unwrap();
    enough.send(()).unwrap();
    let safe = in_time(publisher).await.unwrap();
    in_time(async {
        while !ids(&safe).is_subset(&ids(&seen.lock().unwrap())) {
            sleep(PAUSE).await;
        }
    })
    .await;
    for consumer in consumers {
        consumer.abort();
    }
}

pub async fn everything_works_again_when_the_server_is_back(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let kept = rig.batches("kept", 10);
    publish(rig.broker.as_ref(), &kept).await;
    let mut consumer = rig.subscribe(rig.queue).await;
    receive(consumer.as_mut(), &kept).await;
    let mut listener = rig.subscribe(rig.broadcast).await;
    publish(rig.broker.as_ref(), &rig.batches("waiting", 10)).await;
    in_time(consumer.receive(MANY_BYTES)).await.unwrap();

    sleep(SETTLED).await;
    services("kill", subject.server()).await;
    let refused = in_time(rig.broker.publish(&rig.batches("refused", 10))).await;
    assert!(matches!(refused, Err(BrokerError::Away(_))), "{refused:?}");
    let silent = in_time(rig.broker.ping()).await;
    assert!(matches!(silent, Err(BrokerError::Away(_))), "{silent:?}");
    if subject.traits.notices_loss {
        let acknowledged = in_time(consumer.ack()).await;
        assert!(matches!(acknowledged, Err(BrokerError::Away(_))), "{acknowledged:?}");
        for lost in [&mut consumer, &mut listener] {
            let received = in_time(lost.receive(MANY_BYTES)).await;
            assert!(matches!(received, Err(BrokerError::Away(_))), "{received:?}");
        }
    }

    services("up", subject.server()).await;
    let more = rig.batches("more", 10);
    publish(rig.broker.as_ref(), &more).await;
    in_time(rig.broker.ping()).await.unwrap();
    let mut heir = rig.subscribe(rig.queue).await;
    drop(consumer);
    receive(heir.as_mut(), &[more, rig.batches("waiting", 10)].concat()).await;
    let mut listener = rig.subscribe(rig.broadcast).await;
    let word = [batch(rig.broadcast, "word", 0..2)];
    publish(rig.broker.as_ref(), &word).await;
    receive(listener.as_mut(), &word).await;
}
