//! The transport of RFC 6455.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use gozon_contract::Timestamp;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        error::ProtocolError,
        protocol::{
            CloseFrame, Role, WebSocketConfig,
            frame::{
                Frame,
                coding::{Data, OpCode},
            },
        },
    },
};

use super::session::{Client, End, Session, code};

/// The largest message a client may send; there is nothing that it needs to say.
const MAX_CLIENT_MESSAGE: usize = 4 * 1024;
/// Every socket has a buffer of this size to read into.
const READ_BUFFER: usize = 256;
/// How much is gathered before it is written, unless there is no more to gather.
const WRITE_BUFFER: usize = 8 * 1024;
/// Room for the longest frame besides.
const MAX_WRITE_BUFFER: usize = 64 * 1024;
/// How long the server's side may take to switch protocols.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take to answer a Close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for one that was too slow before: it reads the rest first.
const SLOW_CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to read on after the closing handshake, so that what is still on its way does not reset
/// the connection before the client has read the Close frame.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

struct Socket {
    stream: WebSocketStream<TokioIo<Upgraded>>,
    /// Part of a frame may have been written, so that no other can follow.
    in_frame: bool,
    /// The client has sent its Close frame.
    closed_by_client: bool,
}

/// Serves a socket from the switch of protocols to the end of its connection.
pub(super) async fn run(upgrade: OnUpgrade, session: Session) {
    let _counted = session.live.count_client();
    let Ok(Ok(upgraded)) = timeout(UPGRADE_TIMEOUT, upgrade).await else {
        return;
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(MAX_WRITE_BUFFER)
        .max_message_size(Some(MAX_CLIENT_MESSAGE))
        .max_frame_size(Some(MAX_CLIENT_MESSAGE));
    let io = TokioIo::new(upgraded);
    let stream = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let mut socket = Socket { stream, in_frame: false, closed_by_client: false };
    let end = session.run(&mut socket).await;
    Box::pin(socket.close(end)).await;
}

impl Client for Socket {
    const ANSWERS_PINGS: bool = true;

    /// Past the socket's buffer, which would stay as large as this for as long as it lives.
    async fn snapshot(&mut self, text: &str, _: Timestamp) -> Result<(), End> {
        let frame = Frame::message(text.to_owned(), OpCode::Data(Data::Text), true);
        let mut bytes = Vec::with_capacity(frame.len());
        frame.format(&mut bytes).map_err(gone)?;
        self.in_frame = true;
        self.stream.get_mut().write_all(&bytes).await.map_err(gone)?;
        self.in_frame = false;
        Ok(())
    }

    async fn feed(&mut self, text: &Utf8Bytes, _: Timestamp) -> Result<(), End> {
        self.stream.feed(Message::Text(text.clone())).await.map_err(gone)
    }

    async fn flush(&mut self) -> Result<(), End> {
        self.stream.flush().await.map_err(gone)
    }

    async fn ping(&mut self) -> Result<(), End> {
        self.stream.send(Message::Ping(Vec::new().into())).await.map_err(gone)
    }

    async fn receive(&mut self) -> Result<(), End> {
        Err(match self.stream.next().await {
            Some(Ok(Message::Close(_))) => {
                self.closed_by_client = true;
                End::Gone
            }
            Some(Ok(_)) => return Ok(()),
            Some(Err(Error::Utf8(_))) => End::Close(code::INVALID_DATA, "a text must be UTF-8"),
            Some(Err(Error::Capacity(_))) => {
                End::Close(code::TOO_LARGE, "a message may have 4096 bytes")
            }
            None | Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                End::Gone
            }
            Some(Err(Error::Protocol(_))) => End::Close(code::PROTOCOL_ERROR, "protocol error"),
            Some(Err(_)) => End::Gone,
        })
    }
}

impl Socket {
    /// The closing handshake, by whichever side began it, and the end of the connection.
    async fn close(mut self, end: End) {
        let mut limit = CLOSE_TIMEOUT;
        match end {
            End::Close(code, reason) if !self.in_frame => {
                if code == code::TRY_AGAIN_LATER {
                    limit = SLOW_CLOSE_TIMEOUT;
                }
                let frame =
                    CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
                let handshake = async {
                    if self.stream.send(Message::Close(Some(frame))).await.is_ok() {
                        while let Some(Ok(_)) = self.stream.next().await {}
                    }
                };
                let _ = timeout(limit, handshake).await;
            }
            End::Gone if self.closed_by_client => {
                // The answer is in the buffer already; reading on sends it.
                let answered = async { while let Some(Ok(_)) = self.stream.next().await {} };
                let _ = timeout(limit, answered).await;
            }
            _ => return,
        }
        let io = self.stream.get_mut();
        let linger = async {
            io.shutdown().await?;
            let mut rest = [0; 512];
            while io.read(&mut rest).await? > 0 {}
            Ok::<_, std::io::Error>(())
        };
        let _ = timeout(LINGER_TIMEOUT, linger).await;
    }
}

fn gone<E>(_: E) -> End {
    End::Gone
}
