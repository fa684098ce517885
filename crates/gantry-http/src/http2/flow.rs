//! The bytes of one stream: small pieces of which each is known to have been sent or not.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::HeaderMap;
use tokio::time::{Instant, sleep_until};

use crate::content::Failure;
use crate::tracked::Tracked;

/// The maximum number of bytes of a piece, so that streams take turns. Source: the initial size of a frame, RFC 9113,
/// section 4.2.
const PIECE_BYTES: usize = 16 << 10;

/// What a stream has handed over to the connection.
#[derive(Debug)]
pub(super) struct Flow {
    unsent: Mutex<Unsent>,
    /// The body, while it waits for its last byte to be sent.
    body: AtomicWaker,
}

#[derive(Debug)]
struct Unsent {
    /// The number of bytes that the connection did not send yet.
    bytes: usize,
    /// When bytes were sent, or began to wait.
    since: Instant,
}

impl Flow {
    pub(super) fn new() -> Self {
        Self { unsent: Mutex::new(Unsent { bytes: 0, since: Instant::now() }), body: AtomicWaker::new() }
    }

    /// Waits until the client has taken nothing for `timeout` although there are bytes for it.
    pub(super) async fn stalled(&self, timeout: Duration) {
        loop {
            let now = Instant::now();
            let deadline = {
                let unsent = self.unsent();
                if unsent.bytes == 0 { now + timeout } else { unsent.since + timeout }
            };
            if deadline <= now {
                return;
            }
            sleep_until(deadline).await;
        }
    }

    fn unsent(&self) -> MutexGuard<'_, Unsent> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, len: usize) {
        let mut unsent = self.unsent();
        if unsent.bytes == 0 {
            unsent.since = Instant::now();
        }
        unsent.bytes += len;
    }

    fn sent(&self, len: usize) {
        let is_all = {
            let mut unsent = self.unsent();
            unsent.bytes = unsent.bytes.saturating_sub(len);
            unsent.since = Instant::now();
            unsent.bytes == 0
        };
        if is_all {
            self.body.wake();
        }
    }

    fn is_sent(&self) -> bool {
        self.unsent().bytes == 0
    }

    fn poll_sent(&self, cx: &Context<'_>) -> Poll<()> {
        self.body.register(cx.waker());
        if self.is_sent() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Bytes that report when they are sent. Bytes of a reset stream are dropped, and never count as sent.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Bytes,
    flow: Arc<Flow>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.flow.sent(count);
    }
}

/// A response's content in pieces. It ends only after all its bytes were sent: until then the stream's task exists, so
/// that a client that takes no bytes can't keep them in memory.
#[derive(Debug)]
pub(crate) struct Paced {
    content: Tracked,
    flow: Arc<Flow>,
    /// Bytes that were not handed out yet.
    rest: Bytes,
    /// The trailers to send, once the content has ended.
    end: Option<Option<HeaderMap>>,
}

impl Paced {
    pub(super) fn new(content: Tracked, flow: Arc<Flow>) -> Self {
        Self { content, flow, rest: Bytes::new(), end: None }
    }
}

impl Body for Paced {
    type Data = Piece;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, Failure>>> {
        loop {
            if !self.rest.is_empty() {
                let len = self.rest.len().min(PIECE_BYTES);
                let bytes = self.rest.split_to(len);
                self.flow.add(len);
                let flow = Arc::clone(&self.flow);
                return Poll::Ready(Some(Ok(Frame::data(Piece { bytes, flow }))));
            }

            if self.end.is_some() {
                ready!(self.flow.poll_sent(cx));
                let trailers = self.end.as_mut().and_then(Option::take);
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            }

            match ready!(Pin::new(&mut self.content).poll_frame(cx)) {
                None => self.end = Some(None),
                Some(Err(failure)) => return Poll::Ready(Some(Err(failure))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => self.rest = bytes,
                    Err(frame) => self.end = Some(frame.into_trailers().ok()),
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // hyper asks after the last piece as well, whose end must wait.
        self.rest.is_empty() && self.flow.is_sent() && self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.content.size_hint().exact() {
            Some(left) => SizeHint::with_exact(left + self.rest.len() as u64),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        if !self.rest.is_empty() || !self.flow.is_sent() {
            self.content.abandon();
        }
    }
}
