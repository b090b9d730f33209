//! What every serving process does: listen, tell how it is, and stop in order.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use axum::Router;
use gozon_http::{Health, Limits, Metrics, health_routes, serve};
use gozon_service::Tasks;
use tokio::{net::TcpListener, signal::unix::SignalKind};
use tokio_util::sync::CancellationToken;

/// Takes an address.
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
    /// Whether it can do its work.
    pub health: Health,
    /// Its loops.
    pub tasks: Tasks,
}

/// A token that is cancelled by SIGTERM or Ctrl-C.
pub fn stop_on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        asked_to_stop().await;
        asked.cancel();
    });
    stop
}

/// Serves until `stop`; then takes no more requests, finishes those under way, and stops the
/// loops, stage by stage. Metrics and health are served until the end.
pub async fn run(server: Server, stop: CancellationToken) -> anyhow::Result<()> {
    let Server { name, listener, admin, routes, health, tasks } = server;
    let admin_stop = CancellationToken::new();
    if let Some(address) = admin {
        let metrics = Metrics::start().context("can't collect metrics")?;
        let routes = metrics.routes().merge(health_routes(health));
        let listener = listen(address).await?;
        tokio::spawn(serve(listener, routes, Limits::default(), admin_stop.clone()));
    }
    tracing::info!("{name} listens on http://{}", listener.local_addr()?);
    let failed = tasks.failed();
    let serving = serve(listener, routes, Limits::default(), stop);
    tokio::select! {
        () = serving => {}
        () = failed.cancelled() => bail!("a loop of {name} has ended; see the log"),
    }
    tracing::info!("stopping: finishing what was accepted");
    tasks.stop().await;
    admin_stop.cancel();
    tracing::info!("stopped");
    Ok(())
}

async fn asked_to_stop() {
    let terminated = async {
        match tokio::signal::unix::signal(SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
