//! The state that a bus and its subscriptions share: the current connection, and every subscription that must survive
//! it.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, Weak};

use async_nats::{Client, SubscribeErrorKind, Subscriber};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::link::{self, Link};
use super::options::Options;
use super::shared::Shared;
use super::source::Source;
use crate::{Error, Event};

/// The state that the bus and its subscriptions share.
pub(super) struct Inner {
    pub(super) options: Options,
    /// The current connection. If it dies, it is replaced.
    link: watch::Sender<Arc<Link>>,
    pub(super) shared: Arc<Shared>,
    /// All subscriptions. Locked during a subscription, so that a new connection misses none.
    subscriptions: tokio::sync::Mutex<Vec<Registered>>,
    /// Cancelled once the connection can't be restored.
    pub(super) closed: CancellationToken,
    /// Why the connection can't be restored.
    end: OnceLock<Error>,
    /// The epoch of the connection that was abandoned last.
    pub(super) abandoned: AtomicU64,
}

/// A subscription that must survive its connection.
struct Registered {
    subject: String,
    queue: Option<String>,
    source: Weak<Source>,
}

impl Inner {
    pub(super) fn new(options: Options, link: Arc<Link>, shared: Arc<Shared>) -> Self {
        Self {
            options,
            link: watch::Sender::new(link),
            shared,
            subscriptions: tokio::sync::Mutex::default(),
            closed: CancellationToken::new(),
            end: OnceLock::new(),
            abandoned: AtomicU64::new(0),
        }
    }

    /// Returns the current connection, dead or alive.
    pub(super) fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link.borrow())
    }

    /// Waits for a connection that is not known to be dead.
    pub(super) async fn live_link(&self) -> Result<Arc<Link>, Error> {
        let link = self.link();
        if link.is_over() { self.link_after(&link).await } else { Ok(link) }
    }

    /// Waits for the connection that replaces `dead`.
    pub(super) async fn link_after(&self, dead: &Arc<Link>) -> Result<Arc<Link>, Error> {
        let mut links = self.link.subscribe();
        tokio::select! {
            link = links.wait_for(|link| !Arc::ptr_eq(link, dead)) => {
                link.map(|link| Arc::clone(&link)).map_err(|_| Error::Closed)
            }
            () = self.closed.cancelled() => Err(self.end()),
        }
    }

    /// Returns why the connection is closed for good.
    pub(super) fn end(&self) -> Error {
        self.end.get().cloned().unwrap_or(Error::Closed)
    }

    /// Subscribes, on the current connection and on all that follow.
    pub(super) async fn subscribe(
        &self,
        subject: &str,
        queue: Option<&str>,
    ) -> Result<(Subscriber, Arc<Source>), Error> {
        loop {
            let link = self.live_link().await?;
            let mut subscriptions = self.subscriptions.lock().await;
            if !Arc::ptr_eq(&link, &self.link()) {
                continue;
            }

            match subscribe_on(&link.client, subject, queue).await {
                Ok(subscriber) => {
                    let source = Arc::new(Source::default());
                    subscriptions.retain(Registered::is_used);
                    subscriptions.push(Registered {
                        subject: subject.to_owned(),
                        queue: queue.map(str::to_owned),
                        source: Arc::downgrade(&source),
                    });
                    return Ok((subscriber, source));
                }
                Err(Error::Closed) => {
                    drop(subscriptions);
                    self.link_after(&link).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Replaces the dead connection.
    pub(super) async fn renew(&self) -> Result<Arc<Link>, Error> {
        let dead = self.link();
        let link = link::make(&self.options, &self.shared, Some(dead.totals())).await?;
        // Refreshed before subscribing, so that denied subscriptions are reported after the new epoch.
        link.refresh(&self.shared.reports, None);

        let mut subscriptions = self.subscriptions.lock().await;
        subscriptions.retain(Registered::is_used);
        for Registered { subject, queue, source } in &*subscriptions {
            let subscriber = subscribe_on(&link.client, subject, queue.as_deref()).await?;
            if let Some(source) = source.upgrade() {
                source.renew(subscriber);
            }
        }

        self.link.send_replace(Arc::clone(&link));
        tracing::debug!(server = link.addr.as_url_str(), "replaced a connection to nats-server that had ended");
        Ok(link)
    }

    /// Closes the bus for good: every subscription ends, and everything that waits for a connection fails.
    pub(super) async fn close(&self, error: &Error) {
        tracing::debug!(%error, "the connection to nats-server can't be restored");
        // Set first, so that the reason is known before anything notices the consequences.
        self.end.get_or_init(|| error.clone());
        self.shared.reports.emit(Event::Closed(error.to_string()));

        self.closed.cancel();
        for Registered { source, .. } in &*self.subscriptions.lock().await {
            if let Some(source) = source.upgrade() {
                source.close();
            }
        }
    }
}

impl Registered {
    fn is_used(&self) -> bool {
        self.source.strong_count() > 0
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
