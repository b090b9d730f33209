//! The load balancer of one service: which instance gets a request, and which one is next if that
//! fails.

use std::{
    sync::{Arc, PoisonError, RwLock, atomic::Ordering::Relaxed},
    time::Duration,
};

use axum::{
    body::Bytes,
    http::{HeaderName, Method, Request, Response},
};
use gozon_contract::RandomSource;
use gozon_seam::mutation;
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::{
    config::Limits,
    dns::{self, Instances},
    ejection::{Backoff, Strike},
    error::ProxyError,
    instance::{Connections, Instance, Lease, Load, SendError, connections},
    metrics,
    origin::Origin,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

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

    /// Sends a request to one instance, and on to others as long as that is safe: it was never
    /// sent, or it may be repeated.
    pub(crate) async fn send(
        &self,
        request: Request<Bytes>,
        load: Load,
        deadline: Instant,
    ) -> Result<(Response<Incoming>, Lease), ProxyError> {
        let repeatable = is_repeatable(&request);
        let (parts, body) = request.into_parts();
        let instances = self.instances();
        let mut tried = Vec::new();
        let mut error = ProxyError::Unreachable;
        while let Some((at, lease)) = self.pick(&instances, load, &tried) {
            // A copy, since the client does not give back what it has not sent.
            let attempt = Request::from_parts(parts.clone(), Full::new(body.clone()));
            match lease.instance.send(&self.connections, attempt, deadline).await {
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
