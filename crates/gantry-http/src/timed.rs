//! Deadlines for slow clients: for the head of a request, and for taking the bytes of a response.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// What a connection is doing, shared by its bytes and its requests.
#[derive(Debug, Default)]
pub(crate) struct Phase {
    /// Counts the changes: even while a head is awaited, odd during a request.
    changes: AtomicU64,
    /// Whether the current head has begun. The first one begins with the connection.
    is_idle: AtomicBool,
    was_slow: AtomicBool,
}

impl Phase {
    /// A request's head is complete.
    pub(crate) fn begin_request(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// The response is complete or abandoned.
    pub(crate) fn end_request(&self) {
        self.is_idle.store(true, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// The connection ends because a head takes too long.
    pub(crate) fn end_slow(&self) {
        self.was_slow.store(true, Ordering::Relaxed);
    }

    /// Returns whether the connection was ended because a head took too long.
    pub(crate) fn was_slow(&self) -> bool {
        self.was_slow.load(Ordering::Relaxed)
    }

    /// Returns the number of the head that is being read, if one has begun.
    fn head(&self) -> Option<u64> {
        let changes = self.changes.load(Ordering::Relaxed);
        (changes.is_multiple_of(2) && !self.is_idle.load(Ordering::Relaxed)).then_some(changes)
    }
}

/// A connection with deadlines.
#[derive(Debug)]
pub(crate) struct Timed<Io> {
    io: Io,
    phase: Arc<Phase>,
    header_read_timeout: Duration,
    send_timeout: Duration,
    /// The number of the head that the timer belongs to.
    reading: Option<(u64, Pin<Box<Sleep>>)>,
    sending: Option<Pin<Box<Sleep>>>,
    is_stalled: bool,
}

impl<Io> Timed<Io> {
    pub(crate) const fn new(io: Io, phase: Arc<Phase>, header_read_timeout: Duration, send_timeout: Duration) -> Self {
        Self { io, phase, header_read_timeout, send_timeout, reading: None, sending: None, is_stalled: false }
    }

    /// Returns an error once a head takes too long.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(head) = self.phase.head() else {
            self.reading = None;
            return Poll::Pending;
        };

        let mut reading = match self.reading.take() {
            Some(reading) if reading.0 == head => reading,
            Some(_) | None => (head, Box::pin(sleep(self.header_read_timeout))),
        };
        if reading.1.as_mut().poll(cx).is_pending() {
            self.reading = Some(reading);
            return Poll::Pending;
        }

        self.phase.end_slow();
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the request's head was not complete in time")))
    }

    /// Returns an error once the client has taken nothing for too long.
    fn poll_stalled<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.is_stalled = false;
            return polled;
        }

        let timeout = self.send_timeout;
        let timer = self.sending.get_or_insert_with(|| Box::pin(sleep(timeout)));
        if !std::mem::replace(&mut self.is_stalled, true) {
            timer.as_mut().reset(Instant::now() + timeout);
        }

        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client took nothing for too long")))
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Timed<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);

        if buf.filled().len() > before {
            self.phase.is_idle.store(false, Ordering::Relaxed);
        }
        if polled.is_ready() {
            return polled;
        }
        self.poll_head(cx)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Timed<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.poll_stalled(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.poll_stalled(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.poll_stalled(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(cx);
        self.poll_stalled(polled, cx)
    }
}
