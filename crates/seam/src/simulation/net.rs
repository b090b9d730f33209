//! Connections between simulated processes, by port alone.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::mpsc,
    time::sleep,
};

use super::{Connect, world};

/// How much may be under way in one direction.
const BUFFER_BYTES: usize = 64 * 1024;

thread_local! {
    static LISTENERS: RefCell<BTreeMap<u16, mpsc::UnboundedSender<TcpStream>>> =
        const { RefCell::new(BTreeMap::new()) };
    static LINKS: RefCell<Vec<(u16, Weak<Link>)>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn clear() {
    LISTENERS.take();
    LINKS.take();
}

/// Breaks the connections to the ports that `chosen` chooses.
pub fn cut(mut chosen: impl FnMut(u16) -> bool) -> usize {
    let links = LINKS.take();
    let (cut, kept): (Vec<_>, Vec<_>) = links
        .into_iter()
        .filter(|(_, link)| link.strong_count() > 0)
        .partition(|(port, _)| chosen(*port));
    LINKS.set(kept);
    cut.iter().filter_map(|(_, link)| link.upgrade()).map(|link| link.cut()).count()
}

/// Accepts connections to a port.
pub struct TcpListener {
    port: u16,
    streams: tokio::sync::Mutex<mpsc::UnboundedReceiver<TcpStream>>,
}

impl TcpListener {
    /// Listens on a port, in place of a listener that was there before.
    #[must_use]
    pub fn listen(port: u16) -> Self {
        let (sender, streams) = mpsc::unbounded_channel();
        LISTENERS.with_borrow_mut(|all| all.insert(port, sender));
        Self { port, streams: streams.into() }
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// Somebody else listens on the port now.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let stream = self.streams.lock().await.recv().await.ok_or(io::ErrorKind::NotConnected)?;
        Ok((stream, SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))))
    }
}

/// What both ends of a connection share.
struct Link {
    is_cut: AtomicBool,
    /// Bytes that may still come back before it breaks.
    left: AtomicUsize,
    wakers: Mutex<[Option<Waker>; 4]>,
}

impl Link {
    fn cut(&self) {
        self.is_cut.store(true, Relaxed);
        let wakers =
            std::mem::take(&mut *self.wakers.lock().unwrap_or_else(PoisonError::into_inner));
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn wait(&self, place: usize, context: &Context<'_>) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers[place] = Some(context.waker().clone());
    }
}

/// One end of a connection.
pub struct TcpStream {
    io: DuplexStream,
    link: Arc<Link>,
    is_client: bool,
}

impl TcpStream {
    /// Connects to a port.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect((_, port): (&str, u16)) -> io::Result<Self> {
        let Connect { refused, delay, breaks_after } =
            world(|world| world.connect(port)).unwrap_or_default();
        sleep(delay).await;
        let listener = LISTENERS.with_borrow(|all| all.get(&port).cloned());
        let Some(listener) = listener.filter(|_| !refused) else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let (client, server) = tokio::io::duplex(BUFFER_BYTES);
        let link = Arc::new(Link {
            is_cut: AtomicBool::new(false),
            left: AtomicUsize::new(breaks_after.unwrap_or(usize::MAX)),
            wakers: Mutex::default(),
        });
        LINKS.with_borrow_mut(|all| all.push((port, Arc::downgrade(&link))));
        let server = Self { io: server, link: Arc::clone(&link), is_client: false };
        listener.send(server).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Self { io: client, link, is_client: true })
    }

    /// Nothing is delayed here.
    ///
    /// # Errors
    /// None.
    pub fn set_nodelay(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    /// Looks at what comes first. HTTP/2 is not simulated.
    ///
    /// # Errors
    /// None.
    #[allow(clippy::unused_async, reason = "as tokio's")]
    pub async fn peek(&self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    fn place(&self, writes: bool) -> usize {
        usize::from(self.is_client) * 2 + usize::from(writes)
    }
}

impl Connection for TcpStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.link.is_cut.load(Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if polled.is_pending() {
            self.link.wait(self.place(false), context);
        }
        let read = buffer.filled().len() - before;
        if self.is_client && read > 0 {
            let left = self.link.left.load(Relaxed);
            if left < read {
                self.link.cut();
                buffer.set_filled(before);
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if left != usize::MAX {
                self.link.left.store(left - read, Relaxed);
            }
        }
        polled
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.link.is_cut.load(Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        if polled.is_pending() {
            self.link.wait(self.place(true), context);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
