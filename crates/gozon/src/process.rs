//! What every serving process does: listen, report its health, and stop in order.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, bail};
use axum::Router;
use gozon_contract::{RandomSource, Topic};
use gozon_http::{Edge, Health, Limits, Metrics, health_routes, serve};
use gozon_messaging::Broker;
use gozon_service::{Stage, Tasks};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::settings::names;

/// The exit code of a process that a signal ended is this and the signal's number.
const EXIT_BY_SIGNAL: i32 = 128;

/// Binds an address.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address}; is something else running there?"))
}

/// What a process serves, and where.
pub struct Server {
    /// Its name in the log.
    pub name: &'static str,
    /// The public address.
    pub listener: TcpListener,
    /// Where metrics and health are served, if anywhere.
    pub admin: Option<SocketAddr>,
    /// What is served.
    pub routes: Router,
    /// Whether HTTP/2 is served too, for gRPC.
    pub http2: bool,
    /// Whether it can do its work.
    pub health: Health,
    /// Its loops.
    pub tasks: Tasks,
}

/// A token that is cancelled by SIGTERM or Ctrl-C. A second signal ends the process at once.
pub fn stop_on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals can't be received; SIGTERM and Ctrl-C end the process at once");
        return stop;
    };
    let stopping = stop.clone();
    tokio::spawn(async move {
        next_signal(&mut terminate, &mut interrupt).await;
        stopping.cancel();
        tracing::info!("asked to stop; a second signal ends the process at once");
        let second = next_signal(&mut terminate, &mut interrupt).await;
        tracing::warn!("ended by a second signal, before everything was finished");
        std::process::exit(EXIT_BY_SIGNAL + second.as_raw_value());
    });
    stop
}

async fn next_signal(terminate: &mut Signal, interrupt: &mut Signal) -> SignalKind {
    tokio::select! {
        _ = terminate.recv() => SignalKind::terminate(),
        _ = interrupt.recv() => SignalKind::interrupt(),
    }
}

/// The broker of the setting `--broker-url`.
pub fn broker(
    url: &str,
    topics: &'static [Topic],
    random: &RandomSource,
) -> anyhow::Result<Arc<dyn Broker>> {
    gozon_messaging::broker::connect(url, topics, random)
        .with_context(|| format!("{} can't be used", names("broker-url")))
}

/// Serves until `stop`; then takes no more requests, closes live streams, finishes the requests
/// under way, and stops the loops, stage by stage. Metrics and health are served until the end.
pub async fn run(server: Server, stop: CancellationToken) -> anyhow::Result<()> {
    let Server { name, listener, admin, routes, http2, health, tasks } = server;
    let admin_stop = CancellationToken::new();
    if let Some(address) = admin {
        let metrics = Metrics::start().context("can't collect metrics")?;
        let edge = Edge { service: "admin", random: RandomSource::system() };
        let routes = gozon_http::edge(metrics.routes().merge(health_routes(health)), edge);
        let listener = listen(address).await?;
        tokio::spawn(serve(listener, routes, Limits::default(), admin_stop.clone()));
    }
    tracing::info!("{name} listens on http://{}", listener.local_addr()?);
    let failed = tasks.failed();
    let streams_closed = async {
        stop.cancelled().await;
        tasks.stop_stage(Stage::Streams).await;
    };
    let limits = Limits { http2, ..Limits::default() };
    let serving = serve(listener, routes, limits, stop.clone());
    tokio::select! {
        _ = async { tokio::join!(serving, streams_closed) } => {}
        () = failed.cancelled() => bail!("a loop of {name} has ended; see the log"),
    }
    tracing::info!("stopping: finishing what was accepted");
    tasks.stop().await;
    admin_stop.cancel();
    tracing::info!("stopped");
    Ok(())
}
