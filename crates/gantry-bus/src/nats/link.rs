//! One connection of async-nats: how it is made, what it reports, and how its end is noticed.
//!
//! async-nats reconnects by itself, but its connection task may die: a header value with a lone CR makes it panic, and
//! any client may send one. Nothing reports this, and `connection_state()` stays `Connected`. However, the values captured
//! by the event callback are dropped with the task, so a [`Guard`] among them notices at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use async_nats::connection::State;
use async_nats::{Client, ServerError};
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant;

use super::dial;
use super::losses::Losses;
use super::options::Options;
use crate::{Error, Event, Status};

/// How many events a reader may lag behind. Events are rare: a few denied subjects, a burst of slow consumers.
const EVENTS: usize = 64;

/// One connection of async-nats, and the totals of its predecessors.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) made_at: Instant,
    over: Arc<Over>,
    earlier: Totals,
}

/// The totals of several connections of a bus.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    /// How many connections were made.
    pub(super) epoch: u64,
    pub(super) received_bytes: u64,
}

/// Whether a link is dead.
#[derive(Debug, Default)]
pub(super) struct Over {
    is_over: AtomicBool,
    noticed: Notify,
}

/// What a bus reports, independent of its current link.
pub(super) struct Reports {
    status: watch::Sender<Status>,
    events: broadcast::Sender<Event>,
    losses: Losses,
}

/// Owned by the callback of one link, so it is dropped when the link's connection task ends in any way.
///
/// It must not own the client, which would keep the connection alive.
struct Guard {
    reports: Arc<Reports>,
    over: Arc<Over>,
    link: OnceLock<Weak<Link>>,
}

/// Makes a connection.
///
/// Returns it, and whether it uses TLS. If it does, all later connections must.
///
/// # Errors
/// The same as [`dial::dial`].
pub(super) async fn make(
    options: &Options,
    discovered: &[String],
    reports: &Arc<Reports>,
    earlier: Totals,
) -> Result<(Arc<Link>, bool), Error> {
    let mut guard = None;
    let dialled = dial::dial(options, discovered, |options| {
        let own = Arc::new(Guard { reports: Arc::clone(reports), over: Arc::default(), link: OnceLock::new() });
        // A guard kept here would not be dropped with the task.
        guard = Some((Arc::downgrade(&own), Arc::clone(&own.over)));
        options.event_callback(move |event| {
            let own = Arc::clone(&own);
            async move { own.handle(event).await }
        })
    });
    let (client, uses_tls) = Box::pin(dialled).await?;
    let (guard, over) = guard.ok_or(Error::Closed)?;

    let link = Arc::new(Link { client, made_at: Instant::now(), over, earlier });
    if let Some(guard) = guard.upgrade() {
        guard.link.get_or_init(|| Arc::downgrade(&link));
    }
    Ok((link, uses_tls))
}

impl Link {
    /// Returns whether the connection task has ended. Nothing will be sent or received on this link again.
    pub(super) fn is_over(&self) -> bool {
        self.over.is_over.load(Ordering::Acquire)
    }

    /// Returns the signal of the link's end, which does not keep the link alive.
    pub(super) fn over(&self) -> Arc<Over> {
        Arc::clone(&self.over)
    }

    /// Returns the totals of this link and its predecessors.
    pub(super) fn totals(&self) -> Totals {
        let statistics = self.client.statistics();
        Totals {
            epoch: self.earlier.epoch + statistics.connects.load(Ordering::Relaxed),
            received_bytes: self.earlier.received_bytes + statistics.in_bytes.load(Ordering::Relaxed),
        }
    }

    /// Returns the other servers of the cluster, as the server named them when the connection was made.
    pub(super) fn discovered(&self) -> Vec<String> {
        self.client.server_info().connect_urls
    }
}

impl Over {
    /// Waits for the link's end. Only one task may wait.
    pub(super) async fn wait(&self) {
        while !self.is_over.load(Ordering::Acquire) {
            self.noticed.notified().await;
        }
    }
}

impl Reports {
    pub(super) fn new() -> Self {
        Self {
            status: watch::Sender::new(Status { connected: true, epoch: 1 }),
            events: broadcast::Sender::new(EVENTS),
            losses: Losses::default(),
        }
    }

    pub(super) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub(super) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    pub(super) fn emit(&self, event: Event) {
        tracing::debug!(?event, "nats-server reports");
        // There may be no listeners.
        drop(self.events.send(event));
    }

    /// Reports the state of a link. `connected` is the state according to an event; the client's own state follows a
    /// moment later.
    pub(super) fn refresh(&self, link: &Link, connected: Option<bool>) {
        let reports_connected = connected.unwrap_or_else(|| link.client.connection_state() == State::Connected);
        self.set(Status { connected: reports_connected && !link.is_over(), epoch: link.totals().epoch });
    }

    /// Reports that there is no connection.
    pub(super) fn disconnected(&self) {
        let epoch = self.status.borrow().epoch;
        self.set(Status { connected: false, epoch });
    }

    /// Logs that a connection could not be made.
    pub(super) fn failing(&self, reason: &dyn std::fmt::Display) {
        self.losses.failing(reason);
    }

    fn set(&self, new: Status) {
        self.status.send_if_modified(|status| {
            match (status.connected, new.connected) {
                (true, false) => self.losses.lost(),
                (false, true) => self.losses.restored(new.epoch),
                (true, true) | (false, false) => {}
            }
            let changed = *status != new;
            *status = new;
            changed
        });
    }
}

impl Guard {
    fn link(&self) -> Option<Arc<Link>> {
        self.link.get().and_then(Weak::upgrade)
    }

    /// Handles an event of async-nats, which drops events when there are many at once. So each one refreshes the status.
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
        if let Some(link) = self.link() {
            self.reports.refresh(&link, connected);
        }

        match event {
            async_nats::Event::SlowConsumer(_) | async_nats::Event::ServerError(ServerError::SlowConsumer(_)) => {
                self.reports.emit(Event::SlowConsumer);
            }
            async_nats::Event::LameDuckMode => {
                self.reports.emit(Event::LameDuck);
                self.leave_lame_duck().await;
            }
            async_nats::Event::ServerError(error) => match denied(&error.to_string()) {
                Some(event) => self.reports.emit(event),
                None => tracing::warn!(%error, "nats-server reports an error"),
            },
            async_nats::Event::ClientError(error) => self.reports.failing(&error),
            async_nats::Event::Connected
            | async_nats::Event::Disconnected
            | async_nats::Event::Draining
            | async_nats::Event::Closed => {}
        }
    }

    /// Moves to another server before this one closes. If there is no other, the connection stays: a server in lame duck
    /// mode serves its existing connections for a while, but accepts no new ones.
    async fn leave_lame_duck(&self) {
        // Holding the link while waiting would keep it alive.
        let Some(client) = self.link().map(|link| link.client.clone()) else { return };
        let has_other = client.server_pool().await.is_ok_and(|servers| servers.len() > 1);
        if has_other && let Err(error) = client.force_reconnect().await {
            tracing::debug!(%error, "the connection closed before it could move to another server");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.over.is_over.store(true, Ordering::Release);
        self.over.noticed.notify_one();
        // A failed attempt has no link. If the bus was dropped, the link is gone.
        if self.link().is_some() {
            self.reports.disconnected();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_permission_violations() {
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
