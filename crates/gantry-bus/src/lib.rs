//! The message bus: the parts of NATS that Gantry needs, as a trait, so that tests can replace it by a faulty bus.

pub mod clock;
pub mod nats;
pub mod rate;
pub mod trace;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::{broadcast, watch};

use gantry_proto::{Headers, Location};

/// The status with which nats-server reports that nobody listens on a request's or reply's subject.
pub const NO_RESPONDERS: u16 = 503;

/// A message, in or out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The subject that the message is sent to, or on which it arrived.
    pub subject: String,
    /// The subject for answers. On a publish, [`NO_RESPONDERS`] also arrives there if nobody received the message and
    /// this connection subscribes to the subject.
    pub reply: Option<String>,
    /// The headers.
    pub headers: Headers,
    /// The payload.
    pub payload: Bytes,
    /// A status from nats-server, such as [`NO_RESPONDERS`]. Never set on a publish.
    pub status: Option<u16>,
}

impl Message {
    /// Returns the size that counts against the server's limit, in bytes: the payload and the encoded headers.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        if self.headers.is_empty() {
            return self.payload.len();
        }
        let lines: usize = self.headers.iter().map(|(name, value)| name.len() + ": ".len() + value.len() + 2).sum();
        "NATS/1.0\r\n".len() + lines + "\r\n".len() + self.payload.len()
    }
}

/// A stream of the messages of a subscription. After [`Subscription::close`] it must be polled to its end. Dropping it
/// unsubscribes at once and loses unread messages.
pub struct Subscription {
    messages: BoxStream<'static, Message>,
    close: Option<Box<dyn FnOnce() + Send>>,
}

impl Subscription {
    /// Wraps a stream of messages. `close` stops new messages, after which the stream must end with those that have arrived.
    #[must_use]
    pub fn new(messages: BoxStream<'static, Message>, close: impl FnOnce() + Send + 'static) -> Self {
        Self { messages, close: Some(Box::new(close)) }
    }

    /// Stops new messages. The stream ends after those that have already arrived. Messages in flight are lost.
    pub fn close(&mut self) {
        if let Some(close) = self.close.take() {
            close();
        }
    }
}

impl Stream for Subscription {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        self.messages.as_mut().poll_next(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

/// The state of the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether there is a connection now.
    pub connected: bool,
    /// The number of connections so far. Messages that were published or in flight before a change may be lost.
    pub epoch: u64,
}

/// A report from nats-server about this connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The connection may not publish to the subject.
    PublishDenied(String),
    /// The connection may not subscribe to the subject.
    SubscribeDenied(String),
    /// A subscription was full and lost messages.
    SlowConsumer,
    /// The server is in lame duck mode and will close the connection.
    LameDuck,
    /// The connection is lost and can't be restored, for this reason. Everything that needs it fails from now on.
    Closed(String),
}

/// A connection to the bus, shared by everything in the process.
pub trait Bus: fmt::Debug + Send + Sync + 'static {
    /// Queues a message for sending. Waits while the queue is full, and while a dead connection is replaced.
    ///
    /// `Ok` does not mean that anyone received the message: a reconnect may lose it.
    ///
    /// # Errors
    /// - [`Error::TooLarge`] if the message exceeds the server's limit.
    /// - [`Error::Subject`] if the subject or the reply subject is invalid.
    /// - [`Error::Header`] if a header is invalid.
    /// - The reason why the connection is closed for good, such as [`Error::Unauthorized`], otherwise [`Error::Closed`].
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the message is not sent.
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<(), Error>>;

    /// Subscribes, as a member of the queue group `queue` if given. The subscription receives messages that are published
    /// later on this bus, and survives reconnects.
    ///
    /// # Errors
    /// - [`Error::Subject`] if the subject or the queue group is invalid.
    /// - The reason why the connection is closed for good, as for [`Bus::publish`].
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, there is no subscription.
    fn subscribe<'a>(&'a self, subject: &'a str, queue: Option<&'a str>) -> BoxFuture<'a, Result<Subscription, Error>>;

    /// Waits until everything published before has been written to the connection.
    ///
    /// # Errors
    /// The reason why the connection is closed for good, as for [`Bus::publish`].
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped before it is ready.
    fn flush(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// Forces a reconnect, for callers that consider the connection dead. On its own, the bus can take 30 s to detect a
    /// silently cut link. Returns once the reconnect has been requested; [`Bus::status`] shows the new connection. Each
    /// connection is abandoned only once, however many callers request it.
    ///
    /// # Errors
    /// The reason why the connection is closed for good, as for [`Bus::publish`].
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, the reconnect may or may not have been requested.
    fn reconnect(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// Returns a new subject for replies that nobody else uses.
    fn new_inbox(&self) -> String;

    /// Returns the server's limit on payload and headers together, in bytes. It may change with a reconnect. An
    /// account's limit becomes known only when a message exceeds it.
    fn max_payload(&self) -> usize;

    /// Records that the server does not accept messages of `len` bytes, although it announces a larger limit. Afterwards
    /// [`Bus::max_payload`] is smaller, unless the bus has no such limit.
    fn note_refused(&self, len: usize) {
        let _ = len;
    }

    /// Returns the address of the current or last server, without credentials.
    fn server(&self) -> String;

    /// Returns where the bus is connected, or was connected last; `None` if the server does not state it.
    fn location(&self) -> Option<Arc<Location>> {
        None
    }

    /// Returns how many bytes have been received so far, including those of incomplete messages. An increase shows that a
    /// slow link is delivering data.
    fn received_bytes(&self) -> u64;

    /// Watches the connection.
    fn status(&self) -> watch::Receiver<Status>;

    /// Watches the server's reports about this connection. A reader that lags loses the oldest.
    fn events(&self) -> broadcast::Receiver<Event>;
}

/// Why an operation of the bus failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No server could be reached in time. Retryable.
    #[error("no nats-server reachable at {servers}: {reason}")]
    Unreachable {
        /// The addresses, without credentials.
        servers: String,
        /// The failure of the last attempt.
        reason: String,
    },
    /// The server refused the credentials. Not retryable without other credentials.
    #[error("nats-server at {servers} refuses the credentials: {reason}")]
    Unauthorized {
        /// The addresses, without credentials.
        servers: String,
        /// The server's reason.
        reason: String,
    },
    /// An option, or a file that it names, is invalid or does not match the server.
    #[error("{reason}")]
    Options {
        /// The option.
        option: nats::OptionKind,
        /// The problem.
        reason: String,
    },
    /// The message is larger than the server accepts.
    #[error("message of {len} bytes is over the server's limit of {max}")]
    TooLarge {
        /// Payload and headers, in bytes.
        len: usize,
        /// The limit, in bytes.
        max: usize,
    },
    /// The subject is invalid. Not retryable.
    #[error("{0:?} is not a subject")]
    Subject(String),
    /// The header's name or value can't be encoded. Not retryable.
    #[error("header {0:?} has characters that NATS headers can't contain")]
    Header(String),
    /// The connection is closed for good. Not retryable on this bus.
    #[error("the connection to nats-server is closed")]
    Closed,
}

impl Error {
    /// Creates the error of an option.
    pub(crate) fn option(option: nats::OptionKind, reason: impl Into<String>) -> Self {
        Self::Options { option, reason: reason.into() }
    }

    /// Returns whether the same operation may succeed later without any change by the caller: only if no server could be
    /// reached.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}
