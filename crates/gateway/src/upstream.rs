//! A service behind the gateway: in this process, or instances elsewhere.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Request, Response, StatusCode, Version},
};
use gozon_contract::RandomSource;
use gozon_http::{Health, RequestContext, add_timing};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::{
    config::{self, Limits},
    error::ProxyError,
    events,
    grpc::{self, GrpcTransport},
    headers,
    instance::Load,
    load_balancer::LoadBalancer,
    metrics::UpstreamMetrics,
    origin::Carrier,
    permit::{Permit, keep_until_sent},
    tunnel::Tunnels,
};

/// How often names are looked up again.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(2);

/// What all upstreams are made with.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    pub(crate) limits: &'a Limits,
    pub(crate) random: &'a RandomSource,
    pub(crate) tunnels: &'a Tunnels,
    pub(crate) stop: &'a CancellationToken,
}

/// A service behind the gateway.
pub(crate) struct Upstream {
    name: &'static str,
    place: Place,
    metrics: Arc<UpstreamMetrics>,
    tunnels: Tunnels,
}

enum Place {
    Local(Router),
    Remote(Arc<LoadBalancer>),
    /// The router answers REST and calls the service over gRPC.
    Grpc(Router, Arc<LoadBalancer>),
}

impl Upstream {
    /// `rest` makes the routes that answer REST over gRPC.
    pub(crate) fn new(
        name: &'static str,
        upstream: config::Upstream,
        shared: Shared<'_>,
        rest: impl FnOnce(GrpcTransport) -> Router,
    ) -> Self {
        let Shared { limits, random, stop, .. } = shared;
        let metrics = Arc::new(UpstreamMetrics::new(name));
        let place = match upstream {
            config::Upstream::Local(router) => Place::Local(router),
            config::Upstream::Remote(origins) => {
                let is_grpc =
                    origins.first().is_some_and(|origin| origin.carrier() == Carrier::Grpc);
                let balancer = Arc::new(LoadBalancer::new(name, origins, limits, random.clone()));
                if balancer.has_names() {
                    gozon_seam::spawn(keep_resolving(balancer.clone(), stop.clone()));
                }
                if is_grpc {
                    let (metrics, limit) = (metrics.clone(), limits.response);
                    let transport = GrpcTransport { balancer: balancer.clone(), metrics, limit };
                    Place::Grpc(rest(transport), balancer)
                } else {
                    Place::Remote(balancer)
                }
            }
        };
        Self { name, place, metrics, tunnels: shared.tunnels.clone() }
    }

    /// A part that is missing while no instance can be reached; none if it is in this process.
    pub(crate) fn health(&self) -> Health {
        let (Place::Remote(balancer) | Place::Grpc(_, balancer)) = &self.place else {
            return Health::default();
        };
        let balancer = balancer.clone();
        Health::default().with(self.name, move || {
            let balancer = balancer.clone();
            async move { balancer.reachable().await }
        })
    }

    /// Forwards a request and returns the response; its body streams.
    pub(crate) async fn call(
        &self,
        mut request: Request<Bytes>,
        permit: Permit,
        deadline: Instant,
    ) -> Result<Response<Body>, ProxyError> {
        let started = Instant::now();
        if let Some(context) = request.extensions_mut().get_mut::<RequestContext>() {
            context.deadline = Some(deadline);
        }
        let answer = match &self.place {
            Place::Local(router) => local(router, request, permit, deadline).await,
            Place::Remote(balancer) => self.remote(balancer, request, permit, deadline).await,
            // The transport counts its calls, and keeps the deadline.
            Place::Grpc(routes, _) => {
                let mut response = grpc::answer(routes.clone(), request.map(Body::from)).await;
                add_timing(response.headers_mut(), self.name, started.elapsed());
                return Ok(keep_permit(response, permit));
            }
        };
        match &answer {
            Ok(response) => {
                self.metrics.answered(response.status().is_server_error(), started.elapsed());
            }
            Err(error) => self.metrics.failed(*error),
        }
        answer
    }

    async fn remote(
        &self,
        balancer: &LoadBalancer,
        mut request: Request<Bytes>,
        permit: Permit,
        deadline: Instant,
    ) -> Result<Response<Body>, ProxyError> {
        let (is_websocket, client) =
            (headers::wants_websocket(&request), hyper::upgrade::on(&mut request));
        headers::forward(&mut request, is_websocket);
        let load = if is_websocket { Load::Sockets } else { Load::Requests };
        let (mut response, lease) = balancer.send(request, load, deadline).await?;
        headers::strip_hop_by_hop(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            if !is_websocket {
                return Err(ProxyError::BadGateway);
            }
            self.tunnels.open(client, &mut response, lease);
            headers::keep_upgrade(response.headers_mut());
            return Ok(response.map(|_| Body::empty()));
        }
        if response.status() == StatusCode::UPGRADE_REQUIRED {
            // It must say to what (RFC 9110, section 15.5.22).
            headers::keep_upgrade(response.headers_mut());
        }
        if events::is_event_stream(response.headers()) {
            return Ok(response.map(|body| self.tunnels.open_events(body, lease)));
        }
        Ok(response.map(|body| keep_until_sent(body, (permit, lease))))
    }
}

/// The service switches a WebSocket by itself: the request brings what it needs for that along.
async fn local(
    router: &Router,
    request: Request<Bytes>,
    permit: Permit,
    deadline: Instant,
) -> Result<Response<Body>, ProxyError> {
    match timeout_at(deadline, router.clone().call(request.map(Body::from))).await {
        Ok(Ok(response)) => Ok(keep_permit(response, permit)),
        Err(_) => Err(ProxyError::Timeout),
    }
}

/// The request is in flight until its response has been sent. A stream of events has no end, like a
/// WebSocket, and is none.
fn keep_permit(response: Response<Body>, permit: Permit) -> Response<Body> {
    let permit = (!events::is_event_stream(response.headers())).then_some(permit);
    response.map(|body| keep_until_sent(body, permit))
}

async fn keep_resolving(balancer: Arc<LoadBalancer>, stop: CancellationToken) {
    let forever = async {
        loop {
            balancer.resolve().await;
            sleep(RESOLVE_INTERVAL).await;
        }
    };
    stop.run_until_cancelled(forever).await;
}
