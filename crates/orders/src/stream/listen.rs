//! `order.changed`: what any instance settled, pushed to the sockets of this one.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gozon_contract::{Clock, ORDER_CHANGED, RandomSource};
use gozon_messaging::{Batch, Broker, BrokerError, Subscriber};
use gozon_seam::mutation;
use tokio::{
    sync::watch,
    task::yield_now,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Subscriptions,
    heartbeat::{Heartbeats, is_heartbeat},
    subscriptions::Queued,
};

/// About how many bytes are taken at once.
const MAX_RECEIVED_BYTES: usize = 128 * 1024;
/// Pause between two heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// How long a heartbeat may take to come back before the listener attaches anew.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(6);
/// The longest time between two heartbeats after which every broker has still kept what was
/// published in between for a listener that was paused.
const MAX_HEARTBEAT_GAP: Duration = Duration::from_secs(12);
/// How long before its publication an order may have changed: its commit, a relay that was killed,
/// the lease of its outbox row, and the sweep that finds it.
pub(super) const PUBLICATION_DELAY: Duration = Duration::from_secs(30);
/// Pause before attaching again.
const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// The listener of this instance.
pub(crate) struct Listener {
    pub broker: Arc<dyn Broker>,
    pub subscriptions: Subscriptions,
    pub clock: Clock,
    pub random: RandomSource,
    /// Whether broadcasts are known to arrive.
    pub receiving: Arc<AtomicBool>,
}

impl Listener {
    /// Listens until `stop`. When broadcasts may have been lost, every socket catches up from the
    /// database, from the last instant at which everything is known to have arrived.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut heartbeats = Heartbeats::new(&self.random);
        // A socket may be there before the first heartbeat: it catches up as after any loss.
        self.subscriptions.set_complete_until(self.clock.now());
        loop {
            let attached = self.attach(&mut heartbeats);
            let Err(error) = gozon_seam::select! {
                () = stop.cancelled() => return,
                ended = attached => ended,
            };
            self.receiving.store(false, Ordering::Relaxed);
            tracing::warn!(topic = ORDER_CHANGED.name, %error, "lost the broadcast");
            gozon_seam::select! {
                () = stop.cancelled() => return,
                () = sleep(self.random.jitter(RETRY_PAUSE)) => {}
            }
        }
    }

    async fn attach(&self, heartbeats: &mut Heartbeats) -> Result<Infallible, BrokerError> {
        let mut subscriber = self.broker.subscribe(ORDER_CHANGED).await?;
        let (came_back, newest) = watch::channel(String::new());
        let own = heartbeats.prefix();
        gozon_seam::select! {
            ended = push(subscriber.as_mut(), &self.subscriptions, &own, &came_back) => ended,
            ended = self.prove(heartbeats, newest) => ended,
        }
    }

    /// Sends heartbeats for as long as they come back. The first one, and one that comes after a
    /// long gap, makes the sockets catch up.
    async fn prove(
        &self,
        heartbeats: &mut Heartbeats,
        mut newest: watch::Receiver<String>,
    ) -> Result<Infallible, BrokerError> {
        let mut unbroken = false;
        loop {
            let sent_at = self.clock.now();
            let heartbeat = heartbeats.next(sent_at);
            let round_trip = async {
                self.broker.publish(std::slice::from_ref(&heartbeat)).await?;
                // The sender lives as long as this does.
                let _ = newest.wait_for(|id| *id == heartbeat.id).await;
                Ok(())
            };
            let limit = if mutation!("a heartbeat that stays away is not missed") {
                Duration::from_hours(1)
            } else {
                HEARTBEAT_TIMEOUT
            };
            timeout(limit, round_trip)
                .await
                .map_err(|_| BrokerError::Away("a heartbeat did not come back".to_owned()))
                .flatten()?;
            let complete = self.subscriptions.complete_until();
            let is_broken = !unbroken || sent_at.since(complete) > MAX_HEARTBEAT_GAP;
            if is_broken && !mutation!("sockets don't catch up") {
                self.subscriptions.notify_all(&Queued::CatchUp(complete.minus(PUBLICATION_DELAY)));
            }
            unbroken = true;
            self.subscriptions.set_complete_until(sent_at);
            self.receiving.store(true, Ordering::Relaxed);
            sleep(HEARTBEAT_INTERVAL).await;
        }
    }
}

async fn push(
    subscriber: &mut dyn Subscriber,
    subscriptions: &Subscriptions,
    own: &str,
    came_back: &watch::Sender<String>,
) -> Result<Infallible, BrokerError> {
    loop {
        let batches = subscriber.receive(MAX_RECEIVED_BYTES).await?;
        for message in batches.iter().flat_map(Batch::split) {
            if !is_heartbeat(&message) {
                subscriptions.heard(&message);
            } else if message.id.starts_with(own) {
                came_back.send_replace(message.id);
            }
        }
        subscriber.ack().await?;
        // Lets the clients send what is queued before there is more.
        yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use async_trait::async_trait;
    use gozon_contract::{Timestamp, Topic};
    use gozon_messaging::broker::Memory;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::stream::{StreamLimits, subscriptions::Subscription};

    const START: Timestamp = Timestamp::from_micros(1_763_683_200_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    /// A broker whose broadcasts go nowhere while it is deaf.
    struct Faulty {
        memory: Memory,
        deaf: AtomicBool,
        subscriptions: AtomicUsize,
    }

    #[async_trait]
    impl Broker for Faulty {
        async fn publish(&self, batches: &[Batch]) -> Result<(), BrokerError> {
            if self.deaf.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.memory.publish(batches).await
        }

        async fn subscribe(&self, topic: Topic) -> Result<Box<dyn Subscriber>, BrokerError> {
            self.subscriptions.fetch_add(1, Ordering::Relaxed);
            self.memory.subscribe(topic).await
        }

        async fn ping(&self) -> Result<(), BrokerError> {
            self.memory.ping().await
        }
    }

    struct Rig {
        broker: Arc<Faulty>,
        clock: Clock,
        receiving: Arc<AtomicBool>,
        socket: Subscription,
        running: JoinHandle<()>,
    }

    impl Rig {
        /// A listener that has received its first heartbeat.
        async fn start() -> Self {
            let random = RandomSource::seeded(1);
            let broker = Arc::new(Faulty {
                memory: Memory::new(&[ORDER_CHANGED], random.clone()),
                deaf: AtomicBool::new(false),
                subscriptions: AtomicUsize::new(0),
            });
            let clock = Clock::manual(START);
            let subscriptions = Subscriptions::new(StreamLimits::default());
            let user = "6f9b1c58-3a52-4e0e-9d5b-0f3c2a1b4d5e".parse().unwrap();
            let socket = subscriptions.subscribe(user).unwrap();
            let receiving = Arc::new(AtomicBool::new(false));
            let listener = Listener {
                broker: Arc::clone(&broker) as Arc<dyn Broker>,
                subscriptions,
                clock: clock.clone(),
                random,
                receiving: Arc::clone(&receiving),
            };
            let running = tokio::spawn(listener.run(CancellationToken::new()));
            let mut rig = Self { broker, clock, receiving, socket, running };
            assert_eq!(rig.catches_up_from().await, START.minus(PUBLICATION_DELAY));
            assert!(rig.receiving.load(Ordering::Relaxed));
            rig
        }

        async fn catches_up_from(&mut self) -> Timestamp {
            match self.socket.updates.recv().await {
                Some(Queued::CatchUp(since)) => since,
                other => panic!("{other:?}"),
            }
        }

        fn attached(&self) -> usize {
            self.broker.subscriptions.load(Ordering::Relaxed)
        }
    }

    impl Drop for Rig {
        fn drop(&mut self) {
            self.running.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_heartbeat_attaches_anew_and_catches_up() {
        let mut rig = Rig::start().await;
        rig.clock.advance(5 * SECOND);
        sleep(2 * HEARTBEAT_INTERVAL).await;
        assert!(rig.socket.updates.is_empty(), "nothing was lost");

        rig.broker.deaf.store(true, Ordering::Relaxed);
        sleep(HEARTBEAT_INTERVAL).await;
        rig.clock.advance(100 * SECOND);
        sleep(HEARTBEAT_TIMEOUT * 3).await;
        assert!(!rig.receiving.load(Ordering::Relaxed), "ready without receiving");
        assert!(rig.attached() > 1);
        assert!(rig.socket.updates.is_empty(), "caught up before it receives again");

        rig.broker.deaf.store(false, Ordering::Relaxed);
        let proven = START.plus(5 * SECOND);
        assert_eq!(rig.catches_up_from().await, proven.minus(PUBLICATION_DELAY));
        assert!(rig.receiving.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_pause_catches_up_even_if_heartbeats_go_on() {
        let mut rig = Rig::start().await;
        rig.clock.advance(45 * SECOND);
        assert_eq!(rig.catches_up_from().await, START.minus(PUBLICATION_DELAY));
        assert_eq!(rig.attached(), 1);
    }
}
