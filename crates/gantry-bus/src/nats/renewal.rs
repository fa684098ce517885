//! Replaces a connection of async-nats that has died: makes another one and renews every subscription.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_nats::Subscriber;
use tokio::time::{Instant, sleep};

use super::link::{self, Link, Over};
use super::messages::Source;
use super::{Inner, dial, subscribe_on};
use crate::{Error, Event};

/// A connection that lasted for less than this is replaced after a pause.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// The pause after a short life. Hostile messages that kill each new connection cause at most a few hundred reconnects per
/// second, and requests still get through in between.
const PAUSE: Duration = Duration::from_millis(3);

/// A subscription that must survive its connection.
pub(super) struct Registered {
    subject: String,
    queue: Option<String>,
    source: Weak<Source>,
}

/// Replaces each connection that dies, until the bus is dropped or closed for good.
pub(super) async fn watch(inner: Weak<Inner>, mut over: Arc<Over>) {
    loop {
        over.wait().await;
        let Some(renewed) = renew(&inner).await else { return };
        over = renewed;
    }
}

/// Makes another connection, and retries for as long as it takes. Returns the signal of its end, or `None` if the bus was
/// dropped or closed for good.
async fn renew(inner: &Weak<Inner>) -> Option<Arc<Over>> {
    let mut refused_at = None;
    for attempt in 1.. {
        let pause = {
            let inner = inner.upgrade()?;
            inner.reports.disconnected();
            let is_short = inner.link().made_at.elapsed() < SHORT_LIFE;
            dial::backoff(attempt).max(if is_short { PAUSE } else { Duration::ZERO })
        };
        sleep(pause).await;

        let inner = inner.upgrade()?;
        match inner.renew().await {
            Ok(link) => return Some(link.over()),
            Err(error @ (Error::Unauthorized { .. } | Error::Options { .. })) => {
                let since = *refused_at.get_or_insert_with(Instant::now);
                inner.reports.failing(&error);
                if since.elapsed() >= inner.options.refused_limit {
                    inner.close(&error).await;
                    return None;
                }
            }
            Err(error) => {
                refused_at = None;
                inner.reports.failing(&error);
            }
        }
    }
    None
}

impl Inner {
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
    async fn renew(&self) -> Result<Arc<Link>, Error> {
        let dead = self.link();
        let discovered = if self.options.ignore_discovered_servers { Vec::new() } else { dead.discovered() };
        let (link, _) = link::make(&self.options, &discovered, &self.reports, dead.totals()).await?;
        // Before subscribing, so that denied subscriptions are reported after the new epoch.
        self.reports.refresh(&link, None);

        let mut subscriptions = self.subscriptions.lock().await;
        subscriptions.retain(Registered::is_used);
        for Registered { subject, queue, source } in &*subscriptions {
            let subscriber = subscribe_on(&link.client, subject, queue.as_deref()).await?;
            if let Some(source) = source.upgrade() {
                source.renew(subscriber);
            }
        }

        self.link.send_replace(Arc::clone(&link));
        tracing::debug!("replaced a connection to nats-server that had died");
        Ok(link)
    }

    /// Closes the bus for good: every subscription ends, and everything that waits for a connection fails.
    async fn close(&self, error: &Error) {
        tracing::error!(%error, "the connection to nats-server can't be restored");
        // First, so that the reason is known before anything notices its consequences.
        self.reports.emit(Event::Closed(error.to_string()));

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
