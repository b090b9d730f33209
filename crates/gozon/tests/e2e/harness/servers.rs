//! Private servers of one test at a time, to be killed and started again.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    str::FromStr as _,
    sync::{Arc, LazyLock},
};

use gozon_contract::RandomSource;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions,
};
use tokio::sync::{Mutex, MutexGuard};

use super::{Combo, Plan};

/// Two PostgreSQL servers, one for each service, and a broker. They end with this process, even if
/// that is killed: `scripts/services run` stops them when the command that it runs has ended, and
/// that is a `cat` that reads from here.
pub struct Servers {
    combo: Combo,
    variables: HashMap<String, String>,
    _script: Child,
}

static RABBIT: LazyLock<Mutex<Arc<Servers>>> =
    LazyLock::new(|| Mutex::new(Arc::new(Servers::start(Combo::PostgresRabbit))));
static KAFKA: LazyLock<Mutex<Arc<Servers>>> =
    LazyLock::new(|| Mutex::new(Arc::new(Servers::start(Combo::PostgresKafka))));

impl Servers {
    /// The servers of this combination, for the caller alone. They are started once, since that
    /// takes some seconds.
    pub async fn of(combo: Combo) -> MutexGuard<'static, Arc<Self>> {
        let servers = match combo.broker() {
            None => panic!("it has no servers"),
            Some("rabbitmq") => &RABBIT,
            Some(_) => &KAFKA,
        };
        // Starting blocks, and so does waiting for it.
        let servers = tokio::task::spawn_blocking(|| LazyLock::force(servers)).await;
        let servers = servers.expect("servers").lock().await;
        for name in servers.names() {
            servers.up(name).await;
        }
        servers
    }

    fn start(combo: Combo) -> Self {
        let broker = Self::broker_of(combo);
        let mut command = Command::new(script());
        command
            .args(["run", "--two-postgres", "--fast", "--only"])
            .arg(format!("postgres,{broker}"))
            .args(["--", "sh", "-c", "env | grep ^GOZON_; echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("GOZON_")) {
            command.env_remove(variable);
        }
        let mut script = command.spawn().expect("scripts/services");
        let output = BufReader::new(script.stdout.take().expect("its output"));
        let lines = output.lines().map(|line| line.expect("a line"));
        let variables: HashMap<_, _> = lines
            .take_while(|line| !line.is_empty())
            .filter_map(|line| {
                let (name, value) = line.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            })
            .collect();
        assert!(!variables.is_empty(), "scripts/services did not start {broker}; see above");
        Self { combo, variables, _script: script }
    }

    fn broker_of(combo: Combo) -> &'static str {
        combo.broker().expect("a broker")
    }

    /// The servers' names.
    pub fn names(&self) -> [&'static str; 3] {
        ["postgres", "postgres2", self.broker()]
    }

    /// The broker's name.
    pub fn broker(&self) -> &'static str {
        Self::broker_of(self.combo)
    }

    /// A plan of a shop on these servers, with new databases.
    pub async fn plan(&self) -> Plan {
        let broker = match self.combo {
            Combo::PostgresRabbit => &self.variables["GOZON_TEST_AMQP_URL"],
            _ => &self.variables["GOZON_TEST_KAFKA_URL"],
        };
        let name = format!("shop_{:016x}", RandomSource::system().next_u64());
        let orders = create_database(&self.variables["GOZON_TEST_POSTGRES_URL"], &name).await;
        let payments = create_database(&self.variables["GOZON_TEST_POSTGRES_URL_2"], &name).await;
        Plan::on(self.combo).broker(format!("{broker}?prefix={name}.")).databases(orders, payments)
    }

    /// `kill -9`.
    pub async fn kill(&self, name: &str) {
        self.run("kill", &[name]).await;
    }

    /// Starts it again, on the same port and data, and waits until it answers.
    pub async fn up(&self, name: &str) {
        self.run("up", &[name]).await;
    }

    /// SIGSTOP: it answers nobody until [`Servers::resume`], and connections stay.
    pub async fn pause(&self, name: &str) {
        self.run("pause", &[name]).await;
    }

    /// SIGCONT.
    pub async fn resume(&self, name: &str) {
        self.run("resume", &[name]).await;
    }

    /// The disk of a PostgreSQL server is full from now on, or no longer.
    pub async fn fill_disk(&self, name: &str, full: bool) {
        self.run(if full { "fill" } else { "free" }, &[name]).await;
    }

    /// Runs `rabbitmqctl` on the broker; what it printed.
    pub async fn rabbitmqctl(&self, args: &[&str]) -> String {
        self.run("rabbitmqctl", args).await
    }

    async fn run(&self, command: &str, args: &[&str]) -> String {
        let mut script = tokio::process::Command::new(script());
        script.arg(command).args(args).envs(&self.variables).stdin(Stdio::null());
        let output = script.stderr(Stdio::inherit()).output().await.expect("scripts/services");
        assert!(output.status.success(), "scripts/services {command} {args:?} failed; see above");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/services")
}

async fn create_database(server: &str, name: &str) -> String {
    let options = PgConnectOptions::from_str(server).expect("a PostgreSQL URL");
    let mut connection = PgConnection::connect_with(&options).await.expect("the server answers");
    let create = AssertSqlSafe(format!("create database {name}"));
    sqlx::raw_sql(create).execute(&mut connection).await.expect("a database");
    let _ = connection.close().await;
    options.database(name).to_url_lossy().to_string()
}
