//! `order.changed`: what any instance settled, pushed to the sockets of this one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gozon_contract::{Clock, ORDER_CHANGED, RandomSource};
use gozon_messaging::{Batch, Broker, BrokerError, Subscriber};
use tokio::{task::yield_now, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{Hub, hub::Note};

/// About how many bytes are taken at once.
const MAX_RECEIVED_BYTES: usize = 128 * 1024;
/// How far before the loss of the broker was noticed changes may have been missed.
const MARGIN: Duration = Duration::from_secs(30);

/// Listens until `stop`. After the broker was away, every socket is told to catch up from the
/// database, since what was broadcast meanwhile was not heard.
pub(crate) async fn listen(
    broker: Arc<dyn Broker>,
    hub: Hub,
    clock: Clock,
    random: RandomSource,
    attached: Arc<AtomicBool>,
    stop: CancellationToken,
) {
    // A socket may be there before the first attachment: it catches up like after any other.
    let mut lost = Some(clock.now().minus(MARGIN));
    loop {
        let attach = async {
            let mut subscriber = broker.subscribe(ORDER_CHANGED).await?;
            attached.store(true, Ordering::Relaxed);
            if let Some(since) = lost.take() {
                hub.tell_all(&Note::CatchUp(since));
            }
            push(subscriber.as_mut(), &hub).await
        };
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = attach => ended,
        };
        attached.store(false, Ordering::Relaxed);
        lost.get_or_insert_with(|| clock.now().minus(MARGIN));
        if let Err(error) = ended {
            tracing::warn!(topic = ORDER_CHANGED.name, %error, "lost the broker");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(random.jitter(Duration::from_millis(300))) => {}
        }
    }
}

async fn push(subscriber: &mut dyn Subscriber, hub: &Hub) -> Result<(), BrokerError> {
    loop {
        let batches = subscriber.receive(MAX_RECEIVED_BYTES).await?;
        for message in batches.iter().flat_map(Batch::split) {
            hub.heard(&message);
        }
        subscriber.ack().await?;
        // Lets the sockets send what they were told before they are told more.
        yield_now().await;
    }
}
