//! Several instances of one service: which one gets a request, and who gets it next if that fails.

use std::sync::{Arc, PoisonError, RwLock, atomic::Ordering::Relaxed};

use axum::{
    body::Body,
    http::{Method, Request, Response},
};
use gozon_contract::RandomSource;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::{
    Limits, Origin,
    body::Upload,
    ejection::{Backoff, Strike},
    failure::Failure,
    instance::{Connection, Instance, Lease, Lost},
    meters, names,
};

/// What is counted per instance, each kind on its own: many idle sockets on one instance must not
/// drive all the requests to another.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    Requests,
    Sockets,
}

/// An answer, with the connection that its body comes on.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) connection: Connection,
    pub(crate) lease: Lease,
}

/// The instances at one moment. They change when a name gets other addresses.
pub(crate) type Instances = Arc<[Arc<Instance>]>;

/// The instances of one service.
pub(crate) struct Balance {
    name: &'static str,
    instances: RwLock<Instances>,
    backoff: Backoff,
    random: RandomSource,
    /// When the gateway started; the clock of ejections counts from here.
    born: Instant,
}

impl Balance {
    pub(crate) fn new(
        name: &'static str,
        origins: Vec<Origin>,
        limits: &Limits,
        random: RandomSource,
    ) -> Self {
        let instance = |origin| Arc::new(Instance::new(origin, limits.connect));
        Self {
            name,
            instances: RwLock::new(origins.into_iter().map(instance).collect()),
            backoff: Backoff { first: limits.eject, longest: limits.eject_longest },
            random,
            born: Instant::now(),
        }
    }

    fn instances(&self) -> Instances {
        self.instances.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether any instance is given by a name, which may come to stand for others.
    pub(crate) fn has_names(&self) -> bool {
        self.instances().iter().any(|instance| instance.origin.is_name())
    }

    /// Looks the names up again. What is under way at an instance that is gone ends there.
    pub(crate) async fn look_up(&self) {
        let old = self.instances();
        let new = names::look_up(&old).await;
        if !old.iter().map(Arc::as_ptr).eq(new.iter().map(Arc::as_ptr)) {
            tracing::info!(upstream = self.name, instances = new.len(), "the instances changed");
            *self.instances.write().unwrap_or_else(PoisonError::into_inner) = new;
        }
    }

    /// Sends a request to one instance, and on to the next as long as that is safe: it was never
    /// sent, or it is a GET or HEAD, which may be repeated once.
    pub(crate) async fn send(
        &self,
        mut request: Request<Body>,
        upload: Option<&Upload>,
        load: Load,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let mut repeat = repeatable(&request, upload);
        let mut fresh = false;
        let mut tried = Vec::new();
        let mut failure = Failure::Unreachable;
        let instances = self.instances();
        while let Some((at, lease)) = self.pick(&instances, load, &tried) {
            let lost = match lease.instance.exchange(request, fresh, deadline).await {
                Ok((response, connection)) => {
                    lease.instance.ejection.answered();
                    return Ok(Answer { response, connection, lease });
                }
                Err(lost) => lost,
            };
            // The client's own fault is none of the instance's.
            if let Some(fault) = upload.and_then(Upload::fault) {
                return Err(fault);
            }
            match lost {
                Lost::Unsent(unsent) => {
                    self.strike(&lease.instance, Strike::Unreachable);
                    if Instant::now() >= deadline {
                        return Err(failure);
                    }
                    request = *unsent;
                    tried.push(at);
                }
                Lost::Broken { reused } => {
                    failure = Failure::Broken;
                    if !reused {
                        self.strike(&lease.instance, Strike::Unfinished);
                        tried.push(at);
                    }
                    request = repeat.take().ok_or(failure)?;
                    fresh = true;
                }
                Lost::Late if upload.is_some_and(Upload::is_awaited) => {
                    return Err(Failure::BodyTimeout);
                }
                Lost::Late => {
                    self.strike(&lease.instance, Strike::Unfinished);
                    return Err(Failure::Timeout);
                }
            }
        }
        Err(failure)
    }

    /// Whether any instance can be reached.
    pub(crate) async fn reachable(&self) -> Result<(), String> {
        let instances = self.instances();
        for instance in instances.iter() {
            if !instance.ejection.is_ejected() && instance.is_connected() {
                return Ok(());
            }
        }
        for instance in instances.iter() {
            if let Ok(connection) = instance.connect().await {
                instance.ejection.answered();
                instance.keep(connection);
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
            meters::ejected(self.name);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_micros()).unwrap_or(u64::MAX / 2) + 1
    }
}

/// Two different numbers below `count`, which is at least 2.
fn two_of(count: usize, roll: u64) -> (usize, usize) {
    let (high, low) = ((roll >> 32) as usize, (roll & 0xffff_ffff) as usize);
    let first = low % count;
    (first, (first + 1 + high % (count - 1)) % count)
}

/// A copy of a request that may be sent again even if it may have been received: one that changes
/// nothing and has no body.
fn repeatable(request: &Request<Body>, upload: Option<&Upload>) -> Option<Request<Body>> {
    let safe = upload.is_none() && matches!(*request.method(), Method::GET | Method::HEAD);
    safe.then(|| {
        let mut copy = Request::new(Body::empty());
        copy.method_mut().clone_from(request.method());
        copy.uri_mut().clone_from(request.uri());
        copy.headers_mut().clone_from(request.headers());
        copy
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn balance(instances: u16) -> Balance {
        let origin = |n| format!("http://127.0.0.1:{}", 9000 + n).parse().unwrap();
        let origins = (0..instances).map(origin).collect();
        Balance::new("test", origins, &Limits::default(), RandomSource::seeded(3))
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
        let balance = balance(3);
        let instances = balance.instances();
        let _requests: Vec<_> =
            (0..300).map(|_| balance.pick(&instances, Load::Requests, &[]).unwrap()).collect();
        for instance in instances.iter() {
            assert!((98..=102).contains(&instance.load(Load::Requests).load(Relaxed)));
            assert_eq!(instance.load(Load::Sockets).load(Relaxed), 0);
        }
    }

    #[test]
    fn an_ejected_instance_is_chosen_only_if_all_are() {
        let balance = balance(2);
        let instances = balance.instances();
        balance.strike(&instances[0], Strike::Unreachable);
        for _ in 0..50 {
            assert_eq!(balance.pick(&instances, Load::Requests, &[]).map(|(at, _)| at), Some(1));
        }
        assert_eq!(balance.pick(&instances, Load::Requests, &[1]).map(|(at, _)| at), Some(0));
        instances[1].ejection.failed(
            Strike::Unreachable,
            balance.now() + 10,
            balance.backoff,
            &balance.random,
        );
        assert_eq!(balance.pick(&instances, Load::Requests, &[]).map(|(at, _)| at), Some(0));
        assert!(balance.pick(&instances, Load::Requests, &[0, 1]).is_none());
    }
}
