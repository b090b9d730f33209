//! A name that stands for several instances, as a service's name does where its containers are
//! scaled: each of its addresses is an instance of its own.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{net::lookup_host, time::timeout};

use crate::instance::Instance;

/// How long looking up a name may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The instances at one moment. They change when a name gets other addresses.
pub(crate) type Instances = Arc<[Arc<Instance>]>;

/// The instances that the same origins stand for now. Those that were there before stay the same,
/// with their connections and their record; so do all of a name that can't be looked up.
pub(crate) async fn resolve(old: &[Arc<Instance>]) -> Instances {
    let mut new = Vec::with_capacity(old.len());
    for siblings in old.chunk_by(|a, b| a.origin == b.origin) {
        let origin = &siblings[0].origin;
        let found = if origin.is_name() {
            timeout(RESOLVE_TIMEOUT, lookup_host((origin.host.as_str(), origin.port))).await
        } else {
            new.extend_from_slice(siblings);
            continue;
        };
        match found {
            Ok(Ok(found)) => new.extend(match_up(siblings, found.map(|at| at.ip()).collect())),
            _ => new.extend_from_slice(siblings),
        }
    }
    new.into()
}

/// The instances at these addresses. A single address, or one of each family, is a single
/// instance, which is reached by its name; `localhost` is such a name.
fn match_up(siblings: &[Arc<Instance>], mut addresses: Vec<IpAddr>) -> Vec<Arc<Instance>> {
    addresses.sort_unstable();
    addresses.dedup();
    let families = addresses.chunk_by(|a, b| a.is_ipv4() == b.is_ipv4());
    let wanted: Vec<_> = if addresses.is_empty() {
        return siblings.to_vec();
    } else if families.clone().all(|family| family.len() == 1) {
        vec![None]
    } else {
        addresses.iter().copied().map(Some).collect()
    };
    let same = |address| siblings.iter().find(|sibling| sibling.address == address).cloned();
    let another = |address| Arc::new(siblings[0].sibling(address));
    wanted.into_iter().map(|at| same(at).unwrap_or_else(|| another(at))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instances(url: &str) -> Vec<Arc<Instance>> {
        vec![Arc::new(Instance::new(url.parse().unwrap()))]
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn each_address_of_a_name_is_an_instance() {
        let one = instances("http://orders:8081");
        let two = match_up(&one, addresses(&["10.0.0.2", "10.0.0.1", "10.0.0.2"]));
        let shown: Vec<_> = two.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["http://orders:8081 at 10.0.0.1", "http://orders:8081 at 10.0.0.2"]);
        let three = match_up(&two, addresses(&["10.0.0.3", "10.0.0.2", "10.0.0.4"]));
        assert_eq!(three.len(), 3);
        assert!(Arc::ptr_eq(&two[1], &three[0]));
        assert!(match_up(&three, Vec::new()).iter().zip(&three).all(|(a, b)| Arc::ptr_eq(a, b)));
    }

    #[test]
    fn one_address_of_each_family_is_one_instance() {
        let one = instances("http://localhost:8081");
        let same = match_up(&one, addresses(&["::1", "127.0.0.1"]));
        assert!(same.len() == 1 && Arc::ptr_eq(&one[0], &same[0]));
    }

    #[tokio::test]
    async fn a_name_that_is_not_found_changes_nothing() {
        for url in ["http://no-such-name.invalid:8081", "http://10.0.0.1:8081"] {
            let one = instances(url);
            assert!(Arc::ptr_eq(&one[0], &resolve(&one).await[0]));
        }
    }
}
