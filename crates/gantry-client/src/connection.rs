//! The connection that all requests and downloads of one client share, and the sum of their windows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;

use gantry_bus::clock::Clock;
use gantry_bus::{self as bus, Bus, Event};
use gantry_proto::receiver::Settings;
use gantry_proto::{HEADERS_MAX_BYTES, StoreName};

use crate::discovery::{self, Found};
use crate::error::Error;
use crate::options::Options;

/// The smallest window, however many downloads share the connection.
const SHARE_MIN_BYTES: u64 = 32 * 1024;

/// The smallest window of a client with a rate limit.
const LIMITED_WINDOW_MIN_BYTES: u64 = 4 * 1024;

/// The smallest chunk of a client with a rate limit. The headers of smaller chunks would cost more than their payload.
const LIMITED_CHUNK_MIN_BYTES: u64 = 1024;

/// The first window of a download, in bytes, if the relay may be behind a slow link that others share. In the queue of
/// such a link, the first windows of all downloads wait for each other.
const WINDOW_FAR_BYTES: u64 = 4 * 1024;

/// How long a measured window counts for further downloads. Meanwhile others may have begun to use the same link.
const MEASURED_FOR: Duration = Duration::from_secs(10);

/// The time limit for a closed connection to report why it is closed.
const CLOSED_LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) options: Options,
    /// The time of all downloads and requests.
    pub(crate) clock: Clock,
    downloads: AtomicU64,
    measured: Mutex<Option<Measured>>,
}

/// What a download has measured when it ended.
#[derive(Clone, Copy, Debug)]
struct Measured {
    /// The sum of the windows of all downloads, in bytes, if each had the same.
    windows: u64,
    at: Duration,
}

impl Connection {
    pub(crate) fn new(bus: Arc<dyn Bus>, options: Options) -> Self {
        Self { bus, options, clock: Clock::start(), downloads: AtomicU64::new(0), measured: Mutex::new(None) }
    }

    /// Returns the error for a request that nobody answered.
    pub(crate) async fn nobody(&self, store: &StoreName) -> Error {
        let found = discovery::relays(&*self.bus, &self.clock, &self.options.prefix, store).await;
        match found {
            Found::None => Error::NoRelay { prefix: self.options.prefix.to_string(), server: self.bus.server() },
            Found::StoreLeft => Error::StoreLeft(store.clone()),
            Found::Others(stores) => Error::NoStore { store: store.clone(), stores },
        }
    }

    /// Returns the error for a subscription that has ended: why the connection is closed.
    pub(crate) async fn closed(&self) -> Error {
        let flushed = self.clock.timeout(CLOSED_LIMIT, self.bus.flush()).await;
        flushed.and_then(Result::err).unwrap_or(bus::Error::Closed).into()
    }

    /// Returns the largest window that each download may have now, in bytes.
    pub(crate) fn share(&self) -> u64 {
        (self.options.connection_window_bytes / self.downloads()).max(SHARE_MIN_BYTES)
    }

    /// Records the window that a download had when it ended, in bytes.
    pub(crate) fn record_window(&self, window: u64) {
        let measured = Measured { windows: window.saturating_mul(self.downloads()), at: self.clock.now() };
        *self.measured.lock().unwrap_or_else(PoisonError::into_inner) = Some(measured);
    }

    /// Returns the first window of a new download, in bytes. What the link has carried a moment ago need not be measured
    /// again.
    fn first_window(&self) -> u64 {
        let initial = WINDOW_FAR_BYTES.min(self.options.window_initial_bytes);
        let measured = *self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |measured: &Measured| self.clock.now().saturating_sub(measured.at) <= MEASURED_FOR;
        measured.filter(is_recent).map_or(initial, |measured| (measured.windows / self.downloads()).max(initial))
    }

    fn downloads(&self) -> u64 {
        self.downloads.load(Ordering::Relaxed).max(1)
    }

    /// Returns the settings for the state machine of a new download.
    pub(crate) fn settings(&self) -> Settings {
        let payload_max = u64::try_from(self.bus.max_payload().saturating_sub(HEADERS_MAX_BYTES)).unwrap_or(u64::MAX);

        // A window of one second's bytes at most, so that the limit also holds on the network.
        let rate = self.options.rate_limit.as_ref().map_or(u64::MAX, |limit| limit.bytes_per_s().get());
        let window = rate.max(LIMITED_WINDOW_MIN_BYTES);
        let chunk = (rate / 4).max(LIMITED_CHUNK_MIN_BYTES);

        let window_near = self.options.window_initial_bytes.min(self.share()).min(window);

        Settings {
            prefix: self.options.prefix.clone(),
            window_initial: self.first_window().min(self.share()).min(window),
            near: self.bus.location().map(|location| (location, window_near)),
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
