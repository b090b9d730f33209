//! The settings of a run.

use std::path::PathBuf;

use crate::processes::Group;

/// The settings of `gozon bench`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The shop to load; must be http
    #[arg(long, env = "GOZON_URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// Number of clients, each with one request under way at a time
    #[arg(long, env = "GOZON_CLIENTS", default_value_t = 128)]
    pub clients: usize,
    /// Orders per second, sent at even intervals even while earlier ones are not answered; latency
    /// counts from an order's due time. Without it every client sends its next order as soon as the
    /// last one is answered
    #[arg(long, env = "GOZON_RATE")]
    pub rate: Option<f64>,
    /// Number of users that place orders, each equally often
    #[arg(long, env = "GOZON_USERS", default_value_t = 400)]
    pub users: usize,
    /// Draw users from a Zipf distribution with this exponent instead: the higher it is, the more
    /// orders the first users place
    #[arg(long, env = "GOZON_ZIPF")]
    pub zipf: Option<f64>,
    /// One user places all orders
    #[arg(long, env = "GOZON_HOT", conflicts_with_all = ["zipf", "users"])]
    pub hot: bool,
    /// Number of seconds during which to place orders [default: 10, unless --orders is given]
    #[arg(long, env = "GOZON_SECONDS")]
    pub seconds: Option<f64>,
    /// Number of orders to place
    #[arg(long, env = "GOZON_ORDERS")]
    pub orders: Option<u64>,
    /// Number of users, the first ones, with a live socket; the orders of the others are looked up
    /// at the end
    #[arg(long, env = "GOZON_SOCKETS", default_value_t = 400)]
    pub sockets: usize,
    /// Number of seconds without any order being settled after which the run fails
    #[arg(long, env = "GOZON_PATIENCE", default_value_t = 30)]
    pub patience: u64,
    /// Report the processor time per order of these local processes and their descendants: groups
    /// as NAME=PID or NAME=PID,PID with spaces between them, such as "shop=101 database=102"
    #[arg(long, env = "GOZON_PROCESSES", value_delimiter = ' ')]
    pub processes: Vec<Group>,
    /// Print the report as JSON
    #[arg(long, env = "GOZON_JSON")]
    pub json: bool,
    /// Draw throughput and latency over time into this file
    #[arg(long, env = "GOZON_SVG")]
    pub svg: Option<PathBuf>,
}
