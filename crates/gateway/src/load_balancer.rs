//! The load balancer of one service: which instance gets a request, and which one is next if that
//! fails.

use std::{
    sync::{Arc, PoisonError, RwLock, atomic::Ordering::Relaxed},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, Method, Request, Response},
};
use gozon_contract::RandomSource;
use gozon_http::IDEMPOTENCY_KEY;
use gozon_seam::mutation;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use crate::{
    channel,
    config::Limits,
    dns::{self, Instances},
    ejection::{Backoff, Strike},
    error::ProxyError,
    instance::{Connections, Instance, Lease, Load, SendError, connections},
    metrics,
    origin::Origin,
};

/// The instances of one service.
pub(crate) struct LoadBalancer {
    name: &'static str,
    instances: RwLock<Instances>,
    connections: Connections,
    connect: Duration,
    backoff: Backoff,
    random: RandomSource,
    /// When the gateway started; the clock of ejections counts from here.
    started: Instant,
}

impl LoadBalancer {
    pub(crate) fn new(
        name: &'static str,
        origins: Vec<Origin>,
        limits: &Limits,
        random: RandomSource,
    ) -> Self {
        let instance = |origin| Arc::new(Instance::new(origin));
        Self {
            name,
            instances: RwLock::new(origins.into_iter().map(instance).collect()),
            connections: connections(limits.connect),
            connect: limits.connect,
            backoff: Backoff { first: limits.eject, longest: limits.eject_longest },
            random,
            started: Instant::now(),
        }
    }

    fn instances(&self) -> Instances {
        self.instances.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether any instance is given by a name, whose addresses may change.
    pub(crate) fn has_names(&self) -> bool {
        self.instances().iter().any(|instance| instance.origin.is_name())
    }

    /// Looks the names up again. What is under way at an instance that is gone ends there.
    pub(crate) async fn resolve(&self) {
        let old = self.instances();
        let new = dns::resolve(&old).await;
        if !old.iter().map(Arc::as_ptr).eq(new.iter().map(Arc::as_ptr)) {
            tracing::info!(upstream = self.name, instances = new.len(), "the instances changed");
            *self.instances.write().unwrap_or_else(PoisonError::into_inner) = new;
        }
    }

    /// Sends a request to one instance and waits for the response's head.
    pub(crate) async fn send(
        &self,
        request: Request<Bytes>,
        load: Load,
        deadline: Instant,
    ) -> Result<(Response<Incoming>, Lease), ProxyError> {
        let repeatable = is_repeatable(&request);
        let (parts, body) = request.into_parts();
        let attempt = |instance: Arc<Instance>| {
            // A copy, since the client does not give back what it has not sent.
            let attempt = Request::from_parts(parts.clone(), Full::new(body.clone()));
            async move { instance.send(&self.connections, attempt, deadline).await }
        };
        self.dispatch(repeatable, load, attempt).await
    }

    /// Calls one instance over gRPC and waits for the whole response.
    pub(crate) async fn call(
        &self,
        request: Request<Bytes>,
        repeatable: bool,
        deadline: Instant,
    ) -> Result<Response<Body>, ProxyError> {
        let attempt = |instance: Arc<Instance>| {
            let request = &request;
            async move {
                let response = self.open(&instance, Load::Requests, request, deadline).await?;
                let (head, body) = response.into_parts();
                match timeout_at(deadline, body.collect()).await {
                    Ok(Ok(_)) if is_too_late(&head.headers) => Err(SendError::Timeout),
                    Ok(Ok(whole)) => Ok(Response::from_parts(head, Body::new(whole))),
                    Ok(Err(_)) => Err(SendError::Broken),
                    Err(_) => Err(SendError::Timeout),
                }
            }
        };
        Ok(self.dispatch(repeatable, Load::Requests, attempt).await?.0)
    }

    /// Begins a watch at one instance over gRPC.
    pub(crate) async fn watch(
        &self,
        request: Request<Bytes>,
        deadline: Instant,
    ) -> Result<(Response<channel::Incoming>, Lease), ProxyError> {
        let attempt = |instance: Arc<Instance>| {
            let request = &request;
            async move { self.open(&instance, Load::Sockets, request, deadline).await }
        };
        self.dispatch(true, Load::Sockets, attempt).await
    }

    async fn open(
        &self,
        instance: &Arc<Instance>,
        load: Load,
        request: &Request<Bytes>,
        deadline: Instant,
    ) -> Result<Response<channel::Incoming>, SendError> {
        instance.channels.send(instance, load, request, self.connect, deadline).await
    }

    /// Tries one instance, and others as long as that is safe: the request was never sent, or it may
    /// be repeated.
    async fn dispatch<R, F>(
        &self,
        repeatable: bool,
        load: Load,
        attempt: impl Fn(Arc<Instance>) -> F,
    ) -> Result<(R, Lease), ProxyError>
    where
        F: Future<Output = Result<R, SendError>>,
    {
        let instances = self.instances();
        let mut tried = Vec::new();
        let mut error = ProxyError::Unreachable;
        while let Some((at, lease)) = self.pick(&instances, load, &tried) {
            match attempt(lease.instance.clone()).await {
                Ok(response) => {
                    lease.instance.ejection.answered();
                    return Ok((response, lease));
                }
                Err(SendError::Unsent) => self.strike(&lease.instance, Strike::Unreachable),
                Err(SendError::Broken) => {
                    self.strike(&lease.instance, Strike::Unfinished);
                    if !repeatable {
                        return Err(ProxyError::BadGateway);
                    }
                    // It may have been a kept connection that was just being closed: the only
                    // instance gets a second chance.
                    let again = instances.len() == 1 && error != ProxyError::BadGateway;
                    error = ProxyError::BadGateway;
                    if again {
                        continue;
                    }
                }
                Err(SendError::Timeout) => {
                    self.strike(&lease.instance, Strike::Unfinished);
                    return Err(ProxyError::Timeout);
                }
            }
            tried.push(at);
        }
        Err(error)
    }

    /// Whether any instance accepts connections; those in use are asked first.
    pub(crate) async fn reachable(&self) -> Result<(), String> {
        let instances = self.instances();
        let (ejected, used): (Vec<_>, Vec<_>) =
            instances.iter().partition(|instance| instance.ejection.is_ejected());
        for instance in used.into_iter().chain(ejected) {
            if instance.reachable(self.connect).await.is_ok() {
                return Ok(());
            }
        }
        Err("no instance can be reached".to_owned())
    }

    /// Chooses among the instances not tried yet: an ejected one whose time for a trial has come,
    /// else the less loaded of two random ones in use, else the one that failed longest ago.
    fn pick(
        &self,
        instances: &[Arc<Instance>],
        load: Load,
        tried: &[usize],
    ) -> Option<(usize, Lease)> {
        let lease = |at: usize| (at, Lease::take(&instances[at], load));
        if let [only] = instances {
            // Nobody else could answer, so it is tried however it did lately.
            return tried.is_empty().then(|| (0, Lease::take(only, load)));
        }
        let open = || (0..instances.len()).filter(|at| !tried.contains(at));
        let mut used = 0;
        for at in open() {
            let ejection = &instances[at].ejection;
            if !ejection.is_ejected() {
                used += 1;
            } else if ejection.claim_trial(self.now(), self.backoff) {
                return Some(lease(at));
            }
        }
        let in_use = |n: usize| open().filter(|&at| !instances[at].ejection.is_ejected()).nth(n);
        let chosen = match used {
            0 => None,
            1 => in_use(0),
            _ => {
                let (first, second) = two_of(used, self.random.next_u64());
                let loaded = |at: &usize| instances[*at].load(load).load(Relaxed);
                in_use(first).into_iter().chain(in_use(second)).min_by_key(loaded)
            }
        };
        let longest_ago = || open().min_by_key(|&at| instances[at].ejection.failed_at());
        chosen.or_else(longest_ago).map(lease)
    }

    fn strike(&self, instance: &Instance, strike: Strike) {
        if instance.ejection.failed(strike, self.now(), self.backoff, &self.random) {
            tracing::warn!(%instance, ?strike, "an instance is left alone");
            metrics::ejected(self.name);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX / 2) + 1
    }
}

/// Two different numbers below `count`, which is at least 2.
fn two_of(count: usize, roll: u64) -> (usize, usize) {
    let (high, low) = ((roll >> 32) as usize, (roll & 0xffff_ffff) as usize);
    let first = low % count;
    (first, (first + 1 + high % (count - 1)) % count)
}

/// Whether the service has said that the deadline has passed: it is as late as if it said nothing.
fn is_too_late(headers: &HeaderMap) -> bool {
    headers.get("grpc-status").is_some_and(|code| code == "4")
}

/// Whether a request may be sent again although it may have been received: it changes nothing, or
/// the service knows it again by its key.
fn is_repeatable(request: &Request<Bytes>) -> bool {
    match *request.method() {
        Method::GET | Method::HEAD => true,
        Method::POST if mutation!("any POST is sent to the next instance") => true,
        Method::POST => request.headers().contains_key(IDEMPOTENCY_KEY),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn balancer(instances: u16) -> LoadBalancer {
        let origin = |n| format!("http://127.0.0.1:{}", 9000 + n).parse().unwrap();
        let origins = (0..instances).map(origin).collect();
        LoadBalancer::new("test", origins, &Limits::default(), RandomSource::seeded(3))
    }

    #[test]
    fn two_of_gives_two_different_ones() {
        let random = RandomSource::seeded(1);
        for count in 2..6 {
            let pairs: HashSet<_> = (0..1000).map(|_| two_of(count, random.next_u64())).collect();
            assert_eq!(pairs.len(), count * (count - 1));
            assert!(pairs.iter().all(|(a, b)| a != b && *a < count && *b < count));
        }
    }

    #[test]
    fn load_is_spread_and_kinds_are_counted_apart() {
        let balancer = balancer(3);
        let instances = balancer.instances();
        let _requests: Vec<_> =
            (0..300).map(|_| balancer.pick(&instances, Load::Requests, &[]).unwrap()).collect();
        for instance in instances.iter() {
            assert!((98..=102).contains(&instance.load(Load::Requests).load(Relaxed)));
            assert_eq!(instance.load(Load::Sockets).load(Relaxed), 0);
        }
    }

    #[test]
    fn an_ejected_instance_is_chosen_only_if_all_are() {
        let balancer = balancer(2);
        let instances = balancer.instances();
        balancer.strike(&instances[0], Strike::Unreachable);
        for _ in 0..50 {
            assert_eq!(balancer.pick(&instances, Load::Requests, &[]).map(|(at, _)| at), Some(1));
        }
        assert_eq!(balancer.pick(&instances, Load::Requests, &[1]).map(|(at, _)| at), Some(0));
        instances[1].ejection.failed(
            Strike::Unreachable,
            balancer.now() + 10,
            balancer.backoff,
            &balancer.random,
        );
        assert_eq!(balancer.pick(&instances, Load::Requests, &[]).map(|(at, _)| at), Some(0));
        assert!(balancer.pick(&instances, Load::Requests, &[0, 1]).is_none());
    }
}
