//! The users that place orders.

use gozon_contract::RandomSource;
use uuid::{Builder, Uuid};

use crate::{Args, http};

/// The deposit of each user: the largest amount there is, so that no order is declined.
const DEPOSIT_BODY: &str = r#"{"amount":1000000000000}"#;
/// Each order.
const ORDER_BODY: &str = r#"{"amount":9900,"description":"A red kettle"}"#;

/// The users of a run. Each run makes new ones.
pub(crate) struct Users {
    ids: Vec<Uuid>,
    /// Each user's request for an order.
    requests: Vec<Vec<u8>>,
    distribution: Distribution,
    random: RandomSource,
}

/// How likely each user is to place the next order.
enum Distribution {
    Uniform,
    /// The running totals of the users' weights.
    Weighted(Vec<f64>),
}

impl Users {
    /// The users for a run with `args` against the shop at `host`.
    pub fn new(args: &Args, host: &str, random: RandomSource) -> Self {
        let count = if args.hot { 1 } else { args.users.max(1) };
        let id = |_| {
            let random = (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64());
            Builder::from_random_bytes(random.to_be_bytes()).into_uuid()
        };
        let ids: Vec<Uuid> = (0..count).map(id).collect();
        let request =
            |id: &Uuid| http::request("POST", "/orders", host, &id.to_string(), ORDER_BODY);
        let distribution = match args.zipf {
            Some(exponent) => Distribution::Weighted(zipf(count, exponent)),
            None => Distribution::Uniform,
        };
        Self { requests: ids.iter().map(request).collect(), ids, distribution, random }
    }

    /// Their ids.
    pub fn ids(&self) -> &[Uuid] {
        &self.ids
    }

    /// Draws a user: returns the index, and that user's request for an order.
    pub fn draw(&self) -> (usize, &[u8]) {
        let roll = self.random.next_u64();
        let index = match &self.distribution {
            Distribution::Uniform => usize::try_from(roll % self.ids.len() as u64).unwrap_or(0),
            Distribution::Weighted(totals) => {
                let share = (roll >> 11) as f64 / (1_u64 << 53) as f64;
                let point = share * totals.last().copied().unwrap_or(0.0);
                totals.partition_point(|total| *total <= point).min(self.ids.len() - 1)
            }
        };
        (index, &self.requests[index])
    }
}

/// Running totals of the weights of a Zipf distribution.
fn zipf(count: usize, exponent: f64) -> Vec<f64> {
    let mut total = 0.0;
    let weight = |rank| {
        total += (rank as f64).powf(-exponent);
        total
    };
    (1..=count).map(weight).collect()
}

/// Opens a user's account and pays in.
pub(crate) async fn open(
    connection: &mut http::Connection,
    host: &str,
    user: Uuid,
) -> anyhow::Result<()> {
    let user = user.to_string();
    for (path, body) in [("/accounts", ""), ("/accounts/deposit", DEPOSIT_BODY)] {
        let answer = connection.send(&http::request("POST", path, host, &user, body)).await?;
        if !matches!(answer.status, 200 | 201) {
            let body = String::from_utf8_lossy(answer.body);
            anyhow::bail!("POST {path} is answered {}: {body}", answer.status);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_fall_with_the_rank() {
        let totals: Vec<_> = zipf(3, 1.0).iter().map(|total| format!("{total:.2}")).collect();
        assert_eq!(totals, ["1.00", "1.50", "1.83"]);
    }
}
