//! As much of PostgreSQL's protocol as it takes to tell statements apart.
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use std::{collections::HashMap, io};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
};

/// The largest message that a test sends or is sent, in bytes.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// The longest text of a statement that is shown.
const MAX_LABEL_CHARS: usize = 160;

/// A message, with its tag and length.
pub(super) struct Message {
    pub bytes: Vec<u8>,
}

/// What a client sends before it waits for an answer, if it runs a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flight {
    /// The statement's text.
    sql: String,
}

/// The texts of a connection's prepared statements, by name.
#[derive(Default)]
pub(super) struct Statements(HashMap<Vec<u8>, String>);

impl Message {
    fn tag(&self) -> u8 {
        self.bytes[0]
    }

    fn body(&self) -> &[u8] {
        &self.bytes[5..]
    }

    fn new(tag: u8, body: &[u8]) -> Self {
        let length = u32::try_from(body.len() + 4).expect("a short message");
        let mut bytes = vec![tag];
        bytes.extend(length.to_be_bytes());
        bytes.extend(body);
        Self { bytes }
    }

    /// The process that serves the connection, if the message says it.
    pub fn backend_pid(&self) -> Option<i32> {
        let pid = self.body().first_chunk().filter(|_| self.tag() == b'K')?;
        Some(i32::from_be_bytes(*pid))
    }

    /// `I` without a transaction, `T` in one, `E` in a failed one; if the message ends an answer.
    pub fn transaction_status(&self) -> Option<u8> {
        self.body().first().copied().filter(|_| self.tag() == b'Z')
    }

    /// Whether the client may wait for it before the connection is ready.
    pub fn is_of_login(&self) -> bool {
        self.tag() == b'R'
    }

    /// Makes the error `query_canceled` the error `lock_not_available`, if it is that.
    pub fn as_lock_timeout(&mut self) -> bool {
        let code = b"C57014\0";
        let place = self.bytes.windows(code.len()).position(|window| window == code);
        let (b'E', Some(place)) = (self.tag(), place) else { return false };
        self.bytes[place..place + code.len()].copy_from_slice(b"C55P03\0");
        true
    }
}

impl Flight {
    /// Whether it takes no lock, lets go of none, and reads and writes nothing.
    pub fn is_free(&self, in_transaction: bool) -> bool {
        let of = |word: &str| self.sql.starts_with(word);
        of("begin") || of("set ") || (of("rollback") && !in_transaction)
    }

    /// Whether it makes something durable.
    pub fn writes(&self, in_transaction: bool) -> bool {
        self.sql == "commit" || (!in_transaction && !self.sql.trim_start().starts_with("select"))
    }

    /// The statement on one line, without what all have in common.
    pub fn label(&self) -> String {
        let line = self.sql.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.starts_with("with s0 as") {
            let words: Vec<_> = line.split(' ').collect();
            let parts = words.windows(3).filter_map(|words| match words {
                ["(insert", "into", table] => Some(format!("insert into {table}")),
                ["(update", table, ..] => Some(format!("update {table}")),
                ["(delete", "from", table] => Some(format!("delete from {table}")),
                _ => None,
            });
            return parts.collect::<Vec<_>>().join(", ");
        }
        let cut = line.char_indices().nth(MAX_LABEL_CHARS).map_or(line.len(), |(at, _)| at);
        line[..cut].to_owned()
    }
}

/// Reads a message with a tag.
pub(super) async fn read_message(from: &mut OwnedReadHalf) -> io::Result<Message> {
    let mut head = [0; 5];
    from.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if !(4..MAX_MESSAGE_BYTES).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = head.to_vec();
    bytes.resize(1 + length, 0);
    from.read_exact(&mut bytes[5..]).await?;
    Ok(Message { bytes })
}

/// Passes on the first message of a connection, which has no tag.
pub(super) async fn pass_startup(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let mut bytes = length.to_vec();
    bytes.resize((u32::from_be_bytes(length) as usize).min(MAX_MESSAGE_BYTES), 0);
    from.read_exact(&mut bytes[4..]).await?;
    to.write_all(&bytes).await
}

/// Reads what the client sends before it waits for an answer; and what of it is a statement.
pub(super) async fn read_flight(
    from: &mut OwnedReadHalf,
    known: &mut Statements,
    rewritten: impl Fn(&str) -> String,
) -> io::Result<(Vec<u8>, Option<Flight>)> {
    let (mut bytes, mut sql, mut flight) = (Vec::new(), String::new(), None);
    loop {
        let mut message = read_message(from).await?;
        match message.tag() {
            b'Q' => {
                let text = rewritten(&text_of(message.body()).0);
                message = Message::new(b'Q', &[text.as_bytes(), b"\0"].concat());
                flight = Some(Flight { sql: text });
            }
            b'P' => {
                let (name, rest) = split(message.body());
                let (text, types) = text_of(rest);
                let text = rewritten(&text);
                let body = [name, b"\0", text.as_bytes(), b"\0", types].concat();
                known.0.insert(name.to_owned(), text);
                message = Message::new(b'P', &body);
            }
            b'B' => {
                let (_portal, rest) = split(message.body());
                sql = known.0.get(split(rest).0).cloned().unwrap_or_default();
            }
            b'E' => flight = Some(Flight { sql: std::mem::take(&mut sql) }),
            _ => {}
        }
        bytes.extend_from_slice(&message.bytes);
        // Query, Sync, Terminate, and the answers to what a login asks.
        if matches!(message.tag(), b'Q' | b'S' | b'X' | b'p') {
            return Ok((bytes, flight));
        }
    }
}

pub(super) async fn write(to: &mut OwnedWriteHalf, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await
}

/// The text before the first zero byte, and what comes after it.
fn split(body: &[u8]) -> (&[u8], &[u8]) {
    let end = body.iter().position(|byte| *byte == 0).unwrap_or(body.len());
    (&body[..end], body.get(end + 1..).unwrap_or_default())
}

fn text_of(body: &[u8]) -> (String, &[u8]) {
    let (text, rest) = split(body);
    (String::from_utf8_lossy(text).into_owned(), rest)
}
