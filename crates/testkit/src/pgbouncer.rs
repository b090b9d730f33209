//! A real `PgBouncer` in front of a database.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{net::TcpStream, time::sleep};

/// Where Debian installs it, which is not on everybody's `PATH`.
const PROGRAMS: [&str; 2] = ["/usr/sbin/pgbouncer", "pgbouncer"];
/// Server connections that all clients share: few, so that they change hands all the time.
const POOL_SIZE: u32 = 3;

/// A `PgBouncer` in transaction mode; it ends with the test.
pub struct PgBouncer {
    process: Child,
    port: u16,
    _folder: TempDir,
}

impl PgBouncer {
    /// Starts one in front of the server of the PostgreSQL URL `url`.
    ///
    /// # Panics
    /// If it is not installed or does not start.
    pub async fn before(url: &str) -> Self {
        let address = address(url);
        let (host, server_port) = address.rsplit_once(':').expect("a host and a port");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("pgbouncer.ini");
        let settings = format!(
            "[databases]\n\
             * = host={host} port={server_port} user=gozon\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             pool_mode = transaction\n\
             default_pool_size = {POOL_SIZE}\n\
             max_client_conn = 500\n"
        );
        fs::write(&file, settings).expect("a file that can be written");
        let program = PROGRAMS
            .into_iter()
            .find(|program| Command::new(program).arg("--version").output().is_ok())
            .expect("PgBouncer is installed; run `scripts/setup pgbouncer`");
        let mut command = Command::new(program);
        // It refuses to run as root.
        if fs::read_to_string("/proc/self/status").is_ok_and(|text| text.contains("\nUid:\t0\t")) {
            command.args(["-u", "nobody"]);
        }
        let process = command
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("PgBouncer starts");
        let mut started = Self { process, port, _folder: folder };
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let ended = started.process.try_wait().expect("a process to ask for");
            assert!(ended.is_none(), "PgBouncer has ended: {ended:?}");
            sleep(Duration::from_millis(20)).await;
        }
        started
    }

    /// The database of `url` through this `PgBouncer`.
    ///
    /// # Panics
    /// If the URL names no host and port.
    pub fn url(&self, url: &str) -> String {
        url.replacen(address(url), &format!("127.0.0.1:{}", self.port), 1)
    }
}

/// `host:port` of a URL.
fn address(url: &str) -> &str {
    let (_, rest) = url.split_once("://").expect("a URL");
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    authority.rsplit_once('@').map_or(authority, |(_, address)| address)
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
