//! Makes the faults of a plan happen, each at its time.

use std::{rc::Rc, time::Duration};

use gozon_contract::Clock;
use gozon_messaging::{DeadLetters, dead_letters::Filter};
use gozon_store::Db;
use tokio::{
    task::spawn_local,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    broker::SimulatedBroker,
    fleet::Fleet,
    log,
    plan::{Fault, Kind, QUEUES},
    world::{World, port_of},
};

/// What is none of ours: no event at all, and a result for an order that there is not.
const GARBAGE: [&str; 2] = [
    "this is no event",
    r#"{"specversion":"1.0","id":"garbage-1","source":"/payments","type":"payment.settled",
        "subject":"019aa3d9-a47b-774c-8000-0123456789ab","time":"2025-11-21T00:00:00Z",
        "partitionkey":"6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e","data":{
        "order_id":"019aa3d9-a47b-774c-8000-0123456789ab",
        "user_id":"6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e","outcome":"paid"}}"#,
];

/// Where faults happen. Clones are the same.
#[derive(Clone)]
pub(crate) struct Control {
    pub world: Rc<World>,
    pub fleet: Fleet,
    pub broker: SimulatedBroker,
    pub urls: [String; 2],
}

impl Control {
    /// Starts what makes the faults happen.
    pub fn start(&self) {
        let faults = self.world.plan().faults.clone();
        for (place, fault) in faults.into_iter().enumerate() {
            let control = self.clone();
            spawn_local(async move { control.happen(place, fault).await });
        }
        let control = self.clone();
        spawn_local(async move {
            loop {
                for role in control.world.doomed().await {
                    control.fleet.kill(role);
                    let control = control.clone();
                    spawn_local(async move {
                        sleep(Duration::from_millis(300)).await;
                        control.fleet.start(role);
                    });
                }
            }
        });
    }

    async fn happen(self, place: usize, fault: Fault) {
        sleep_until(self.world.instant(fault.at)).await;
        log::note(format_args!("FAULT begins, {fault}"));
        let lasts = Duration::from_millis(fault.lasts);
        self.world.begin(place, fault.kind);
        match fault.kind {
            Kind::Crash(role) => {
                log::sometimes("an instance was killed");
                self.fleet.kill(role);
                sleep(lasts).await;
                self.fleet.start(role);
            }
            Kind::Pause(role) => {
                log::sometimes("an instance was paused");
                self.fleet.pause(role);
                sleep(lasts).await;
                self.fleet.resume(role);
            }
            Kind::Restart(role) => {
                log::sometimes("an instance was restarted with other settings");
                self.fleet.restart(role).await;
            }
            Kind::BrokerRestart => {
                // Where there is something to lose, unless that takes too long.
                let until = Instant::now() + lasts;
                while !self.broker.is_unsafe() && Instant::now() < until {
                    sleep(Duration::from_millis(1)).await;
                }
                self.broker.stop();
                sleep(lasts).await;
                self.broker.start();
            }
            Kind::ListenersLost => self.broker.lose_listeners(),
            Kind::QueueLost(queue) => {
                // A queue is empty most of the time; losing it then shows nothing.
                let until = self.world.instant(fault.at + fault.lasts);
                while !self.broker.lose_queue(QUEUES[queue]) && Instant::now() < until {
                    sleep(Duration::from_millis(1)).await;
                }
            }
            Kind::Garbage(queue) => {
                self.broker.inject(QUEUES[queue], &format!("garbage-{place}"), GARBAGE[queue]);
            }
            Kind::Cut(role) => {
                gozon_seam::net::cut(|port| port == port_of(role));
            }
            Kind::BreakAnswers(role, _) => {
                // New connections are those that break.
                gozon_seam::net::cut(|port| port == port_of(role));
                sleep(lasts).await;
            }
            Kind::Retry => self.dead_letters(true).await,
            Kind::Discard => self.dead_letters(false).await,
            _ => sleep(lasts).await,
        }
        self.world.end(place);
        log::note(format_args!("FAULT ends, {fault}"));
    }

    /// What an operator does with dead letters.
    pub async fn dead_letters(&self, retry: bool) {
        for url in &self.urls {
            let Ok(db) = Db::open(url, 2) else { continue };
            let letters = DeadLetters::new(db, Clock::system());
            let filter = Filter::default();
            let count = if retry {
                letters.retry(&filter).await
            } else {
                // Only what is none of ours.
                match letters.list(&filter, None, 100).await {
                    Ok(page) => self.discard(&letters, page).await,
                    Err(error) => Err(error),
                }
            };
            let what =
                if retry { "a dead letter was retried" } else { "a dead letter was discarded" };
            if count.is_ok_and(|count| count > 0) {
                log::sometimes(what);
            }
        }
    }

    async fn discard(
        &self,
        letters: &DeadLetters,
        page: gozon_messaging::dead_letters::Page,
    ) -> gozon_store::Result<u64> {
        let mut count = 0;
        for letter in page.letters {
            if letter.message.id.starts_with("garbage") {
                let filter = Filter { id: Some(letter.message.id), ..Filter::default() };
                count += letters.discard(&filter).await?;
            }
        }
        Ok(count)
    }
}
