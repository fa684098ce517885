//! Where connections come from, and how they are accepted.

use std::fmt;
use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

/// The pause after a connection can't be accepted. Most likely there are no file descriptors left, and an immediate
/// retry would fail, too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A source of connections.
pub trait Listener: Send {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Prepares a connection, for instance by a TLS handshake. It runs in the connection's own task, within the timeout
    /// of a request's head.
    type Handshake: Future<Output = io::Result<Established<Self::Io>>> + Send + 'static;

    /// Waits for the next connection.
    ///
    /// # Errors
    /// If none can be accepted now. The server tries again after a pause.
    ///
    /// # Cancel safety
    /// No connection is lost if the future is dropped before it is ready.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Handshake, Peer)>> + Send;
}

/// Accepts connections until `stop` is cancelled, and serves each in a task of `tasks`. At most `connections_max` exist at
/// once, and at least one; further ones wait.
///
/// # Cancel safety
/// No connection is lost if the future is dropped. The tasks go on.
pub async fn accept_until<L: Listener, F: Future<Output = ()> + Send + 'static>(
    stop: &CancellationToken,
    listener: &mut L,
    connections_max: usize,
    tasks: &TaskTracker,
    serve: impl Fn(L::Handshake, Peer) -> F + Send,
) {
    let room = Arc::new(Semaphore::new(connections_max.max(1)));
    loop {
        let accepted = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = stop.cancelled() => return,
        };

        match accepted {
            Ok((handshake, peer)) => {
                let serving = serve(handshake, peer);
                tasks.spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }
            Err(error) => {
                debug!(%error, "can't accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection that is ready for requests.
#[derive(Debug)]
pub struct Established<Io> {
    /// The connection.
    pub io: Io,
    /// The protocol that the client expects.
    pub protocol: Protocol,
}

impl<Io> Established<Io> {
    /// Creates a connection for HTTP/1.
    pub const fn http1(io: Io) -> Self {
        Self { io, protocol: Protocol::Http1 }
    }
}

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/1.0.
    Http1,
    /// HTTP/2, which the client has chosen by ALPN.
    Http2,
}

/// The client's end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The client's address. `None` if it has none, as on a Unix socket.
    pub address: Option<SocketAddr>,
}

impl Peer {
    /// A client on a Unix socket.
    pub const UNIX: Self = Self { address: None };

    /// Returns whether the client is on this host: it uses a loopback address or a Unix socket.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.address.is_none_or(|address| address.ip().to_canonical().is_loopback())
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self { address: Some(address) }
    }
}

impl fmt::Display for Peer {
    /// Writes the IP address without the port, or `unix`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => address.ip().to_canonical().fmt(f),
            None => f.write_str("unix"),
        }
    }
}

impl Listener for TcpListener {
    type Io = TcpStream;
    type Handshake = Ready<io::Result<Established<TcpStream>>>;

    async fn accept(&mut self) -> io::Result<(Self::Handshake, Peer)> {
        let (io, address) = Self::accept(self).await?;
        // The end of a response must not wait for the acknowledgement of its start.
        if let Err(error) = io.set_nodelay(true) {
            debug!(%error, "can't set TCP_NODELAY");
        }
        Ok((ready(Ok(Established::http1(io))), address.into()))
    }
}

#[cfg(unix)]
impl Listener for UnixListener {
    type Io = UnixStream;
    type Handshake = Ready<io::Result<Established<UnixStream>>>;

    async fn accept(&mut self) -> io::Result<(Self::Handshake, Peer)> {
        let (io, _) = Self::accept(self).await?;
        Ok((ready(Ok(Established::http1(io))), Peer::UNIX))
    }
}
