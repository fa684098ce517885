//! Replacing a connection of async-nats that has died: another is made, and everything is subscribed to again.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_nats::Subscriber;
use tokio::time::{Instant, sleep};

use super::super::{Error, Event};
use super::link::{self, Link, Over};
use super::messages::Source;
use super::{Inner, dial, subscribe_on};

/// A connection that lived for less than this is replaced after a pause.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// The pause after a short life. Hostile messages that kill each new connection make us dial a few hundred times per
/// second at most, and yet leave moments in which requests are heard.
const PAUSE: Duration = Duration::from_millis(3);

/// A subscription that must outlive its connection.
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

/// Makes another connection, trying for as long as it takes. Returns what tells when that one is over; `None` when the
/// bus was dropped, or when another try would fail the same way.
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
            Err(error @ (Error::Unauthorized { .. } | Error::Options(_))) => {
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
    /// Subscribes, on this connection and on all that follow.
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

    /// Makes another connection in place of the dead one.
    async fn renew(&self) -> Result<Arc<Link>, Error> {
        let dead = self.link();
        let discovered = if self.options.ignore_discovered_servers { Vec::new() } else { dead.discovered() };
        let (link, _) = link::make(&self.options, &discovered, &self.reports, dead.totals()).await?;
        // Before anything is subscribed to, so that what nats-server denies is reported after the new epoch.
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

    /// Gives the bus up: every subscription ends, and whatever waits for a connection fails.
    async fn close(&self, error: &Error) {
        tracing::error!(%error, "there will be no connection to nats-server any more");
        self.closed.cancel();
        // First of all the reason: what ends now ends because of it.
        self.reports.say(Event::Closed(error.to_string()));

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
