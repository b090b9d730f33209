//! A message that can't be dealt with, through a real inbox.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use gozon_contract::{Clock, RandomSource, Timestamp};
use gozon_messaging::{Decision, HandleError, Handler, Inbox, MIGRATIONS, Message, Outbox};
use gozon_store::{Db, Tx, migrate};

use crate::subject::{Rig, Subject, ids, in_time};

const POISON: &str = "dose-7";

/// Fails on one message and takes note of the others.
#[derive(Default)]
struct Taster(Mutex<Vec<Message>>);

#[async_trait]
impl Handler for Taster {
    async fn handle(
        &self,
        _tx: &mut Tx,
        messages: &[Message],
        _careful: bool,
    ) -> Result<Decision, HandleError> {
        if messages.iter().any(|message| message.id == POISON) {
            return Err(HandleError::Failed("it tastes bitter".to_owned()));
        }
        self.0.lock().unwrap().extend_from_slice(messages);
        Ok(Decision::default())
    }
}

pub async fn a_poison_message_is_set_aside_and_the_rest_flows(subject: &Subject) {
    let rig = Rig::new(subject).await;
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(&format!("sqlite:{}/inbox.db", folder.path().display()), 2).unwrap();
    migrate(&db, MIGRATIONS).await.unwrap();
    let clock = Clock::manual(Timestamp::from_micros(1_763_683_200_000_000));
    let (outbox, _handed) = Outbox::new(clock.clone());
    let taster = Arc::new(Taster::default());
    let inbox = Inbox::new(
        "test",
        rig.queue,
        db.clone(),
        Arc::clone(&rig.broker),
        outbox,
        Arc::<Taster>::clone(&taster),
        clock.clone(),
        RandomSource::seeded(7),
    );

    let mut sent = rig.messages("dose", 40);
    let publishing = rig.publish(sent.clone());
    let mut consumer = rig.subscribe(rig.queue).await;
    sent.retain(|message| message.id != POISON);
    while ids(&taster.0.lock().unwrap()) != ids(&sent) || !is_kept(&db).await {
        let batch = in_time(consumer.receive(100)).await.unwrap();
        in_time(inbox.step(consumer.as_mut(), batch)).await.unwrap();
    }
    publishing.await.unwrap();
    assert!(dead(&db).await.is_empty());

    while is_kept(&db).await {
        clock.advance(Duration::from_mins(10));
        assert_eq!(inbox.retry_step().await.unwrap(), 1);
    }
    assert_eq!(dead(&db).await, [(POISON.to_owned(), "it tastes bitter".to_owned(), 8)]);
    assert_eq!(taster.0.lock().unwrap().len(), sent.len(), "each other one was dealt with once");
}

async fn is_kept(db: &Db) -> bool {
    let mut tx = db.read().await.unwrap();
    let kept: Option<(String,)> =
        tx.query("select id from inbox_pending").fetch_optional().await.unwrap();
    kept.is_some()
}

async fn dead(db: &Db) -> Vec<(String, String, i64)> {
    let mut tx = db.read().await.unwrap();
    tx.query("select id, error, attempts from dead_letters").fetch_all().await.unwrap()
}
