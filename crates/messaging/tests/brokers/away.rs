//! A server that is not there, or does not do what it is asked: an error, soon, without secrets.

use std::fmt::Debug;

use gozon_messaging::BrokerError;
use tokio::net::TcpListener;

use crate::subject::{Rig, Subject, in_time};

const PASSWORD: &str = "correct-horse";

/// Every call to the broker at `url` fails, and says nothing of the password.
async fn nothing_works(url: String) {
    let rig = Rig::at(Some(url));
    let batches = rig.batches("lost", 10);
    let (publish, subscribe, listen, ping) = tokio::join!(
        in_time(rig.broker.publish(&batches)),
        in_time(rig.broker.subscribe(rig.queue)),
        in_time(rig.broker.subscribe(rig.broadcast)),
        in_time(rig.broker.ping()),
    );
    is_clean(publish);
    is_clean(subscribe.map(drop));
    is_clean(listen.map(drop));
    is_clean(ping);
}

fn is_clean<T: Debug>(answer: Result<T, BrokerError>) {
    let error = answer.unwrap_err();
    let waits = matches!(error, BrokerError::Away(_) | BrokerError::Misconfigured(_));
    assert!(waits, "{error:?}");
    assert!(!format!("{error} {error:?}").contains(PASSWORD), "{error}");
}

pub async fn closed_port_is_a_clean_error(subject: &Subject) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    nothing_works(subject.server().url_at(&address.to_string())).await;
}

/// It accepts the connection and then says nothing.
pub async fn silent_server_is_a_clean_error(subject: &Subject) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    nothing_works(subject.server().url_at(&address.to_string())).await;
}

pub async fn refused_credentials_are_a_clean_error(subject: &Subject) {
    let url = subject.server().url();
    let (scheme, rest) = url.split_once("://").unwrap();
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    nothing_works(format!("{scheme}://guest:{PASSWORD}@{place}")).await;
    let (server, _) = place.split_once('/').unwrap_or((place, ""));
    nothing_works(format!("{scheme}://guest:guest@{server}/no-such-host")).await;
}
