//! The connection that all requests and downloads of one client share, and the sum of their windows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use gantry_bus::{Bus, Event};
use gantry_proto::receiver::{Arrivals, Settings};
use gantry_proto::{HEADERS_MAX_BYTES, StoreName};

use crate::discovery;
use crate::error::Error;
use crate::options::Options;

/// The smallest window, however many downloads share the connection.
const SHARE_MIN_BYTES: u64 = 32 * 1024;

/// The smallest window of a client with a rate limit.
const LIMITED_WINDOW_MIN_BYTES: u64 = 4 * 1024;

/// The smallest chunk of a client with a rate limit. The headers of smaller chunks would cost more than their payload.
const LIMITED_CHUNK_MIN_BYTES: u64 = 1024;

/// Replaces a time that the clock can't represent, which an unlimited patience leads to.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) options: Options,
    /// The origin of the time of all downloads.
    pub(crate) clock: Instant,
    downloads: AtomicU64,
    /// In milliseconds: see [`Arrivals::arrived_until`].
    arrived_until: AtomicU64,
}

impl Connection {
    pub(crate) fn new(bus: Arc<dyn Bus>, options: Options) -> Self {
        Self { bus, options, clock: Instant::now(), downloads: AtomicU64::new(0), arrived_until: AtomicU64::new(0) }
    }

    /// Returns the error for a request that nobody answered.
    pub(crate) async fn nobody(&self, store: &StoreName) -> Error {
        if discovery::any_relay(&*self.bus, &self.options.prefix).await {
            Error::NoStore(store.clone())
        } else {
            Error::NoRelay
        }
    }

    /// Returns the instant at which the clock of all downloads shows `at`.
    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.clock.checked_add(at).unwrap_or_else(|| Instant::now() + NEVER)
    }

    /// Returns the largest window that each download may have now, in bytes.
    pub(crate) fn share(&self) -> u64 {
        let downloads = self.downloads.load(Ordering::Relaxed).max(1);
        (self.options.connection_window_bytes / downloads).max(SHARE_MIN_BYTES)
    }

    /// Returns what has arrived on the connection.
    pub(crate) fn arrivals(&self) -> Arrivals {
        let arrived_until = Duration::from_millis(self.arrived_until.load(Ordering::Relaxed));
        Arrivals { received_bytes: self.bus.received_bytes(), arrived_until }
    }

    /// Records that everything sent to this connection before `until` has arrived.
    pub(crate) fn record_arrived(&self, until: Duration) {
        let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        self.arrived_until.fetch_max(until, Ordering::Relaxed);
    }

    /// Returns the settings for the state machine of a new download.
    pub(crate) fn settings(&self) -> Settings {
        let payload_max = u64::try_from(self.bus.max_payload().saturating_sub(HEADERS_MAX_BYTES)).unwrap_or(u64::MAX);

        // A window of one second's bytes at most, so that the limit also holds on the network.
        let rate = self.options.rate_limit.as_ref().map_or(u64::MAX, |limit| limit.bytes_per_s().get());
        let window = rate.max(LIMITED_WINDOW_MIN_BYTES);
        let chunk = (rate / 4).max(LIMITED_CHUNK_MIN_BYTES);

        Settings {
            prefix: self.options.prefix.clone(),
            window_initial: self.options.window_initial_bytes.min(self.share()).min(window),
            window_max: self.options.window_max_bytes.min(window),
            chunk_max: self.options.chunk_max_bytes.min(payload_max).min(chunk).max(1),
            stall_timeout: self.options.stall_timeout,
            no_relay_patience: self.options.no_relay_patience,
            patience: self.options.patience,
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(2),
            jitter_seed: uuid::Uuid::new_v4().as_u64_pair().0,
        }
    }
}

/// Counts a download among those that share the connection's window.
#[derive(Debug)]
pub(crate) struct Share(Arc<Connection>);

impl Share {
    pub(crate) fn take(connection: &Arc<Connection>) -> Self {
        connection.downloads.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connection))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.downloads.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns the error if nats-server denies one of a request's two subjects.
pub(crate) fn denial(event: Result<Event, RecvError>, request: &str, inbox: &str) -> Option<Error> {
    match event {
        Ok(Event::PublishDenied(subject)) if subject == request => {
            Some(Error::NotPermitted { what: "publishing to", subject })
        }
        Ok(Event::SubscribeDenied(subject)) if subject == inbox => {
            Some(Error::NotPermitted { what: "subscribing to", subject })
        }
        Ok(
            Event::PublishDenied(_)
            | Event::SubscribeDenied(_)
            | Event::SlowConsumer
            | Event::LameDuck
            | Event::Closed(_),
        )
        | Err(RecvError::Lagged(_) | RecvError::Closed) => None,
    }
}
