//! One process of the shop, to be killed and started again at will.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
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
    outlives_full_disks: bool,
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
        Self {
            name,
            command,
            settings,
            port,
            admin_port,
            log,
            child: None,
            outlives_full_disks: false,
        }
    }

    /// A variable of this process alone; it counts from its next start.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.into()));
    }

    /// From its next start on, its machine's clock is wrong by as much as the file `clock` says, such
    /// as `+26h`. Time goes on as fast as ever: timers are not concerned.
    pub fn with_clock_of(&mut self, clock: &Path) {
        self.set("LD_PRELOAD", format!("{}:{}", *C11_WAIT, faketime_library()));
        self.set("FAKETIME_TIMESTAMP_FILE", clock.display().to_string());
        self.set("FAKETIME_CACHE_DURATION", "1");
        for name in ["DONT_FAKE_MONOTONIC", "FAKETIME_DONT_FAKE_MONOTONIC", "NO_FAKE_STAT"] {
            self.set(name, "1");
        }
    }

    /// From its next start on, it may be told that its [disk is full](Process::fill_disk).
    pub fn outlive_full_disks(&mut self) {
        self.outlives_full_disks = true;
    }

    /// Its disk is full from now on, or no longer: no file of it may grow, its log included.
    pub fn fill_disk(&self, full: bool) {
        let limit = format!("--fsize={}:unlimited", if full { "1" } else { "unlimited" });
        let args = ["--pid", &self.id().to_string(), &limit].map(str::to_owned);
        let done = std::process::Command::new("prlimit").args(args).status();
        assert!(done.expect("prlimit").success(), "{} can't be limited", self.name);
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
        let id = self.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a status");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kilobytes = resident.trim().trim_end_matches(" kB").parse::<u64>();
        kilobytes.expect("a number of kB") * 1024
    }

    /// Starts it anew if it has ended by itself, as a supervisor does; whether it had.
    pub fn revive(&mut self) -> bool {
        let ended = self.note_end();
        if ended {
            self.start();
        }
        ended
    }

    /// Whether it has ended by itself; if so, that and the end of its log are printed, once.
    fn note_end(&mut self) -> bool {
        let Some(status) = self.exited() else { return false };
        println!("{} ended by itself with {status}:\n{}", self.name, self.log_tail());
        self.child = None;
        true
    }

    /// Starts it, without waiting for anything.
    pub fn start(&mut self) {
        self.note_end();
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = std::fs::File::options().create(true).append(true).open(&self.log);
        let log = log.expect("a log file");
        let mut command = if self.outlives_full_disks {
            // A process whose file would grow beyond its limit gets an error only if it ignores this.
            let mut shell = without_settings("sh");
            shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", &path_of_binary()]);
            shell
        } else {
            binary()
        };
        let child = command
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
        self.note_end();
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
        let id = self.id().to_string();
        let sent = std::process::Command::new("kill").args([signal, &id]).status();
        assert!(sent.expect("kill").success(), "{} can't be signalled", self.name);
    }

    /// The number that the system has given it.
    pub fn id(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).expect("a running process")
    }

    /// How many files and connections it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).expect("its files").count()
    }

    /// Waits for its end by itself, which must be a failure; what it logged.
    pub async fn failed(&mut self) -> String {
        let Some(mut child) = self.child.take() else { panic!("{} does not run", self.name) };
        let Ok(status) = timeout(PATIENCE, child.wait()).await else {
            panic!("{} goes on:\n{}", self.name, self.log_tail());
        };
        assert!(!status.expect("a child's status").success(), "{}", self.log_tail());
        self.log()
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
        let url = self.admin("/metrics");
        reqwest::get(url).await.expect("an answer").text().await.expect("a text")
    }

    /// The URL of a path of its admin door.
    pub fn admin(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.admin_port)
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
    without_settings(&path_of_binary())
}

/// `GOZON_BIN` if it is set, otherwise what cargo has built with this test.
fn path_of_binary() -> String {
    std::env::var("GOZON_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_gozon").to_owned())
}

fn without_settings(program: &str) -> Command {
    let mut command = Command::new(program);
    for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("GOZON_")) {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// `c11_wait.c`, built; it says what it is for.
static C11_WAIT: LazyLock<String> = LazyLock::new(|| {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/harness/c11_wait.c");
    let library = concat!(env!("CARGO_TARGET_TMPDIR"), "/c11_wait.so");
    let flags = ["-shared", "-fPIC", "-O2", "-o", library, source];
    let built = std::process::Command::new("cc").args(flags).status();
    assert!(built.expect("a C compiler").success(), "{source} can't be built");
    library.to_owned()
});

/// Debian's libfaketime, which `scripts/setup` installs.
fn faketime_library() -> String {
    let found = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let library = found
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists());
    library.expect("libfaketime: run scripts/setup faults").display().to_string()
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
