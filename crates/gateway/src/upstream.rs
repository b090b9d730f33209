//! A service behind the gateway: in this process, or instances elsewhere.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Extensions, Request, Response, StatusCode, Uri, Version},
};
use gozon_contract::RandomSource;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::{
    Limits,
    balance::{Answer, Balance, Load},
    body::{self, Hold, Upload},
    config,
    door::Flight,
    failure::Failure,
    headers,
    instance::Lease,
    meters::Meters,
    names, tunnel,
};

/// A service behind the gateway.
pub(crate) struct Upstream {
    pub(crate) name: &'static str,
    place: Place,
    meters: Meters,
    response: Duration,
    stop: CancellationToken,
}

enum Place {
    Local(Router),
    Remote(Arc<Balance>),
}

/// A request on its way in.
pub(crate) struct Passage {
    pub(crate) request: Request<Body>,
    /// How its body is doing, if it has one.
    pub(crate) upload: Option<Upload>,
    pub(crate) websocket: bool,
    pub(crate) flight: Flight,
}

impl Upstream {
    pub(crate) fn new(
        name: &'static str,
        upstream: config::Upstream,
        limits: &Limits,
        random: &RandomSource,
        stop: CancellationToken,
    ) -> Self {
        let place = match upstream {
            config::Upstream::Local(router) => Place::Local(router),
            config::Upstream::Remote(origins) => {
                let balance = Arc::new(Balance::new(name, origins, limits, random.clone()));
                if balance.has_names() {
                    tokio::spawn(names::keep_up(balance.clone(), stop.clone()));
                }
                Place::Remote(balance)
            }
        };
        Self { name, place, meters: Meters::new(name), response: limits.response, stop }
    }

    /// The instances, if it is remote.
    pub(crate) fn balance(&self) -> Option<Arc<Balance>> {
        match &self.place {
            Place::Local(_) => None,
            Place::Remote(balance) => Some(balance.clone()),
        }
    }

    /// Passes a request on and its response's head back; the bodies stream.
    pub(crate) async fn call(&self, passage: Passage) -> Result<Response<Body>, Failure> {
        let started = Instant::now();
        let deadline = started + self.response;
        let answer = match &self.place {
            Place::Local(router) => local(router, passage, deadline).await,
            Place::Remote(balance) => self.remote(balance, passage, deadline).await,
        };
        match &answer {
            Ok(response) => {
                self.meters.answered(response.status().is_server_error(), started.elapsed());
            }
            Err(failure) => self.meters.failed(*failure),
        }
        answer
    }

    async fn remote(
        &self,
        balance: &Balance,
        passage: Passage,
        deadline: Instant,
    ) -> Result<Response<Body>, Failure> {
        let Passage { mut request, upload, websocket, flight } = passage;
        let client = websocket.then(|| hyper::upgrade::on(&mut request));
        *request.version_mut() = Version::HTTP_11;
        *request.extensions_mut() = Extensions::new();
        if request.uri().scheme().is_some() {
            let path = request.uri().path_and_query().cloned();
            *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
        }
        let load = if websocket { Load::Sockets } else { Load::Requests };
        let answer = balance.send(request, upload.as_ref(), load, deadline).await?;
        if let Some(fault) = upload.as_ref().and_then(Upload::fault) {
            return Err(fault);
        }
        let Answer { mut response, connection, lease } = answer;
        headers::strip_hop_by_hop(response.headers_mut());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(self.switch(client.ok_or(Failure::Broken)?, response, lease));
        }
        let hold = Hold { flight, from: Some((connection, lease)) };
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(|incoming| body::hold(incoming, hold)))
    }

    fn switch(
        &self,
        client: OnUpgrade,
        mut response: Response<Incoming>,
        lease: Lease,
    ) -> Response<Body> {
        tunnel::open(client, &mut response, lease, self.stop.clone());
        headers::keep_upgrade(response.headers_mut());
        response.map(|_| Body::empty())
    }
}

/// The service switches a WebSocket by itself: the request brings what it needs for that along.
async fn local(
    router: &Router,
    passage: Passage,
    deadline: Instant,
) -> Result<Response<Body>, Failure> {
    let Passage { request, upload, flight, .. } = passage;
    let answer = timeout_at(deadline, router.clone().call(request)).await;
    if let Some(fault) = upload.as_ref().and_then(Upload::fault) {
        return Err(fault);
    }
    match answer {
        Ok(Ok(response)) => {
            let hold = Hold { flight, from: None };
            Ok(response.map(|body| body::hold(body, hold)))
        }
        Err(_) if upload.as_ref().is_some_and(Upload::is_awaited) => Err(Failure::BodyTimeout),
        Err(_) => Err(Failure::Timeout),
    }
}
