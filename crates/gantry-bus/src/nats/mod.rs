//! The bus over a real nats-server. Nothing else names `async_nats`.

mod auth;
mod dial;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod link;
mod losses;
mod messages;
mod options;
mod panics;
mod renewal;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::client::traits::Publisher;
use async_nats::{Client, PublishErrorKind, SubscribeErrorKind, Subscriber};
use futures_util::future::BoxFuture;
use tokio::sync::{broadcast, oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::link::{Link, Reports, Totals};
use self::messages::Messages;
use self::renewal::Registered;
use crate::{Bus, Error, Event, Message, Status, Subscription};
use gantry_proto::subject::is_literal;

pub use self::options::{Auth, OptionKind, Options};
pub use self::panics::quieten_panics;

/// A connection to nats-server.
///
/// It reconnects for as long as it exists, even if the client library's own connection dies. The connection closes when
/// this value and all of its subscriptions are dropped.
pub struct Nats {
    inner: Arc<Inner>,
}

/// What the bus and its subscriptions share.
struct Inner {
    options: Options,
    /// The current connection. If it dies, it is replaced.
    link: watch::Sender<Arc<Link>>,
    reports: Arc<Reports>,
    /// All subscriptions. Locked while subscribing, so that a new connection misses none.
    subscriptions: tokio::sync::Mutex<Vec<Registered>>,
    /// Cancelled once the connection can't be restored.
    closed: CancellationToken,
    /// The epoch of the connection that was abandoned last.
    abandoned: AtomicU64,
}

/// Connects to nats-server, and keeps reconnecting from then on.
///
/// # Errors
/// - [`Error::Options`] if an option, or a file that it names, is invalid, or if the TLS handshake fails.
/// - [`Error::Unauthorized`] at once if the server refuses the credentials.
/// - [`Error::Unreachable`] if no server answers within `connect_timeout`.
///
/// # Cancel safety
/// If the future is dropped before it is ready, there is no connection.
pub async fn connect(options: Options) -> Result<Arc<Nats>, Error> {
    let reports = Arc::new(Reports::new());
    let (link, uses_tls) = link::make(&options, &[], &reports, Totals::default()).await?;
    reports.refresh(&link, None);

    let over = link.over();
    let inner = Arc::new(Inner {
        options: Options { tls_required: options.tls_required || uses_tls, ..options },
        link: watch::Sender::new(link),
        reports,
        subscriptions: tokio::sync::Mutex::default(),
        closed: CancellationToken::new(),
        abandoned: AtomicU64::new(0),
    });
    tokio::spawn(renewal::watch(Arc::downgrade(&inner), over));
    Ok(Arc::new(Nats { inner }))
}

impl Inner {
    /// Returns the current connection, dead or alive.
    fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link.borrow())
    }

    /// Waits for a connection that is not known to be dead.
    async fn live_link(&self) -> Result<Arc<Link>, Error> {
        let link = self.link();
        if link.is_over() { self.link_after(&link).await } else { Ok(link) }
    }

    /// Waits for the connection that replaces `dead`.
    async fn link_after(&self, dead: &Arc<Link>) -> Result<Arc<Link>, Error> {
        let mut links = self.link.subscribe();
        tokio::select! {
            link = links.wait_for(|link| !Arc::ptr_eq(link, dead)) => {
                link.map(|link| Arc::clone(&link)).map_err(|_| Error::Closed)
            }
            () = self.closed.cancelled() => Err(Error::Closed),
        }
    }
}

/// Subscribes on one connection.
async fn subscribe_on(client: &Client, subject: &str, queue: Option<&str>) -> Result<Subscriber, Error> {
    let subscribed = match queue {
        Some(queue) => client.queue_subscribe(subject.to_owned(), queue.to_owned()).await,
        None => client.subscribe(subject.to_owned()).await,
    };
    subscribed.map_err(|error| match error.kind() {
        SubscribeErrorKind::InvalidSubject => Error::Subject(subject.to_owned()),
        SubscribeErrorKind::InvalidQueueName => Error::Subject(queue.unwrap_or_default().to_owned()),
        SubscribeErrorKind::Other => Error::Closed,
    })
}

impl Bus for Nats {
    fn publish(&self, message: Message) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            for subject in std::iter::once(&message.subject).chain(&message.reply) {
                if !is_literal(subject) {
                    return Err(Error::Subject(subject.clone()));
                }
            }

            let link = self.inner.live_link().await?;
            let len = message.wire_len();
            let max = link.client.max_payload();
            if len > max {
                return Err(Error::TooLarge { len, max });
            }

            let subject = message.subject.clone();
            let outbound = messages::outbound(message)?;
            let Err(error) = link.client.publish_message(outbound).await else { return Ok(()) };

            match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => Err(Error::TooLarge { len, max: link.client.max_payload() }),
                PublishErrorKind::InvalidSubject => Err(Error::Subject(subject)),
                // The connection died meanwhile. The message is lost, as any message before a reconnect may be.
                PublishErrorKind::Send => self.inner.link_after(&link).await.map(drop),
            }
        })
    }

    fn subscribe<'a>(&'a self, subject: &'a str, queue: Option<&'a str>) -> BoxFuture<'a, Result<Subscription, Error>> {
        Box::pin(async move {
            let (subscriber, source) = self.inner.subscribe(subject, queue).await?;
            let (close, closed) = oneshot::channel();
            let messages = Messages::new(subscriber, source, closed, Arc::clone(&self.inner));
            // Dropping the sender is the signal.
            Ok(Subscription::new(Box::pin(messages), move || drop(close)))
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            loop {
                let link = self.inner.live_link().await?;
                if link.client.flush().await.is_ok() {
                    return Ok(());
                }
                // Messages published on a dead connection are lost, as before any reconnect. Flush its successor.
                self.inner.link_after(&link).await?;
            }
        })
    }

    fn reconnect(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            // All users of a dead connection notice at about the same time. Only the first abandons it, so that the others
            // do not end its successor.
            let link = self.inner.link();
            let epoch = link.totals().epoch;
            if self.inner.abandoned.swap(epoch, Ordering::Relaxed) == epoch {
                return Ok(());
            }

            match link.client.force_reconnect().await {
                Err(_) if self.inner.closed.is_cancelled() => Err(Error::Closed),
                // A dead connection is already being replaced.
                Ok(()) | Err(_) => Ok(()),
            }
        })
    }

    fn new_inbox(&self) -> String {
        format!("{}.{}", self.inner.options.inbox_prefix, Uuid::new_v4().simple())
    }

    /// Updated at each reconnect. A lower limit of the account is not known.
    fn max_payload(&self) -> usize {
        self.inner.link.borrow().client.max_payload()
    }

    fn received_bytes(&self) -> u64 {
        self.inner.link.borrow().totals().received_bytes
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.inner.reports.status()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.reports.events()
    }
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").field("status", &*self.inner.reports.status().borrow()).finish_non_exhaustive()
    }
}
