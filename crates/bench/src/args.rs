//! What to ask for, how fast, and for whom.

use std::path::PathBuf;

/// The settings of `gozon bench`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The shop to load; must be http
    #[arg(long, env = "GOZON_URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// Clients, each with one request under way at a time
    #[arg(long, env = "GOZON_CLIENTS", default_value_t = 128)]
    pub clients: usize,
    /// Orders per second to start, whether earlier ones were answered or not; latency then counts
    /// from the instant at which an order was due. Without it every client asks as fast as it is
    /// answered
    #[arg(long, env = "GOZON_RATE")]
    pub rate: Option<f64>,
    /// Users that order, each as likely as the other
    #[arg(long, env = "GOZON_USERS", default_value_t = 400)]
    pub users: usize,
    /// Draw users from a Zipf distribution with this exponent instead: the higher, the more orders
    /// the first ones make
    #[arg(long, env = "GOZON_ZIPF")]
    pub zipf: Option<f64>,
    /// Have one user make all orders
    #[arg(long, env = "GOZON_HOT", conflicts_with_all = ["zipf", "users"])]
    pub hot: bool,
    /// For how many seconds to place orders [default: 10, unless --orders is given]
    #[arg(long, env = "GOZON_SECONDS")]
    pub seconds: Option<f64>,
    /// How many orders to place
    #[arg(long, env = "GOZON_ORDERS")]
    pub orders: Option<u64>,
    /// For how many users, the first ones, to hold a live socket; the settling of the others'
    /// orders is only looked up at the end
    #[arg(long, env = "GOZON_SOCKETS", default_value_t = 400)]
    pub sockets: usize,
    /// For how many seconds accepted orders may stay unsettled, none of them moving, before the
    /// run counts as failed
    #[arg(long, env = "GOZON_PATIENCE", default_value_t = 30)]
    pub patience: u64,
    /// Print the result as JSON
    #[arg(long, env = "GOZON_JSON")]
    pub json: bool,
    /// Draw throughput and latency over time into this file
    #[arg(long, env = "GOZON_SVG")]
    pub svg: Option<PathBuf>,
}
