//! The part of HTTP/1.1 that a load generator needs: kept-alive connections, requests as bytes, and
//! answers with a content length.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A connection to the shop, made for its first request.
pub(crate) struct Connection {
    host: Arc<str>,
    stream: Option<TcpStream>,
    answer: Vec<u8>,
}

/// An answer of the shop.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

/// A request, ready to be sent any number of times.
pub(crate) fn request(method: &str, path: &str, host: &str, user: &str, body: &str) -> Vec<u8> {
    let content = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
    };
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nX-User-Id: {user}\r\n{content}\r\n{body}")
        .into_bytes()
}

/// Connects to `host`, a name or address with its port.
pub(crate) async fn connect(host: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(host).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Connection {
    /// A connection to `host`.
    pub fn to(host: &Arc<str>) -> Self {
        Self { host: Arc::clone(host), stream: None, answer: Vec::with_capacity(4096) }
    }

    /// Sends a request and waits for the answer. After an error the next request makes a new
    /// connection.
    pub async fn send(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(&self.host).await?,
        };
        stream.write_all(request).await?;
        self.answer.clear();
        let (status, body) = loop {
            if stream.read_buf(&mut self.answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(head) = Head::of(&self.answer)?
                && self.answer.len() >= head.length + head.body
            {
                break (head.status, head.length);
            }
        };
        self.stream = Some(stream);
        Ok(Answer { status, body: &self.answer[body..] })
    }
}

/// Connections that no request uses. The one used last is taken first, so that a low rate needs few
/// and none is idle for long.
pub(crate) struct Pool {
    host: Arc<str>,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    /// An empty pool for `host`.
    pub fn to(host: &Arc<str>) -> Self {
        Self { host: Arc::clone(host), idle: Mutex::default() }
    }

    /// Takes an idle connection, or a new one.
    pub fn take(&self) -> Connection {
        self.idle().pop().unwrap_or_else(|| Connection::to(&self.host))
    }

    /// Gives a connection back.
    pub fn put(&self, connection: Connection) {
        self.idle().push(connection);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The head of an answer.
struct Head {
    status: u16,
    /// Length of the head in bytes.
    length: usize,
    /// Length of the body in bytes.
    body: usize,
}

impl Head {
    /// Reads the head, if it is complete.
    fn of(bytes: &[u8]) -> io::Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Ok(None);
        };
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "an answer can't be read");
        let head = str::from_utf8(&bytes[..end]).map_err(|_| invalid())?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.get(9..12)?.parse().ok());
        let length = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let status = status.ok_or_else(invalid)?;
        Ok(Some(Self { status, length: end + 4, body: length.ok_or_else(invalid)? }))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn answer_in_pieces_is_read_and_connection_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host: Arc<str> = listener.local_addr().unwrap().to_string().into();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for _ in 0..2 {
                stream.read_buf(&mut Vec::new()).await.unwrap();
                for part in ["HTTP/1.1 201 Created\r\ncontent-", "length: 5\r\n\r", "\nhel", "lo"] {
                    stream.write_all(part.as_bytes()).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        let mut connection = Connection::to(&host);
        for _ in 0..2 {
            let answer = connection.send(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            assert_eq!(answer, Answer { status: 201, body: b"hello" });
        }
        server.await.unwrap();
        assert!(connection.send(b"GET / HTTP/1.1\r\n\r\n").await.is_err());
    }

    #[test]
    fn connection_used_last_is_taken_first() {
        let pool = Pool::to(&"127.0.0.1:1".into());
        let mut used = pool.take();
        used.answer.extend(b"used");
        pool.put(Connection::to(&pool.host));
        pool.put(used);
        assert_eq!(pool.take().answer, b"used");
        assert!(pool.take().answer.is_empty());
        assert!(pool.idle().is_empty());
    }
}
