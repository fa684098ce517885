//! The bus over a real nats-server. Nothing else names `async_nats`.

mod auth;
mod dial;
mod messages;
mod options;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use async_nats::client::traits::Publisher;
use async_nats::connection::State;
use async_nats::{Client, PublishErrorKind, ServerError, SubscribeErrorKind};
use futures_util::future::BoxFuture;
use tokio::sync::{broadcast, oneshot, watch};

use super::{Bus, Error, Event, Message, Status, Subscription};
use gantry_proto::subject::is_literal;

pub use options::{Auth, Options};

/// How many events a reader may lag behind. They are rare: a few denied subjects, a burst of slow consumers.
const EVENTS: usize = 64;

/// A connection to nats-server.
///
/// It reconnects for as long as it lives. It closes when it and all its subscriptions are dropped.
pub struct Nats {
    client: Arc<Client>,
    shared: Arc<Shared>,
    /// Which connection was given up last, by its epoch.
    given_up: AtomicU64,
}

/// What the connection's callback reaches. It must not own the client: the callback lives as long as the connection,
/// and that as long as a client.
struct Shared {
    client: OnceLock<Weak<Client>>,
    status: watch::Sender<Status>,
    events: broadcast::Sender<Event>,
}

/// Connects, and stays connected from then on.
///
/// # Errors
/// [`Error::Options`] when an option or a file that it names is unusable, also for TLS; [`Error::Unauthorized`] at once
/// when the server refuses us; [`Error::Unreachable`] when nobody answered within `connect_timeout`.
pub async fn connect(options: Options) -> Result<Arc<Nats>, Error> {
    let shared = Arc::new(Shared {
        client: OnceLock::new(),
        status: watch::Sender::new(Status { connected: true, epoch: 1 }),
        events: broadcast::Sender::new(EVENTS),
    });
    let client = dial::dial(&options, |options| {
        let shared = Arc::clone(&shared);
        options.event_callback(move |event| {
            let shared = Arc::clone(&shared);
            async move { shared.handle(event).await }
        })
    })
    .await?;
    let client = Arc::new(client);
    shared.client.get_or_init(|| Arc::downgrade(&client));
    shared.refresh(None);
    Ok(Arc::new(Nats { client, shared, given_up: AtomicU64::new(0) }))
}

impl Shared {
    /// Takes what async-nats tells. It drops events when many come at once, so the status is read afresh at each.
    async fn handle(&self, event: async_nats::Event) {
        let connected = match event {
            async_nats::Event::Connected => Some(true),
            async_nats::Event::Disconnected | async_nats::Event::Closed => Some(false),
            async_nats::Event::LameDuckMode
            | async_nats::Event::Draining
            | async_nats::Event::SlowConsumer(_)
            | async_nats::Event::ServerError(_)
            | async_nats::Event::ClientError(_) => None,
        };
        self.refresh(connected);
        match event {
            async_nats::Event::SlowConsumer(_) | async_nats::Event::ServerError(ServerError::SlowConsumer(_)) => {
                self.tell(Event::SlowConsumer);
            }
            async_nats::Event::LameDuckMode => {
                self.tell(Event::LameDuck);
                self.leave_lame_duck().await;
            }
            async_nats::Event::ServerError(error) => match denied(&error.to_string()) {
                Some(event) => self.tell(event),
                None => tracing::warn!(%error, "nats-server reports an error"),
            },
            async_nats::Event::ClientError(error) => tracing::debug!(%error, "no connection to nats-server"),
            async_nats::Event::Connected
            | async_nats::Event::Disconnected
            | async_nats::Event::Draining
            | async_nats::Event::Closed => {}
        }
    }

    fn tell(&self, event: Event) {
        tracing::debug!(?event, "nats-server says");
        // Nobody listening is fine.
        drop(self.events.send(event));
    }

    /// Moves to another server before this one closes. When there is no other it stays, since a server in lame duck
    /// mode serves those it has for a while but takes nobody new.
    async fn leave_lame_duck(&self) {
        let Some(client) = self.client.get().and_then(Weak::upgrade) else { return };
        let elsewhere = client.server_pool().await.is_ok_and(|servers| servers.len() > 1);
        if elsewhere && let Err(error) = client.force_reconnect().await {
            tracing::debug!(%error, "the connection closed before it could leave");
        }
    }

    /// Publishes the newest status. `connected` is what an event said: the client's own state follows it a moment
    /// later.
    fn refresh(&self, connected: Option<bool>) {
        let Some(client) = self.client.get().and_then(Weak::upgrade) else { return };
        self.status.send_if_modified(|status| {
            let new = Status {
                connected: connected.unwrap_or_else(|| client.connection_state() == State::Connected),
                epoch: client.statistics().connects.load(Ordering::Relaxed),
            };
            match (status.connected, new.connected) {
                (true, false) => tracing::warn!("the connection to nats-server is lost"),
                (false, true) => tracing::info!(epoch = new.epoch, "connected to nats-server again"),
                (true, true) | (false, false) => {}
            }
            let changed = *status != new;
            *status = new;
            changed
        });
    }
}

/// Reads nats-server's `Permissions Violation for Publish to "x"` and `… for Subscription to "x" using queue "y"`.
fn denied(text: &str) -> Option<Event> {
    let (_, what) = text.split_once("Permissions Violation for ")?;
    let (verb, rest) = what.split_once('"')?;
    let (subject, _) = rest.split_once('"')?;
    if verb.starts_with("Publish") {
        Some(Event::PublishDenied(subject.to_owned()))
    } else if verb.starts_with("Subscription") {
        Some(Event::SubscribeDenied(subject.to_owned()))
    } else {
        None
    }
}

impl Bus for Nats {
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            for subject in std::iter::once(&message.subject).chain(&message.reply) {
                if !is_literal(subject) {
                    return Err(Error::Subject(subject.clone()));
                }
            }
            let (len, max) = (message.wire_len(), self.max_payload());
            if len > max {
                return Err(Error::TooLarge { len, max });
            }
            let subject = message.subject.clone();
            let outbound = messages::outbound(message)?;
            self.client.publish_message(outbound).await.map_err(|error| match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => Error::TooLarge { len, max: self.max_payload() },
                PublishErrorKind::InvalidSubject => Error::Subject(subject),
                PublishErrorKind::Send => Error::Closed,
            })
        })
    }

    fn subscribe<'a>(&'a self, subject: &'a str, queue: Option<&'a str>) -> BoxFuture<'a, Result<Subscription, Error>> {
        Box::pin(async move {
            let subscribed = match queue {
                Some(queue) => self.client.queue_subscribe(subject.to_owned(), queue.to_owned()).await,
                None => self.client.subscribe(subject.to_owned()).await,
            };
            let subscriber = subscribed.map_err(|error| match error.kind() {
                SubscribeErrorKind::InvalidSubject => Error::Subject(subject.to_owned()),
                SubscribeErrorKind::InvalidQueueName => Error::Subject(queue.unwrap_or_default().to_owned()),
                SubscribeErrorKind::Other => Error::Closed,
            })?;
            let (close, closed) = oneshot::channel();
            let messages = messages::Messages::new(subscriber, closed);
            // Dropping the sender is the signal.
            Ok(Subscription::new(Box::pin(messages), move || drop(close)))
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { self.client.flush().await.map_err(|_| Error::Closed) })
    }

    fn reconnect(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            // Whoever shares a dead connection finds out at about the same time: only the first gives it up, so that the
            // others do not end the one that takes its place.
            let epoch = self.client.statistics().connects.load(Ordering::Relaxed);
            if self.given_up.swap(epoch, Ordering::Relaxed) == epoch {
                return Ok(());
            }
            self.client.force_reconnect().await.map_err(|_| Error::Closed)
        })
    }

    fn new_inbox(&self) -> String {
        self.client.new_inbox()
    }

    /// Follows each reconnect. A lower limit of the account alone is not known to it.
    fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    fn received_bytes(&self) -> u64 {
        self.client.statistics().in_bytes.load(Ordering::Relaxed)
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").field("status", &*self.shared.status.borrow()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permission_violations_are_read_from_the_servers_words() {
        let cases = [
            (r#"nats: Permissions Violation for Publish to "a.b""#, Some(Event::PublishDenied("a.b".to_owned()))),
            (
                r#"nats: Permissions Violation for Subscription to "a.>" using queue "q""#,
                Some(Event::SubscribeDenied("a.>".to_owned())),
            ),
            (
                r#"Permissions Violation for Publish with Reply of "_INBOX.x""#,
                Some(Event::PublishDenied("_INBOX.x".to_owned())),
            ),
            ("nats: Maximum Payload Violation", None),
            (r#"Permissions Violation for Publish to "open"#, None),
        ];
        for (text, event) in cases {
            assert_eq!(denied(text), event, "{text}");
        }
    }
}
