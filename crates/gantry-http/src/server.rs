//! Connections: accepting them, serving them, and finishing them when the server stops.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::front::Front;
use crate::head::HEADERS_MAX;
use crate::http2;
use crate::listener::{Established, Listener, Peer, Protocol, accept_until};
use crate::observe::{Observe, Rejected, Unobserved};
use crate::options::Options;
use crate::stores::Stores;
use crate::timed::{Phase, Timed};

/// hyper's smallest buffer, in bytes.
const HEADER_BYTES_MIN: usize = 8192;

/// The maximum number of bytes that a connection's buffers hold besides the piece that is being sent. It bounds what a
/// slow client keeps in memory.
const BUFFER_BYTES: usize = 128 << 10;

/// An HTTP server of stores. Clones share everything.
#[derive(Clone, Debug)]
pub struct Server {
    front: Arc<Front>,
}

impl Server {
    /// Creates a server that reports to nobody.
    #[must_use]
    pub fn new(stores: Arc<dyn Stores>, options: Options) -> Self {
        Self::observed(stores, options, Arc::new(Unobserved))
    }

    /// Creates a server that reports its requests to `observe`.
    #[must_use]
    pub fn observed(stores: Arc<dyn Stores>, options: Options, observe: Arc<dyn Observe>) -> Self {
        Self { front: Arc::new(Front::new(stores, options, observe)) }
    }

    /// Serves all connections of `listener` until `stop` is cancelled. Then it accepts no more, ends idle connections,
    /// and waits up to `drain_timeout` for the responses in progress.
    ///
    /// # Cancel safety
    /// If the future is dropped, all connections are aborted.
    pub async fn serve<L: Listener>(&self, mut listener: L, stop: CancellationToken) {
        let connections = TaskTracker::new();
        // Cancelled if this future is dropped.
        let abort = CancellationToken::new();
        let abort_on_drop = abort.clone().drop_guard();

        let serve = |handshake, peer| {
            let server = self.clone();
            let (stop, abort) = (stop.clone(), abort.clone());
            async move {
                tokio::select! {
                    () = server.establish::<L>(handshake, peer, stop) => {}
                    () = abort.cancelled() => {}
                }
            }
        };
        let connections_max = self.front.options.connections_max;
        accept_until(&stop, &mut listener, connections_max, &connections, serve).await;

        drop(listener);
        connections.close();
        connections.wait().await;
        drop(abort_on_drop);
    }

    async fn establish<L: Listener>(&self, handshake: L::Handshake, peer: Peer, stop: CancellationToken) {
        let within = self.front.options.header_read_timeout;
        match timeout(within, handshake).await {
            Ok(Ok(established)) => self.serve_connection(established, peer, stop).await,
            Ok(Err(error)) => debug!(%peer, %error, "can't establish a connection"),
            Err(_) => debug!(%peer, "a connection was not established in time"),
        }
    }

    /// Serves one connection until it ends. After `stop` is cancelled, it ends with the responses in progress, or
    /// after `drain_timeout`.
    ///
    /// # Cancel safety
    /// If the future is dropped, the connection is aborted.
    pub async fn serve_connection<Io>(&self, established: Established<Io>, peer: Peer, stop: CancellationToken)
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Established { io, protocol } = established;
        let connected = Connected::new(&self.front, peer);
        let phase = Arc::new(Phase::default());
        let served = match protocol {
            Protocol::Http1 => self.serve_http1(io, peer, &phase, stop).await,
            Protocol::Http2 => http2::serve(&self.front, io, peer, &phase, stop).await,
        };
        drop(connected);

        if phase.was_slow() {
            self.front.observe.rejected(&peer, Rejected::SlowHeader);
            return;
        }
        let Some(Err(error)) = served else { return };

        debug!(%peer, %error, "a connection failed");
        if error.is_parse_too_large() {
            self.front.observe.rejected(&peer, Rejected::TooLarge);
        } else if error.is_parse() {
            self.front.observe.rejected(&peer, Rejected::Malformed);
        }
    }

    /// Returns `None` if responses were abandoned at the end of the drain timeout.
    async fn serve_http1<Io>(
        &self,
        io: Io,
        peer: Peer,
        phase: &Arc<Phase>,
        stop: CancellationToken,
    ) -> Option<hyper::Result<()>>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let options = &self.front.options;
        let io = Timed::new(io, Arc::clone(phase), options.header_read_timeout, options.send_timeout);
        let header_bytes_max = options.header_bytes_max.max(HEADER_BYTES_MIN);

        let service = service_fn(|request| {
            phase.begin_request();
            let front = Arc::clone(&self.front);
            let phase = Arc::clone(phase);
            async move { Ok::<_, Infallible>(front.answer(request, peer, Some(phase)).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // hyper starts this timer before the first byte of a head, so it limits idle connections.
            .header_read_timeout(options.idle_timeout)
            .max_headers(HEADERS_MAX)
            .max_header_size(header_bytes_max)
            .max_buf_size(header_bytes_max.max(BUFFER_BYTES))
            .serve_connection(TokioIo::new(io), service);
        let mut connection = pin!(connection);

        tokio::select! {
            served = connection.as_mut() => return Some(served),
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }

        let drained = timeout(options.drain_timeout, connection).await;
        if drained.is_err() {
            warn!(%peer, "a response was abandoned, because it did not end in time while the server stops");
        }
        drained.ok()
    }
}

/// Reports a connection's start and end.
struct Connected<'a> {
    front: &'a Front,
    peer: Peer,
}

impl<'a> Connected<'a> {
    fn new(front: &'a Front, peer: Peer) -> Self {
        front.observe.connected(&peer);
        Self { front, peer }
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.front.observe.disconnected(&self.peer);
    }
}
