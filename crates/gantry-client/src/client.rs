//! The consumer's entry: one connection, any number of requests and downloads.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{Instrument as _, info_span};

use super::download::{self, Download};
use super::file::{self, FileOptions, Report};
use super::{Error, discovery};
use gantry_bus::rate::RateLimit;
use gantry_bus::trace;
use gantry_bus::{Bus, Event, Message, NO_RESPONDERS};
use gantry_proto::message::{self, error_of, json};
use gantry_proto::receiver::{Cause, Link, Settings};
use gantry_proto::subject::{Operation, Prefix};
use gantry_proto::{
    HEADERS_MAX_BYTES, Headers, Key, ListPage, ListRequest, ObjectInfo, Pin, Span, StatRequest, StoreName, check,
};

/// The smallest window, however many downloads share the connection.
const SHARE_MIN_BYTES: u64 = 32 * 1024;

/// The smallest window and chunk of a client that is held to a rate: below, messages cost more than what they carry.
const LIMITED_WINDOW_MIN_BYTES: u64 = 4 * 1024;
const LIMITED_CHUNK_MIN_BYTES: u64 = 1024;

/// After how long a `stat` or `list` is asked again, in case a relay that hangs got it; the time doubles. The first answer
/// counts, whichever request it is to.
const QUERY_AGAIN: Duration = Duration::from_secs(1);

/// Stands for a time that a clock can't show: the caller may have chosen a patience without an end.
const NEVER: Duration = Duration::from_secs(365 * 86_400);
/// How soon a `stat` or `list` that met nobody is asked again.
const NOBODY_AGAIN: Duration = Duration::from_millis(150);

/// What a client holds itself to.
#[derive(Clone, Debug)]
pub struct Options {
    /// The first tokens of every subject.
    pub prefix: Prefix,
    /// The first window of a download, in bytes.
    pub window_initial_bytes: u64,
    /// The largest window of a download, in bytes.
    pub window_max_bytes: u64,
    /// What the windows of all downloads on the connection add up to, in bytes. nats-server closes a connection that
    /// has more than 64 MiB pending; a download that begins while another holds all of this adds its share on top.
    pub connection_window_bytes: u64,
    /// The largest chunk payload to ask for, in bytes; the server's `max_payload` may lower it.
    pub chunk_max_bytes: u64,
    /// Silence after which a relay counts as lost.
    pub stall_timeout: Duration,
    /// How long to keep asking while nobody listens and no relay ever answered.
    pub no_relay_patience: Duration,
    /// How long to keep asking while nothing new arrives.
    pub patience: Duration,
    /// How long to wait for the answer to `stat` and `list`; longer than a relay's own retry budget.
    pub query_timeout: Duration,
    /// What all downloads of the client together are held to.
    pub rate_limit: Option<RateLimit>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prefix: Prefix::default(),
            window_initial_bytes: 2 * 1024 * 1024,
            window_max_bytes: 24 * 1024 * 1024,
            connection_window_bytes: 24 * 1024 * 1024,
            chunk_max_bytes: 8 * 1024 * 1024,
            stall_timeout: Duration::from_secs(3),
            // A missing store is to be reported within 2 s.
            no_relay_patience: Duration::from_millis(1500),
            patience: Duration::from_secs(120),
            query_timeout: Duration::from_secs(16),
            rate_limit: None,
        }
    }
}

/// What to download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Get {
    /// The store.
    pub store: StoreName,
    /// The object's key.
    pub key: Key,
    /// The byte range, absolute.
    pub span: Span,
    /// Which version.
    pub pin: Pin,
    /// Opaque text that comes back on every message, for correlation.
    pub context: Option<String>,
}

impl Get {
    /// Asks for a whole object, as it is now.
    #[must_use]
    pub const fn new(store: StoreName, key: Key) -> Self {
        Self {
            store,
            key,
            span: Span { start: 0, end: None },
            pin: Pin { if_match: None, version_id: None },
            context: None,
        }
    }
}

/// A consumer on one connection. Clones share the connection and its window budget.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) bus: Arc<dyn Bus>,
    pub(super) options: Options,
    /// Where the time of all downloads begins.
    pub(super) clock: Instant,
    downloads: AtomicU64,
    /// In milliseconds: see [`Link::caught_up_to`].
    caught_up_to: AtomicU64,
}

impl Client {
    /// Makes a client on a connection.
    #[must_use]
    pub fn new(bus: Arc<dyn Bus>, options: Options) -> Self {
        let (downloads, caught_up_to) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { shared: Arc::new(Shared { bus, options, clock: Instant::now(), downloads, caught_up_to }) }
    }

    /// Starts a download and returns when a relay has accepted it.
    ///
    /// # Errors
    /// As [`Error`] says; retrying is already done.
    pub async fn get(&self, get: Get) -> Result<Download, Error> {
        download::start(&self.shared, get).await
    }

    /// Downloads to a file: beside the target until proved, then in its place.
    ///
    /// # Errors
    /// As [`Error`] says. The target is then as it was; what arrived stays beside it, to be resumed.
    pub async fn download(&self, get: Get, target: &Path, options: FileOptions) -> Result<Report, Error> {
        file::download(self, get, target, options).await
    }

    /// Describes an object.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn stat(&self, store: &StoreName, key: &Key, pin: &Pin) -> Result<ObjectInfo, Error> {
        let request = StatRequest { v: None, key: key.clone(), pin: pin.clone() };
        let span = info_span!("query", otel.kind = "client", operation = "stat", %store);
        let body = self.query(Operation::Stat, store, json(&request)).instrument(span).await?;
        let object: ObjectInfo = parse(&body)?;
        if object.key != *key {
            return Err(Error::Malformed("it describes another key than was asked for".to_owned()));
        }
        check::object(&object).map_err(|malformed| Error::Malformed(malformed.to_string()))?;
        Ok(object)
    }

    /// Lists one page of keys; its `next` is the `token` of the following request.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn list_page(&self, store: &StoreName, request: &ListRequest) -> Result<ListPage, Error> {
        let span = info_span!("query", otel.kind = "client", operation = "list", %store);
        let body = self.query(Operation::List, store, json(request)).instrument(span).await?;
        let page: ListPage = parse(&body)?;
        check::page(&page, request).map_err(|malformed| Error::Malformed(malformed.to_string()))?;
        Ok(page)
    }

    /// Asks, and takes the first answer.
    async fn query(
        &self,
        operation: Operation,
        store: &StoreName,
        payload: bytes::Bytes,
    ) -> Result<bytes::Bytes, Error> {
        let bus = &*self.shared.bus;
        let subject = self.shared.options.prefix.request(operation, store);
        let mut headers = Headers::default();
        trace::inject(&mut headers);
        let request = Message { subject: subject.clone(), headers, payload, ..Message::default() };
        let mut requests = 0;
        let answer = async {
            let mut events = bus.events();
            let inbox = bus.new_inbox();
            let mut answers = bus.subscribe(&inbox, None).await?;
            let request = Message { reply: Some(inbox.clone()), ..request };
            let mut pause = QUERY_AGAIN;
            let nobody_until = Instant::now() + self.shared.options.no_relay_patience;
            loop {
                bus.publish(request.clone()).await?;
                requests += 1;
                let mut again = Instant::now() + pause;
                let mut pause_after = pause * 2;
                loop {
                    tokio::select! {
                        answer = answers.next() => {
                            let answer = answer.ok_or(Error::Bus(gantry_bus::Error::Closed))?;
                            if answer.status != Some(NO_RESPONDERS) || Instant::now() >= nobody_until {
                                return Ok(answer);
                            }
                            // A relay may be making its connection anew.
                            (again, pause_after) = (Instant::now() + NOBODY_AGAIN, pause);
                        },
                        event = events.recv() => if let Some(error) = denial(event, &subject, &inbox) {
                            return Err(error);
                        },
                        () = sleep_until(again) => break,
                    }
                }
                pause = pause_after;
            }
        };
        let answer = timeout(self.shared.options.query_timeout, answer).await;
        let answer = answer.unwrap_or(Err(Error::GaveUp { cause: Cause::Stall, requests }))?;
        if answer.status == Some(NO_RESPONDERS) {
            return Err(self.shared.nobody(store).await);
        }
        match error_of(&answer.headers, &answer.payload) {
            Some(error) if error.retryable => Err(Error::GaveUp { cause: Cause::Refused(error), requests }),
            Some(error) => Err(Error::refused(error)),
            None => Ok(answer.payload),
        }
    }
}

impl Shared {
    /// Words the error for a store that nobody serves.
    pub(super) async fn nobody(&self, store: &StoreName) -> Error {
        if discovery::any_relay(&*self.bus, &self.options.prefix).await {
            Error::NoStore(store.clone())
        } else {
            Error::NoRelay
        }
    }

    /// Returns when the clock of all downloads shows `at`, or a time that does not come.
    pub(super) fn instant(&self, at: Duration) -> Instant {
        self.clock.checked_add(at).unwrap_or_else(|| Instant::now() + NEVER)
    }

    /// Returns the window that each download may have now, in bytes.
    pub(super) fn share(&self) -> u64 {
        let downloads = self.downloads.load(Ordering::Relaxed).max(1);
        (self.options.connection_window_bytes / downloads).max(SHARE_MIN_BYTES)
    }

    /// Returns what the connection has carried by now.
    pub(super) fn link(&self) -> Link {
        let caught_up_to = Duration::from_millis(self.caught_up_to.load(Ordering::Relaxed));
        Link { received_bytes: self.bus.received_bytes(), caught_up_to }
    }

    /// Takes note that what was sent to this connection by then has arrived.
    pub(super) fn caught_up(&self, to: Duration) {
        let to = u64::try_from(to.as_millis()).unwrap_or(u64::MAX);
        self.caught_up_to.fetch_max(to, Ordering::Relaxed);
    }

    pub(super) fn settings(&self) -> Settings {
        let payload_max = u64::try_from(self.bus.max_payload().saturating_sub(HEADERS_MAX_BYTES)).unwrap_or(u64::MAX);
        // What may arrive is no more than what may be handed on in a second, or a limit would be kept here and not on the
        // way here.
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

/// Counts a download as one that shares the connection's windows.
#[derive(Debug)]
pub(super) struct Share(Arc<Shared>);

impl Share {
    pub(super) fn take(shared: &Arc<Shared>) -> Self {
        shared.downloads.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.downloads.fetch_sub(1, Ordering::Relaxed);
    }
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    message::from_json(body).map_err(|malformed| Error::Malformed(malformed.to_string()))
}

/// Returns the error if nats-server forbade one of our two subjects.
pub(super) fn denial(event: Result<Event, RecvError>, request: &str, inbox: &str) -> Option<Error> {
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
