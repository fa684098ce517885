//! The message bus: what Gantry needs of NATS, as a trait, so that tests can put a faulty bus in its place.

pub mod nats;
pub mod rate;
pub mod trace;

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::{broadcast, watch};

use gantry_proto::Headers;

/// The status of a `503`, nats-server's word for a request or reply subject that nobody listens on.
pub const NO_RESPONDERS: u16 = 503;

/// A message, in or out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Where it goes, or came in.
    pub subject: String,
    /// Where answers go; on a publish, also where a [`NO_RESPONDERS`] comes back when nobody received the message
    /// and we subscribe to it ourselves.
    pub reply: Option<String>,
    /// Its headers.
    pub headers: Headers,
    /// Its bytes.
    pub payload: Bytes,
    /// nats-server's own status, such as [`NO_RESPONDERS`]; never set on a publish.
    pub status: Option<u16>,
}

impl Message {
    /// Returns the bytes that count against the server's limit: the payload, and the headers as they are written.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        if self.headers.is_empty() {
            return self.payload.len();
        }
        let lines: usize = self.headers.iter().map(|(name, value)| name.len() + ": ".len() + value.len() + 2).sum();
        "NATS/1.0\r\n".len() + lines + "\r\n".len() + self.payload.len()
    }
}

/// What a subscription hears. It must be polled to the end after [`Subscription::close`]; dropping it unsubscribes at
/// once and loses what has not been read.
pub struct Subscription {
    messages: BoxStream<'static, Message>,
    close: Option<Box<dyn FnOnce() + Send>>,
}

impl Subscription {
    /// Wraps a stream of messages; `close` stops new ones, upon which the stream must end after those already there.
    #[must_use]
    pub fn new(messages: BoxStream<'static, Message>, close: impl FnOnce() + Send + 'static) -> Self {
        Self { messages, close: Some(Box::new(close)) }
    }

    /// Stops new messages; the stream ends after those that have already arrived. Those on their way are lost.
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
    /// How often the connection was made. What was published or on its way before a change may be lost.
    pub epoch: u64,
}

/// Something that nats-server said about what we asked it to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// We may not publish to the subject.
    PublishDenied(String),
    /// We may not subscribe to the subject.
    SubscribeDenied(String),
    /// A subscription of ours was full and lost messages.
    SlowConsumer,
    /// The server is in lame duck mode and will close the connection.
    LameDuck,
    /// The connection is lost and can't be made again, for this reason: everything that needs it fails from now on.
    Closed(String),
}

/// A connection to the bus, shared by everything in the process.
pub trait Bus: fmt::Debug + Send + Sync + 'static {
    /// Queues a message for sending, waiting while the queue is full and while a dead connection is replaced.
    ///
    /// `Ok` does not mean that anyone received it: a reconnect may lose it.
    ///
    /// # Errors
    /// When the message is too large, a subject or header is none, or the connection is closed for good.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the message is not sent.
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<(), Error>>;

    /// Subscribes, as a member of `queue` if given. Messages published later on this bus are heard. The subscription
    /// outlives a connection that is lost.
    ///
    /// # Errors
    /// When the subject is none or the connection is closed for good.
    fn subscribe<'a>(&'a self, subject: &'a str, queue: Option<&'a str>) -> BoxFuture<'a, Result<Subscription, Error>>;

    /// Waits until all that was published before has been written to the connection.
    ///
    /// # Errors
    /// When the connection is closed for good.
    fn flush(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// Gives up the connection and makes a new one, for who has reason to think that it is dead: over a link that was
    /// cut without a word it takes the bus itself up to half a minute to notice. Returns when it is asked for; the
    /// new connection shows in [`Bus::status`]. One connection is given up once, however many ask.
    ///
    /// # Errors
    /// When the connection is closed for good.
    fn reconnect(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// Makes a subject that nobody else uses, for replies.
    fn new_inbox(&self) -> String;

    /// Returns the server's limit on payload and headers together, in bytes. It may change with a reconnect.
    fn max_payload(&self) -> usize;

    /// Returns how many bytes the connection has read so far, those of messages that are not complete included: what
    /// shows that a slow link carries something.
    fn received_bytes(&self) -> u64;

    /// Watches the connection.
    fn status(&self) -> watch::Receiver<Status>;

    /// Hears what the server says about us. A lagging reader loses the oldest.
    fn events(&self) -> broadcast::Receiver<Event>;
}

/// Why the bus did not take something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server could be reached, or none within the time given.
    #[error("no nats-server reachable at {servers}: {reason}")]
    Unreachable {
        /// The addresses, without credentials.
        servers: String,
        /// What the last attempt failed with.
        reason: String,
    },
    /// The server refused our credentials.
    #[error("nats-server at {servers} refuses the credentials: {reason}")]
    Unauthorized {
        /// The addresses, without credentials.
        servers: String,
        /// What the server said.
        reason: String,
    },
    /// An option, or a file that it names, is unusable.
    #[error("{0}")]
    Options(String),
    /// The message is larger than the server takes.
    #[error("message of {len} bytes is over the server's limit of {max}")]
    TooLarge {
        /// Payload and headers, in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The subject is not one.
    #[error("{0:?} is not a subject")]
    Subject(String),
    /// The header's name or value can't be written.
    #[error("header {0:?} has characters that NATS headers can't hold")]
    Header(String),
    /// The connection is closed for good.
    #[error("the connection to nats-server is closed")]
    Closed,
}
