//! A whole shop on databases of its own.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use gozon_testkit::TestDb;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::{Door, Process, Truth, User, gozon, truth};

/// What the shop runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combo {
    /// One process with files and a broker inside it.
    SqliteMemory,
    /// A process for each service.
    PostgresRabbit,
    /// A process for each service.
    PostgresKafka,
    /// The same as with RabbitMQ, with gRPC between the gateway and the services.
    PostgresRabbitGrpc,
    /// The same as with Kafka, with gRPC between the gateway and the services.
    PostgresKafkaGrpc,
}

/// A shop to be.
pub struct Plan {
    combo: Combo,
    together: bool,
    gateways: usize,
    orders: usize,
    payments: usize,
    orders_url: Option<String>,
    payments_url: Option<String>,
    broker_url: Option<String>,
    settings: Vec<(String, String)>,
    /// What the gateways speak to the services: `http` or `grpc`.
    inside: &'static str,
}

/// A running shop.
pub struct Shop {
    /// Every process, those that others need first.
    pub processes: Vec<Process>,
    /// The URL of the orders database.
    pub orders_url: String,
    /// The URL of the payments database.
    pub payments_url: String,
    /// The URL of the broker.
    pub broker_url: String,
    _databases: Vec<TestDb>,
    _logs: Logs,
}

/// The folder of the processes' logs, which is kept if the test fails.
struct Logs(Option<TempDir>);

impl Drop for Logs {
    fn drop(&mut self) {
        if let Some(folder) = self.0.take_if(|_| std::thread::panicking()) {
            println!("the logs are kept in {}", folder.keep().display());
        }
    }
}

impl Plan {
    /// One instance of everything.
    pub fn on(combo: Combo) -> Self {
        Self {
            combo,
            together: combo == Combo::SqliteMemory,
            gateways: 1,
            orders: 1,
            payments: 1,
            orders_url: None,
            payments_url: None,
            broker_url: None,
            settings: Vec::new(),
            inside: if combo.is_grpc() { "grpc" } else { "http" },
        }
    }

    /// What the gateways speak to the services: `http` or `grpc`.
    pub fn inside(mut self, scheme: &'static str) -> Self {
        self.inside = scheme;
        self
    }

    /// All of it in one process, whatever it runs on.
    pub fn together(mut self) -> Self {
        self.together = true;
        self
    }

    /// So many instances of each, where each service is a process.
    pub fn instances(mut self, gateways: usize, orders: usize, payments: usize) -> Self {
        (self.gateways, self.orders, self.payments) = (gateways, orders, payments);
        self
    }

    /// The broker at this URL instead of the environment's.
    pub fn broker(mut self, url: impl Into<String>) -> Self {
        self.broker_url = Some(url.into());
        self
    }

    /// These databases instead of new ones on the environment's server.
    pub fn databases(mut self, orders_url: String, payments_url: String) -> Self {
        (self.orders_url, self.payments_url) = (Some(orders_url), Some(payments_url));
        self
    }

    /// A variable for every process.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    /// Starts all of it and waits until it is ready.
    pub async fn start(self) -> Shop {
        let mut shop = self.prepare().await;
        shop.start().await;
        shop
    }

    /// All of it, but nothing started.
    pub async fn prepare(self) -> Shop {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut databases = Vec::new();
        let mut urls = Vec::new();
        for given in [self.orders_url, self.payments_url] {
            if given.is_none() {
                databases.push(match self.combo {
                    Combo::SqliteMemory => TestDb::sqlite(),
                    _ => TestDb::postgres().await,
                });
            }
            urls.push(given.unwrap_or_else(|| databases[databases.len() - 1].url().to_owned()));
        }
        let (orders_url, payments_url) = (urls[0].clone(), urls[1].clone());
        let broker_url = self.broker_url.unwrap_or_else(|| self.combo.broker_url());

        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let make = |name: String, command, more: Vec<(String, String)>| {
            let settings = self.settings.iter().cloned().chain(more);
            Process::new(name, command, settings, folder.path())
        };
        let broker = setting("GOZON_BROKER_URL", &broker_url);
        let processes = if self.together {
            let databases = [
                setting("GOZON_ORDERS_DATABASE_URL", &orders_url),
                setting("GOZON_PAYMENTS_DATABASE_URL", &payments_url),
            ];
            vec![make("up".to_owned(), "up", [&databases[..], &[broker]].concat())]
        } else {
            let services = |command: &'static str, count, url: &str| -> Vec<Process> {
                let settings = vec![setting("GOZON_DATABASE_URL", url), broker.clone()];
                (1..=count)
                    .map(|i| make(format!("{command}-{i}"), command, settings.clone()))
                    .collect()
            };
            let orders = services("orders", self.orders, &orders_url);
            let payments = services("payments", self.payments, &payments_url);
            let upstreams = vec![
                setting("GOZON_ORDERS_URLS", &urls_of(&orders, self.inside)),
                setting("GOZON_PAYMENTS_URLS", &urls_of(&payments, self.inside)),
            ];
            let gateways = (1..=self.gateways)
                .map(|i| make(format!("gateway-{i}"), "gateway", upstreams.clone()));
            let gateways: Vec<_> = gateways.collect();
            orders.into_iter().chain(payments).chain(gateways).collect()
        };
        Shop {
            processes,
            orders_url,
            payments_url,
            broker_url,
            _databases: databases,
            _logs: Logs(Some(folder)),
        }
    }
}

fn urls_of(processes: &[Process], scheme: &str) -> String {
    let url = |process: &Process| process.url().replacen("http", scheme, 1);
    processes.iter().map(url).collect::<Vec<_>>().join(",")
}

impl Combo {
    /// Whether the gateways speak gRPC to the services; all do that can with
    /// `GOZON_TEST_INSIDE=grpc`.
    pub fn is_grpc(self) -> bool {
        let everywhere = std::env::var("GOZON_TEST_INSIDE").is_ok_and(|inside| inside == "grpc");
        let by_name = matches!(self, Self::PostgresRabbitGrpc | Self::PostgresKafkaGrpc);
        by_name || (everywhere && self != Self::SqliteMemory)
    }

    /// The name of the broker's server, if there is one.
    pub fn broker(self) -> Option<&'static str> {
        match self {
            Self::SqliteMemory => None,
            Self::PostgresRabbit | Self::PostgresRabbitGrpc => Some("rabbitmq"),
            Self::PostgresKafka | Self::PostgresKafkaGrpc => Some("kafka"),
        }
    }

    /// The broker of the environment, with topics that no other test has.
    fn broker_url(self) -> String {
        static SHOPS: AtomicU32 = AtomicU32::new(0);
        let shop = SHOPS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("prefix=test-{}-{shop}.", std::process::id());
        match self.broker() {
            None => "memory:".to_owned(),
            Some("rabbitmq") => format!("{}?{prefix}", gozon_testkit::amqp_url()),
            Some(_) => format!("{}?{prefix}", gozon_testkit::kafka_url()),
        }
    }
}

impl Shop {
    /// The simplest shop.
    pub async fn on(combo: Combo) -> Self {
        Plan::on(combo).start().await
    }

    /// Starts every process that does not run, and waits until all are ready.
    pub async fn start(&mut self) {
        for process in &mut self.processes {
            if !process.runs() {
                process.start();
            }
        }
        join_all(self.processes.iter_mut().map(Process::ready)).await;
    }

    /// `kill -9` of every process.
    pub async fn kill(&mut self) {
        join_all(self.processes.iter_mut().map(Process::kill)).await;
    }

    /// Asks every process to stop, those that serve clients first, and waits for their end.
    pub async fn stop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            if !process.runs() {
                continue;
            }
            process.ask_to_stop();
            process.stopped().await;
        }
    }

    /// The process of this name.
    pub fn process(&self, name: &str) -> &Process {
        let process = self.processes.iter().find(|process| process.name == name);
        process.unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// The same, to be started, ended or given other settings.
    pub fn process_mut(&mut self, name: &str) -> &mut Process {
        let process = self.processes.iter_mut().find(|process| process.name == name);
        process.unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// A door that leads straight to the process of this name.
    pub fn door_of(&self, name: &str) -> Door {
        Door::new(self.process(name).url())
    }

    /// Where clients come in: at every gateway.
    pub fn doors(&self) -> Vec<Door> {
        let gateways = self.processes.iter().filter(|process| process.is_a_door());
        gateways.map(|process| Door::new(process.url())).collect()
    }

    /// The first of the doors.
    pub fn door(&self) -> Door {
        self.doors().swap_remove(0)
    }

    /// A user whom the shop does not know yet.
    pub fn new_user(&self) -> User {
        self.door().new_user()
    }

    /// Waits until nothing is under way any more, and reads what is stored then.
    pub async fn quiet(&self) -> Truth {
        self.quiet_within(Duration::from_mins(1)).await
    }

    /// The same, with another patience.
    pub async fn quiet_within(&self, patience: Duration) -> Truth {
        let deadline = Instant::now() + patience;
        loop {
            let under_way = truth::under_way(&self.orders_url, &self.payments_url).await;
            if under_way.is_empty() {
                return Truth::read(&self.orders_url, &self.payments_url).await;
            }
            assert!(Instant::now() < deadline, "still under way: {under_way}\n{}", self.logs());
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The end of every test: all is settled, the queues are empty, every invariant holds, nothing
    /// panicked, and every process stops cleanly.
    pub async fn close(mut self) -> Truth {
        let truth = self.quiet().await;
        truth.check();
        self.audit().await;
        self.stop().await;
        truth::check_deadlocks(&self.orders_url).await;
        truth::check_deadlocks(&self.payments_url).await;
        for process in &self.processes {
            let log = process.log();
            assert!(!log.contains("panicked at"), "{} panicked:\n{log}", process.name);
        }
        truth
    }

    /// What `gozon audit` says, which must be that everything holds.
    pub async fn audit(&self) -> String {
        let audited = gozon(
            &["audit"],
            &[
                ("GOZON_ORDERS_DATABASE_URL", self.orders_url.clone()),
                ("GOZON_PAYMENTS_DATABASE_URL", self.payments_url.clone()),
            ],
        )
        .await;
        let said = String::from_utf8_lossy(&audited.stdout).into_owned();
        let trouble = String::from_utf8_lossy(&audited.stderr);
        assert!(audited.status.success(), "the audit says:\n{said}{trouble}");
        said
    }

    /// The end of every process's log.
    pub fn logs(&self) -> String {
        let tail = |process: &Process| format!("--- {}\n{}\n", process.name, process.log_tail());
        self.processes.iter().map(tail).collect()
    }
}
