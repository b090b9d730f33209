//! Which upstream a path belongs to.

/// Who answers a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Orders,
    Payments,
    Web,
}

/// Paths are taken as they come: nothing is decoded or normalised here, and nothing is on the way
/// to the upstream, so both ends read the same path. What merely looks like a service's path once
/// it is decoded (`//orders`, `/%6Frders`, `/orders%2F1`) never reaches that service.
pub(crate) fn target(path: &str) -> Target {
    if under(path, "/orders") {
        Target::Orders
    } else if under(path, "/accounts") {
        Target::Payments
    } else {
        Target::Web
    }
}

fn under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_prefix_is_a_service() {
        for orders in ["/orders", "/orders/", "/orders/1", "/orders/../accounts", "/orders//x"] {
            assert_eq!(target(orders), Target::Orders, "{orders}");
        }
        for payments in ["/accounts", "/accounts/balance", "/accounts/../orders"] {
            assert_eq!(target(payments), Target::Payments, "{payments}");
        }
        for web in [
            "",
            "/",
            "*",
            "/ordersX",
            "/orders%2F1",
            "//orders",
            "/%6Frders",
            "/Orders",
            "/./orders",
            "/x/../orders",
            "/accounts;x",
            "/accounts.json",
        ] {
            assert_eq!(target(web), Target::Web, "{web}");
        }
    }
}
