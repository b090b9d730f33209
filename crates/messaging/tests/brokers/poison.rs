//! An event that can't be dealt with, through a real inbox.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use gozon_contract::{Clock, RandomSource, Timestamp, Topic};
use gozon_messaging::{
    Context, Decision, Event, Failure, Inbox, MIGRATIONS, Mode, Outgoing, Received, Relay, UseCase,
};
use gozon_store::{Db, Reader, migrate, select};

use crate::subject::{MANY_BYTES, Rig, Subject, in_time};

const POISON: u64 = 7;

/// Fails on one event and takes note of the others.
#[derive(Clone, Default)]
struct Taster(Arc<Mutex<Vec<u64>>>);

#[async_trait]
impl UseCase for Taster {
    type Command = Received<u64>;
    type Reply = ();

    async fn decide(
        &self,
        _: &mut Reader,
        _: Mode,
        doses: &[&Received<u64>],
    ) -> Result<Decision<()>, Failure> {
        if doses.iter().any(|dose| dose.data == POISON) {
            return Err(Failure::Refused("it tastes bitter".to_owned()));
        }
        let (taster, doses): (_, Vec<_>) =
            (self.clone(), doses.iter().map(|dose| dose.data).collect());
        let count = doses.len();
        Ok(Decision {
            after_commit: Some(Box::new(move || taster.0.lock().unwrap().extend(doses))),
            ..Decision::replies(vec![(); count])
        })
    }
}

fn doses(topic: Topic, numbers: std::ops::Range<u64>) -> Outgoing {
    let mut outgoing = Outgoing::default();
    for n in numbers {
        outgoing.push(&Event {
            topic: topic.name,
            source: "/test",
            subject: format!("dose-{n}"),
            partition_key: n % 10,
            time: Timestamp::from_micros(0),
            traceparent: None,
            data: n,
        });
    }
    outgoing
}

/// From the outbox of one service to the inbox of another.
pub async fn poison_event_is_set_aside_and_the_rest_flows(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(&format!("sqlite:{}/test.db", folder.path().display()), 2).unwrap();
    migrate(&db, MIGRATIONS).await.unwrap();
    let clock = Clock::manual(Timestamp::from_micros(1_763_683_200_000_000));
    let random = RandomSource::seeded(7);
    let broker = Arc::clone(&rig.broker);
    let (context, hand_over) = Context::new("test", db.clone(), broker, clock.clone(), random);
    let taster = Taster::default();
    let inbox = Inbox::new(context.clone(), rig.queue, taster.clone());

    let mut relay = Relay::new(context.clone(), hand_over);
    for four in 0..10 {
        let added = context.outbox.add(doses(rig.queue, four * 4..(four + 1) * 4));
        let work = db.optimistic().await.unwrap();
        work.commit(added.statement().into_iter().collect()).await.unwrap();
        added.committed();
    }
    let relaying = tokio::spawn(async move {
        loop {
            relay.step().await;
        }
    });
    let mut consumer = rig.subscribe(rig.queue).await;
    let good: HashSet<u64> = (0..40).filter(|n| *n != POISON).collect();
    let delivered = || taster.0.lock().unwrap().iter().copied().collect::<HashSet<_>>();
    while delivered() != good {
        let received = in_time(consumer.receive(MANY_BYTES)).await.unwrap();
        in_time(inbox.step(consumer.as_mut(), received)).await.unwrap();
        // What came together with the poison is dealt with at once.
        inbox.retry_step().await.unwrap();
    }
    assert!(is_kept(&db).await && dead(&db).await.is_empty());

    while is_kept(&db).await {
        clock.advance(Duration::from_mins(10));
        assert_eq!(inbox.retry_step().await.unwrap(), 1);
    }
    relaying.abort();
    let id = format!("dose-{POISON}:{}", rig.queue.name);
    assert_eq!(dead(&db).await, [(id, "it tastes bitter".to_owned(), 8)]);
    assert_eq!(taster.0.lock().unwrap().len(), good.len(), "each other one was dealt with once");
}

async fn is_kept(db: &Db) -> bool {
    let mut reader = db.read().await.unwrap();
    let kept = reader.query(select!("select id from inbox_pending"));
    kept.fetch_optional::<(String,)>().await.unwrap().is_some()
}

async fn dead(db: &Db) -> Vec<(String, String, i64)> {
    let mut reader = db.read().await.unwrap();
    let dead = reader.query(select!("select id, error, attempts from dead_letters"));
    dead.fetch_all().await.unwrap()
}
