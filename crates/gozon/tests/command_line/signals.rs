use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, ChildStderr, Command, Stdio},
};

use crate::gozon;

/// A serving process and what it logs.
pub(crate) struct Running {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Running {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut command = gozon(arguments);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// Reads the log until a line has this text.
    fn wait_for(&mut self, text: &str) -> String {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            let length = self.log.read_line(&mut line).unwrap();
            assert!(length > 0, "it ended before it logged {text:?}");
        }
        line
    }

    /// The address that it says it listens on.
    pub(crate) fn address(&mut self) -> String {
        let line = self.wait_for("listens on http://");
        let (_, rest) = line.split_once("http://").unwrap();
        rest.split('"').next().unwrap().to_owned()
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_address_may_be_a_port_or_a_name() {
    for (listen, host) in [(":0", "0.0.0.0:"), ("localhost:0", "127.0.0.1:")] {
        let mut web = Running::start(&["web", "--listen", listen]);
        let address = web.address();
        assert!(address.starts_with(host), "{address}");
        web.signal("-TERM");
        assert_eq!(web.child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    for (first, second, code) in [("-TERM", "-TERM", 143), ("-INT", "-INT", 130)] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().to_str().unwrap();
        let admin = ["--admin-listen", "127.0.0.1:0"];
        let arguments = ["up", "--listen", "127.0.0.1:0", "--data-dir", folder];
        let mut shop = Running::start(&[arguments.as_slice(), &admin].concat());
        // A request whose body never comes keeps it from ending by itself.
        let mut stream = TcpStream::connect(shop.address()).unwrap();
        let head = "POST /accounts/deposit HTTP/1.1\r\nHost: shop\r\nX-User-Id: \
            00000000-0000-0000-0000-000000000001\r\nContent-Type: application/json\r\n\
            Expect: 100-continue\r\nContent-Length: 20\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut begun = [0; 12];
        stream.read_exact(&mut begun).unwrap();
        assert_eq!(&begun, b"HTTP/1.1 100");

        shop.signal(first);
        shop.wait_for("a second signal ends the process");
        shop.signal(second);
        assert_eq!(shop.child.wait().unwrap().code(), Some(code));
    }
}
