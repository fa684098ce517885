//! The bus over a real nats-server. No other module uses `async_nats`.

mod auth;
mod dial;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod inner;
mod link;
mod losses;
mod messages;
mod options;
mod panics;
mod payload;
mod pool;
mod refresh;
mod renewal;
mod shared;
mod source;
mod tls;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_nats::PublishErrorKind;
use async_nats::client::traits::Publisher;
use futures_util::future::BoxFuture;
use tokio::sync::{broadcast, oneshot, watch};
use uuid::Uuid;

use self::inner::Inner;
use self::link::Link;
use self::messages::Messages;
use self::options::without_credentials;
use self::pool::Pool;
use self::shared::Shared;
use crate::{Bus, Error, Event, Message, Status, Subscription};
use gantry_proto::Location;
use gantry_proto::subject::is_literal;

pub use self::losses::expect_end;
pub use self::options::{Auth, OptionKind, Options};
pub use self::panics::quieten_panics;

/// A connection to nats-server.
///
/// It reconnects for as long as it exists, even if the client library's own connection dies. The connection closes when
/// this value and all of its subscriptions are dropped.
pub struct Nats {
    inner: Arc<Inner>,
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
    options.check().await?;
    let shared = Arc::new(Shared::new(Pool::new(&options)?));
    let link = link::make(&options, &shared, None).await?;
    link.refresh(&shared.reports, None);

    let over = link.over();
    let inner = Arc::new(Inner::new(options, link, shared));
    tokio::spawn(renewal::watch(Arc::downgrade(&inner), over));
    Ok(Arc::new(Nats { inner }))
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
            let max = self.max_payload_on(&link);
            if len > max {
                return Err(Error::TooLarge { len, max });
            }
            self.inner.shared.payload.note_sent(len);

            let subject = message.subject.clone();
            let outbound = messages::outbound(message)?;
            let Err(error) = link.client.publish_message(outbound).await else { return Ok(()) };

            match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => Err(Error::TooLarge { len, max: self.max_payload_on(&link) }),
                PublishErrorKind::InvalidSubject => Err(Error::Subject(subject)),
                // The connection died meanwhile. The message is lost, like any message before a reconnect.
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
            // All users of a dead connection notice at about the same time. Only the first one abandons it, so that the
            // others do not end its successor.
            let link = self.inner.link();
            let epoch = link.totals().epoch;
            if self.inner.abandoned.swap(epoch, Ordering::Relaxed) == epoch {
                return Ok(());
            }

            // Another server may respond.
            self.inner.shared.leave(&link.addr);
            match link.client.force_reconnect().await {
                Err(_) if self.inner.closed.is_cancelled() => Err(self.inner.end()),
                // A dead connection is already being replaced.
                Ok(()) | Err(_) => Ok(()),
            }
        })
    }

    fn new_inbox(&self) -> String {
        format!("{}.{}", self.inner.options.inbox_prefix, Uuid::new_v4().simple())
    }

    fn max_payload(&self) -> usize {
        self.max_payload_on(&self.inner.link())
    }

    fn note_refused(&self, len: usize) {
        self.inner.shared.payload.note_refused(len);
    }

    fn server(&self) -> String {
        without_credentials(self.inner.link().addr.as_url_str())
    }

    fn location(&self) -> Option<Arc<Location>> {
        self.inner.link().location.clone()
    }

    fn received_bytes(&self) -> u64 {
        self.inner.link().totals().received_bytes
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.inner.shared.reports.status()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.shared.reports.events()
    }
}

impl Nats {
    fn max_payload_on(&self, link: &Link) -> usize {
        self.inner.shared.payload.of(link.client.max_payload())
    }
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").field("status", &*self.inner.shared.reports.status().borrow()).finish_non_exhaustive()
    }
}
