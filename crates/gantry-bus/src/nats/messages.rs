//! Converts messages to and from async-nats' form, and keeps subscriptions across connections.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_nats::message::OutboundMessage;
use async_nats::{HeaderMap, HeaderName, HeaderValue, Subject, Subscriber};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::oneshot;

use super::inner::Inner;
use super::source::Source;
use crate::{Error, Message};
use gantry_proto::Headers;

/// Converts a message to async-nats' form. The payload is not copied.
pub(super) fn outbound(message: Message) -> Result<OutboundMessage, Error> {
    let headers = if message.headers.is_empty() { None } else { Some(header_map(&message.headers)?) };
    Ok(OutboundMessage {
        subject: Subject::from(message.subject),
        reply: message.reply.map(Subject::from),
        payload: message.payload,
        headers,
    })
}

/// Converts headers. Rejects names and values that break the header block, because async-nats would panic.
pub(super) fn header_map(headers: &Headers) -> Result<HeaderMap, Error> {
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter() {
        let unusable = || Error::Header(name.to_owned());
        let value: HeaderValue = value.parse().map_err(|_| unusable())?;
        map.append(name.parse::<HeaderName>().map_err(|_| unusable())?, value);
    }
    Ok(map)
}

/// Converts a message from async-nats' form. The payload is not copied.
fn inbound(message: async_nats::Message) -> Message {
    let mut headers = Headers::default();
    if let Some(map) = &message.headers {
        for (name, values) in map.iter() {
            let name: &str = name.as_ref();
            for value in values {
                headers.push(name.to_owned(), value.as_str());
            }
        }
    }

    Message {
        subject: message.subject.into_string(),
        reply: message.reply.map(Subject::into_string),
        headers,
        payload: message.payload,
        status: message.status.map(|status| status.as_u16()),
    }
}

/// The messages of a subscription, over all connections of its bus.
///
/// Dropping it unsubscribes: at once if there is room in the connection's queue, otherwise from a task that async-nats
/// starts. After closing, messages that have arrived can still be read. Messages on the wire are lost: async-nats forgets
/// a subscription when it sends the unsubscribe, and its `drain` does not wait for an answer either.
pub(super) struct Messages {
    source: Arc<Source>,
    /// `None` while `closing` holds the subscriber, and once its connection is dead.
    subscriber: Option<Subscriber>,
    /// The unsubscribe, which waits for room in the connection's queue.
    closing: Option<BoxFuture<'static, Subscriber>>,
    /// Dropping the sender closes the subscription. `None` once closed.
    closed: Option<oneshot::Receiver<()>>,
    /// Keeps the bus connected for as long as the subscription exists.
    _bus: Arc<Inner>,
}

impl Messages {
    pub(super) const fn new(
        subscriber: Subscriber,
        source: Arc<Source>,
        closed: oneshot::Receiver<()>,
        bus: Arc<Inner>,
    ) -> Self {
        Self { source, subscriber: Some(subscriber), closing: None, closed: Some(closed), _bus: bus }
    }
}

impl Stream for Messages {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        let this = &mut *self;
        loop {
            if this.closed.as_mut().is_some_and(|closed| closed.poll_unpin(cx).is_ready()) {
                this.closed = None;
                this.closing = this.subscriber.take().map(|subscriber| unsubscribe(subscriber).boxed());
            }
            if let Some(closing) = &mut this.closing {
                this.subscriber = Some(ready!(closing.poll_unpin(cx)));
                this.closing = None;
            }

            if let Some(subscriber) = &mut this.subscriber {
                if let Some(message) = ready!(subscriber.poll_next_unpin(cx)) {
                    return Poll::Ready(Some(inbound(message)));
                }
                this.subscriber = None;
            }
            if this.closed.is_none() {
                return Poll::Ready(None);
            }

            // The connection is dead; the next one delivers more.
            match ready!(this.source.poll_next(cx)) {
                Some(subscriber) => this.subscriber = Some(subscriber),
                None => return Poll::Ready(None),
            }
        }
    }
}

async fn unsubscribe(mut subscriber: Subscriber) -> Subscriber {
    if let Err(error) = subscriber.unsubscribe().await {
        tracing::debug!(%error, "the connection closed before its subscription");
    }
    subscriber
}
