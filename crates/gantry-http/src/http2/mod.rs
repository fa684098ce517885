//! HTTP/2: a connection with several responses at once, each a stream with deadlines of its own.
//!
//! Only connections on which the client has chosen HTTP/2 during the TLS handshake are served this way.

mod flow;
mod streams;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::flow::Paced;
use self::streams::Streams;
use crate::front::Front;
use crate::listener::Peer;
use crate::timed::{Phase, Timed};

/// The maximum number of concurrent streams of a connection. Clients queue further requests.
const STREAMS_MAX: u32 = 32;

/// The maximum number of bytes that a stream's send buffer takes before it waits for the client.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// The maximum number of streams that a client may have reset before they were accepted. With more, the connection is
/// closed: CVE-2023-44487, "rapid reset".
const RESETS_MAX: usize = 20;

/// The window for bytes from the client, in bytes. Bodies of requests are never read. Source: the smallest window of a
/// connection, RFC 9113, section 6.9.2.
const RECEIVE_WINDOW_BYTES: u32 = 65_535;

/// The pause between pings.
const PING_INTERVAL: Duration = Duration::from_secs(60);

/// The maximum time until a ping is acknowledged. A ping waits behind the bytes that are in flight, which are several MiB
/// for a client that reads slowly on purpose, such as `curl --limit-rate`. A dead client that should take bytes is
/// noticed by the send timeout.
const PING_TIMEOUT: Duration = Duration::from_mins(10);

/// Serves a connection until it ends, or was unused for too long. After `stop` is cancelled, it ends with its streams, or
/// after the drain timeout. Returns `None` if it was closed with streams or an unresponsive client.
///
/// # Cancel safety
/// If the future is dropped, the connection and its streams are aborted.
pub(crate) async fn serve<Io>(
    front: &Arc<Front>,
    io: Io,
    peer: Peer,
    phase: &Arc<Phase>,
    stop: CancellationToken,
) -> Option<hyper::Result<()>>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let options = &front.options;
    // Only the send timeout applies to the connection's bytes. `unused` below limits the time for a head.
    phase.begin_request();
    let io = Timed::new(io, Arc::clone(phase), options.header_read_timeout, options.send_timeout);

    let streams = Streams::new(options.send_timeout);
    let _abort = streams.abort_on_drop();
    let service = service_fn(|request| {
        let front = Arc::clone(front);
        async move { Ok::<_, Infallible>(answer(&front, request, peer).await) }
    });
    let header_bytes_max = u32::try_from(options.header_bytes_max).unwrap_or(u32::MAX);
    let connection = builder(streams.clone(), header_bytes_max).serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);

    tokio::select! {
        served = connection.as_mut() => {
            streams.ended().await;
            return Some(served);
        }
        () = stop.cancelled() => {}
        () = streams.unused(options.header_read_timeout, options.idle_timeout) => {}
    }

    if !streams.has_begun() && !stop.is_cancelled() {
        phase.end_slow();
        return None;
    }
    connection.as_mut().graceful_shutdown();

    // The client may have opened streams before it has heard of the end, or may not answer.
    let drained = async {
        stop.cancelled().await;
        sleep(options.drain_timeout).await;
    };
    let served = tokio::select! {
        served = connection => Some(served),
        () = drained => None,
        () = streams.unused(options.header_read_timeout, options.header_read_timeout) => None,
    };
    if served.is_none() && streams.count() > 0 {
        warn!(%peer, "responses were abandoned, because they did not end in time while the server stops");
    }
    served
}

fn builder(streams: Streams, header_bytes_max: u32) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_header_list_size(header_bytes_max)
        .initial_stream_window_size(RECEIVE_WINDOW_BYTES)
        .initial_connection_window_size(RECEIVE_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Answers a request in its stream's task.
async fn answer(front: &Front, mut request: Request<Incoming>, peer: Peer) -> Response<Paced> {
    // Signatures cover the host by the name of HTTP/1.1's header. A missing authority is refused later.
    if !request.headers().contains_key(HOST)
        && let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(HOST, host);
    }

    // hyper removes headers that only HTTP/1 has, such as `Connection`.
    let response = front.answer(request, peer, None).await;
    response.map(|content| Paced::new(content, streams::current_flow()))
}
