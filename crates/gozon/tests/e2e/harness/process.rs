//! One process of the shop, to be killed and started again at will.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// How long a process may take to start or to stop before the test fails.
const PATIENCE: Duration = Duration::from_mins(1);

/// A process of the binary under test. It keeps its ports and its log when it starts again.
pub struct Process {
    /// What it is called in messages and by its log's file.
    pub name: String,
    command: &'static str,
    settings: Vec<(String, String)>,
    port: u16,
    admin_port: u16,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// `gozon COMMAND` with these variables, not started yet, its log in `folder`.
    pub fn new(
        name: String,
        command: &'static str,
        settings: impl IntoIterator<Item = (String, String)>,
        folder: &Path,
    ) -> Self {
        let (port, admin_port) = (free_port(), free_port());
        let log = folder.join(format!("{name}.log"));
        let mut settings: Vec<_> = settings.into_iter().collect();
        settings.push(("GOZON_LISTEN".to_owned(), format!("127.0.0.1:{port}")));
        settings.push(("GOZON_ADMIN_LISTEN".to_owned(), format!("127.0.0.1:{admin_port}")));
        Self { name, command, settings, port, admin_port, log, child: None }
    }

    /// Where it serves.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Whether clients come in here.
    pub fn is_a_door(&self) -> bool {
        matches!(self.command, "up" | "gateway")
    }

    /// Whether it answers `/orders`.
    pub fn serves_orders(&self) -> bool {
        matches!(self.command, "up" | "orders")
    }

    /// How much memory it holds, in bytes.
    pub fn memory(&self) -> u64 {
        let id = self.child.as_ref().and_then(Child::id).expect("a running process");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a status");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kilobytes = resident.trim().trim_end_matches(" kB").parse::<u64>();
        kilobytes.expect("a number of kB") * 1024
    }

    /// Starts it, without waiting for anything.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = std::fs::File::options().create(true).append(true).open(&self.log);
        let log = log.expect("a log file");
        let child = binary()
            .arg(self.command)
            .envs(self.settings.iter().cloned())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("the binary starts"));
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let mut said = String::new();
        while Instant::now() < deadline {
            if let Some(status) = self.exited() {
                panic!("{} ended with {status}:\n{}", self.name, self.log_tail());
            }
            if let Ok(answer) = reqwest::get(format!("{}/readyz", self.url())).await {
                if answer.status() == 200 {
                    return;
                }
                said = answer.text().await.unwrap_or_default();
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("{} is not ready: {said}\n{}", self.name, self.log_tail());
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.child.is_some() && self.exited().is_none()
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("a child's status")
    }

    /// `kill -9`: no goodbye, nothing flushed.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.expect("a child to kill");
        }
    }

    /// SIGTERM, and nothing more.
    pub fn ask_to_stop(&self) {
        self.signal("-TERM");
    }

    /// SIGSTOP: it does nothing until [`Process::resume`], and its connections stay.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.child.as_ref().and_then(Child::id).expect("a running process");
        let sent = std::process::Command::new("kill").args([signal, &id.to_string()]).status();
        assert!(sent.expect("kill").success(), "{} can't be signalled", self.name);
    }

    /// Waits for its end after [`Process::ask_to_stop`], which must be a clean one.
    pub async fn stopped(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let Ok(status) = timeout(PATIENCE, child.wait()).await else {
            panic!("{} does not stop:\n{}", self.name, self.log_tail());
        };
        let status = status.expect("a child's status");
        assert!(status.success(), "{} stopped with {status}:\n{}", self.name, self.log_tail());
    }

    /// What it measured so far.
    pub async fn metrics(&self) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.admin_port);
        reqwest::get(url).await.expect("an answer").text().await.expect("a text")
    }

    /// All that it logged.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of its log, but for the answers to those who wait for it.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().filter(|line| !line.contains("/readyz")).collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// Runs a command of the binary to its end.
pub async fn gozon(args: &[&str], settings: &[(&str, String)]) -> Output {
    let mut command = binary();
    command.args(args).envs(settings.iter().map(|(name, value)| (name, value)));
    command.output().await.expect("the binary runs")
}

/// The binary, with no settings from the environment of the tests.
fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gozon"));
    for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("GOZON_")) {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A port that nobody listens on, below the range from which the system picks ports for outgoing
/// connections: one of those could take it while a killed process is down.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 1000).expect("small") * 10;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
