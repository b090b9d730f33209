//! Every setting: a flag, and an environment variable of the same name.

#![allow(clippy::doc_markdown, rustdoc::bare_urls, reason = "these comments are the help text")]

use std::{
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    dead_letters::DeadLettersArgs,
    settings::{DatabaseUrl, address, instance_url, log_filter, page_origin, web_url},
    why::WhyArgs,
};

/// Orders and payments for an online shop: no order lost, nobody charged twice, no balance wrong.
///
/// Without a command it is `gozon up`: the whole shop in one process. Every flag can be given as
/// an environment variable too, such as `GOZON_LISTEN` for `--listen`.
#[derive(Debug, Parser)]
#[command(name = "gozon", version)]
pub struct Cli {
    /// What to log: a level (error, warn, info, debug, trace), or levels by module.
    #[arg(long, env = "GOZON_LOG", default_value = "info", global = true, value_parser = log_filter)]
    pub log: String,
    /// The command.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The settings of `gozon up`.
    #[command(flatten)]
    pub up: Up,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the whole shop in one process (the default)
    Up(Up),
    /// Run a gateway: routes requests to the services
    Gateway(Gateway),
    /// Run an instance of the orders service
    Orders(Service),
    /// Run an instance of the payments service
    Payments(Service),
    /// Serve the web front end's files
    Web(Web),
    /// Bring the tables of both databases up to date
    Migrate(Databases),
    /// List, show, retry or discard messages that were given up on
    DeadLetters(DeadLettersArgs),
    /// Check both databases, of a running or stopped shop: no money or order may be lost or wrong
    ///
    /// Writes nothing, unless told to repair. Exits with 0 if everything holds, 1 if something does
    /// not, 2 if the databases can't be read. Works in constant memory; what has to be sorted goes to the
    /// database's own temporary files.
    Audit(Audit),
    /// Ask for a health URL, such as http://127.0.0.1:8080/readyz; fails unless the answer is 200
    Health(HealthUrl),
    /// Say where an order is, why, and what to do about it
    ///
    /// Looks for the order, its payment and its messages in both databases. Writes nothing. Exits
    /// with 1 if nothing is known of the order.
    Why(WhyArgs),
    /// Print the merged OpenAPI document
    Openapi,
    /// Print a shell's completions, such as: gozon completions bash > /etc/bash_completion.d/gozon
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print a manual page, such as: gozon man | man -l -
    Man {
        /// The page of a command, such as `dead-letters retry`, in place of the main one
        command: Vec<String>,
    },
    /// Load a running shop with orders and print how fast it was
    Bench(gozon_bench::Args),
}

/// Where the two databases are.
#[derive(Args, Clone, Debug)]
pub struct Databases {
    /// The folder of the SQLite files, for each database whose URL is not given
    #[arg(long, env = "GOZON_DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// The orders database: postgres://… or sqlite:PATH [default: sqlite:<DATA_DIR>/orders.db]
    #[arg(long, env = "GOZON_ORDERS_DATABASE_URL", value_parser = DatabaseUrl::parser("orders-database-url"))]
    pub orders_database_url: Option<DatabaseUrl>,
    /// The payments database: postgres://… or sqlite:PATH [default: sqlite:<DATA_DIR>/payments.db]
    #[arg(long, env = "GOZON_PAYMENTS_DATABASE_URL", value_parser = DatabaseUrl::parser("payments-database-url"))]
    pub payments_database_url: Option<DatabaseUrl>,
}

impl Databases {
    /// The orders database's URL.
    pub fn orders_url(&self) -> DatabaseUrl {
        self.orders_database_url.clone().unwrap_or_else(|| self.file("orders.db"))
    }

    /// The payments database's URL.
    pub fn payments_url(&self) -> DatabaseUrl {
        self.payments_database_url.clone().unwrap_or_else(|| self.file("payments.db"))
    }

    fn file(&self, name: &str) -> DatabaseUrl {
        DatabaseUrl::new("data-dir", format!("sqlite:{}", self.data_dir.join(name).display()))
    }
}

/// The settings of `gozon audit`.
#[derive(Args, Clone, Debug)]
pub struct Audit {
    /// Where the databases are.
    #[command(flatten)]
    pub databases: Databases,
    /// For how many seconds an order may be NEW without a message in an outbox or inbox to explain
    /// it; messages within a broker are not seen, so make it longer than the broker's backlog
    #[arg(long, env = "GOZON_NEW_AGE_LIMIT", default_value_t = 60, value_name = "SECONDS")]
    pub new_age_limit: u64,
    /// For how many seconds a message may wait in an outbox or inbox until the audit warns that it
    /// is stuck
    #[arg(long, env = "GOZON_MESSAGE_AGE_LIMIT", default_value_t = 600, value_name = "SECONDS")]
    pub message_age_limit: u64,
    /// How many findings of each check to name; all are counted
    #[arg(long, env = "GOZON_MAX_FINDINGS", default_value_t = 20, value_name = "N")]
    pub max_findings: usize,
    /// Ask again for the payment of each order that is NEW with nothing on its way; writes to the
    /// orders database
    #[arg(long)]
    pub repair: bool,
    /// Print the report as JSON
    #[arg(long, env = "GOZON_JSON")]
    pub json: bool,
}

/// The settings of `gozon up`.
#[derive(Args, Clone, Debug)]
pub struct Up {
    /// Where to serve the shop
    #[arg(long, env = "GOZON_LISTEN", default_value = "127.0.0.1:8080", value_parser = address)]
    pub listen: SocketAddr,
    /// Where to serve /metrics, /livez and /readyz; never make this public
    #[arg(long, env = "GOZON_ADMIN_LISTEN", default_value = "127.0.0.1:9464", value_parser = address)]
    pub admin_listen: SocketAddr,
    /// Where the databases are.
    #[command(flatten)]
    pub databases: Databases,
    /// The broker: memory:, amqp://… or kafka://host:port,…
    #[arg(long, env = "GOZON_BROKER_URL", default_value = "memory:")]
    pub broker_url: String,
    /// The most connections to each database
    #[arg(long, env = "GOZON_DATABASE_CONNECTIONS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub database_connections: u32,
    /// The folder of the built web front end
    #[arg(long, env = "GOZON_WEB_DIR", default_value = "web/dist")]
    pub web_dir: PathBuf,
    /// Limits on live sockets.
    #[command(flatten)]
    pub stream: Stream,
    /// What becomes of orders that stay NEW.
    #[command(flatten)]
    pub resend: Resend,
    /// Limits on requests.
    #[command(flatten)]
    pub traffic: Traffic,
}

/// The settings of `gozon gateway`.
#[derive(Args, Clone, Debug)]
pub struct Gateway {
    /// Where to serve
    #[arg(long, env = "GOZON_LISTEN", default_value = "127.0.0.1:8080", value_parser = address)]
    pub listen: SocketAddr,
    /// Where to serve /metrics, /livez and /readyz; off unless set; never make this public
    #[arg(long, env = "GOZON_ADMIN_LISTEN", value_parser = address)]
    pub admin_listen: Option<SocketAddr>,
    /// The orders instances, such as http://10.0.0.5:8081,http://10.0.0.6:8081, or grpc://… to speak
    /// gRPC to them
    #[arg(long, env = "GOZON_ORDERS_URLS", value_delimiter = ',', required = true, value_parser = instance_url)]
    pub orders_urls: Vec<String>,
    /// The payments instances
    #[arg(long, env = "GOZON_PAYMENTS_URLS", value_delimiter = ',', required = true, value_parser = instance_url)]
    pub payments_urls: Vec<String>,
    /// The instances of the web front end; without any there is no page
    #[arg(long, env = "GOZON_WEB_URLS", value_delimiter = ',', value_parser = web_url)]
    pub web_urls: Vec<String>,
    /// Live sockets, which the gateway ends where it speaks gRPC.
    #[command(flatten)]
    pub sockets: Sockets,
    /// Limits on requests.
    #[command(flatten)]
    pub traffic: Traffic,
}

/// The settings of `gozon orders` and `gozon payments`.
#[derive(Args, Clone, Debug)]
pub struct Service {
    /// Where to serve
    #[arg(long, env = "GOZON_LISTEN", default_value = "127.0.0.1:8081", value_parser = address)]
    pub listen: SocketAddr,
    /// Where to serve /metrics, /livez and /readyz; off unless set; never make this public
    #[arg(long, env = "GOZON_ADMIN_LISTEN", value_parser = address)]
    pub admin_listen: Option<SocketAddr>,
    /// The service's own database: postgres://… or sqlite:PATH
    #[arg(long, env = "GOZON_DATABASE_URL", value_parser = DatabaseUrl::parser("database-url"))]
    pub database_url: DatabaseUrl,
    /// The broker: amqp://… or kafka://host:port,…
    #[arg(long, env = "GOZON_BROKER_URL")]
    pub broker_url: String,
    /// The most connections to the database
    #[arg(long, env = "GOZON_DATABASE_CONNECTIONS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub database_connections: u32,
    /// Limits on live sockets (orders only).
    #[command(flatten)]
    pub stream: Stream,
    /// What becomes of orders that stay NEW (orders only).
    #[command(flatten)]
    pub resend: Resend,
}

/// What becomes of orders that stay NEW, and of new ones then.
#[derive(Args, Clone, Copy, Debug)]
pub struct Resend {
    /// For how many seconds an order stays NEW until its payment is asked for again; 0 for ever
    #[arg(long, env = "GOZON_RESEND_AFTER", default_value_t = 60, value_name = "SECONDS")]
    pub resend_after: u32,
    /// For how many seconds the oldest order may wait for its payment until no new ones are taken;
    /// off unless set
    #[arg(long, env = "GOZON_MAX_UNSETTLED", value_name = "SECONDS")]
    pub max_unsettled: Option<NonZeroU32>,
}

/// Limits on live sockets.
#[derive(Args, Clone, Debug)]
pub struct Stream {
    /// The most live sockets on one orders instance
    #[arg(long, env = "GOZON_MAX_SOCKETS", default_value_t = 20_000)]
    pub max_sockets: usize,
    /// The most live sockets of one user on one orders instance
    #[arg(long, env = "GOZON_MAX_SOCKETS_PER_USER", default_value_t = 50)]
    pub max_sockets_per_user: usize,
    /// Who may open live sockets, and how long they last.
    #[command(flatten)]
    pub sockets: Sockets,
}

/// Who may open live sockets, and how long they last.
#[derive(Args, Clone, Debug)]
pub struct Sockets {
    /// Origins whose pages may open live sockets, beside the shop's own; * lets every page
    #[arg(long, env = "GOZON_ALLOWED_ORIGINS", value_delimiter = ',', value_parser = page_origin)]
    pub allowed_origins: Vec<String>,
    /// How often a live socket is asked for a sign of life, in seconds; one that misses two in a
    /// row is cut off
    #[arg(long, env = "GOZON_HEARTBEAT", default_value = "20", value_name = "SECONDS")]
    pub heartbeat: NonZeroU32,
}

/// Limits on requests.
#[derive(Args, Clone, Debug)]
pub struct Traffic {
    /// The most requests under way at once; more are answered 503
    #[arg(long, env = "GOZON_MAX_IN_FLIGHT", default_value_t = in_flight())]
    pub max_in_flight: NonZeroUsize,
    /// The most requests per second of one user, with bursts of twice as many; off unless set
    #[arg(long, env = "GOZON_RATE_LIMIT")]
    pub rate_limit: Option<NonZeroU32>,
}

/// The gateway's own limit.
fn in_flight() -> NonZeroUsize {
    NonZeroUsize::new(gozon_gateway::Limits::default().in_flight).unwrap_or(NonZeroUsize::MIN)
}

/// The settings of `gozon web`.
#[derive(Args, Clone, Debug)]
pub struct Web {
    /// Where to serve
    #[arg(long, env = "GOZON_LISTEN", default_value = "127.0.0.1:8083", value_parser = address)]
    pub listen: SocketAddr,
    /// The folder of the built web front end
    #[arg(long, env = "GOZON_WEB_DIR", default_value = "web/dist")]
    pub web_dir: PathBuf,
}

/// The settings of `gozon health`.
#[derive(Args, Clone, Debug)]
pub struct HealthUrl {
    /// What to ask; must be http
    pub url: String,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_has_a_variable_of_its_name() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let Some(flag) = argument.get_long() else { continue };
                if let Some(variable) = argument.get_env() {
                    let expected = format!("GOZON_{}", flag.replace('-', "_").to_uppercase());
                    assert_eq!(variable.to_str(), Some(expected.as_str()));
                } else {
                    // What is asked of a tool once is not a setting.
                    let asked =
                        ["all", "cursor", "database", "error", "json", "key", "limit", "repair"]
                            .into_iter()
                            .chain(["since", "topic", "until", "help", "version"])
                            .any(|name| name == flag);
                    assert!(asked, "--{flag} of {} has no variable", command.get_name());
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
