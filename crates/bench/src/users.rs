//! Who orders.

use gozon_contract::RandomSource;
use uuid::{Builder, Uuid};

use crate::{Args, http};

/// What each user has on the account: the largest top-up there is.
const DEPOSIT: &str = r#"{"amount":1000000000000}"#;
/// What is ordered.
const ORDER: &str = r#"{"amount":9900,"description":"A red kettle"}"#;

/// The users of a run, new ones each time.
pub(crate) struct Users {
    ids: Vec<Uuid>,
    orders: Vec<Vec<u8>>,
    draw: Draw,
    random: RandomSource,
}

/// Which user is next.
enum Draw {
    Uniform,
    /// The running total of the users' weights.
    Weighted(Vec<f64>),
}

impl Users {
    /// The users that `args` asks for, of the shop at `host`.
    pub fn new(args: &Args, host: &str, random: RandomSource) -> Self {
        let count = if args.hot { 1 } else { args.users.max(1) };
        let id = |_| {
            let random = (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64());
            Builder::from_random_bytes(random.to_be_bytes()).into_uuid()
        };
        let ids: Vec<Uuid> = (0..count).map(id).collect();
        let order = |id: &Uuid| http::request("POST", "/orders", host, &id.to_string(), ORDER);
        let draw = match args.zipf {
            Some(exponent) => Draw::Weighted(zipf(count, exponent)),
            None => Draw::Uniform,
        };
        Self { orders: ids.iter().map(order).collect(), ids, draw, random }
    }

    /// Their ids.
    pub fn ids(&self) -> &[Uuid] {
        &self.ids
    }

    /// Draws a user: the index, and the request with which that user places an order.
    pub fn draw(&self) -> (usize, &[u8]) {
        let roll = self.random.next_u64();
        let index = match &self.draw {
            Draw::Uniform => usize::try_from(roll % self.ids.len() as u64).unwrap_or(0),
            Draw::Weighted(totals) => {
                let share = (roll >> 11) as f64 / (1_u64 << 53) as f64;
                let point = share * totals.last().copied().unwrap_or(0.0);
                totals.partition_point(|total| *total <= point).min(self.ids.len() - 1)
            }
        };
        (index, &self.orders[index])
    }
}

fn zipf(count: usize, exponent: f64) -> Vec<f64> {
    let mut total = 0.0;
    let weight = |rank| {
        total += (rank as f64).powf(-exponent);
        total
    };
    (1..=count).map(weight).collect()
}

/// Opens and tops up a user's account.
pub(crate) async fn open(
    connection: &mut http::Connection<'_>,
    host: &str,
    user: Uuid,
) -> anyhow::Result<()> {
    let user = user.to_string();
    for (path, body) in [("/accounts", ""), ("/accounts/deposit", DEPOSIT)] {
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
