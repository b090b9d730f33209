//! What every serving process does: listen, tell how it is, and stop in order.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use gozon_chassis::{Health, Limits, Metrics, Tasks, health_routes, serve};
use tokio::{net::TcpListener, signal::unix::SignalKind};
use tokio_util::sync::CancellationToken;

/// Takes an address.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address}; is something else running there?"))
}

/// Serves `routes` until SIGTERM or Ctrl-C; then takes no more requests, finishes those under way,
/// and stops the loops, stage by stage. Metrics and health are served on `admin` until the end.
pub async fn run(
    name: &str,
    listener: TcpListener,
    admin: Option<SocketAddr>,
    routes: Router,
    health: Health,
    tasks: Tasks,
) -> anyhow::Result<()> {
    let admin_stop = CancellationToken::new();
    if let Some(address) = admin {
        let metrics = Metrics::start().context("can't collect metrics")?;
        let routes = metrics.routes().merge(health_routes(health));
        let listener = listen(address).await?;
        tokio::spawn(serve(listener, routes, Limits::default(), admin_stop.clone()));
    }
    let stop = CancellationToken::new();
    tokio::spawn({
        let stop = stop.clone();
        async move {
            asked_to_stop().await;
            stop.cancel();
        }
    });
    tracing::info!("{name} listens on http://{}", listener.local_addr()?);
    serve(listener, routes, Limits::default(), stop).await;
    tracing::info!("stopping: finishing what was accepted");
    tasks.stop().await;
    admin_stop.cancel();
    tracing::info!("stopped");
    Ok(())
}

/// SIGTERM or Ctrl-C. A second Ctrl-C ends the process at once, as it does by default.
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
