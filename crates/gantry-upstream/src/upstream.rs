//! The store.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};

use gantry_client::bus::Bus;
use gantry_client::{self as client, Client};
use gantry_proto::{Get, Key, ListPage, ListRequest, ObjectInfo, Pin, Span, StoreName};
use gantry_store::{Error, Opened, Store, via};

use crate::absent::Absent;
use crate::body::Range;
use crate::counts::{Counting, Counts};
use crate::descriptions::{Descriptions, Subject};
use crate::error;
use crate::flow::Flow;
use crate::link::Link;
use crate::options::Options;
use crate::shared::Shared;
use crate::trails::{Spot, Trails, Version};

/// The relays that one connection reaches, as the source of [`Upstream`] stores. Clones share the connection, the kept
/// descriptions and the limits.
#[derive(Clone)]
pub struct Relays {
    shared: Arc<Shared>,
}

impl Relays {
    /// Uses the relays that `bus` reaches. `client` limits each store's downloads and questions.
    #[must_use]
    pub fn new(bus: Arc<dyn Bus>, client: client::Options, options: Options) -> Self {
        let counting = Arc::new(Counting::default());
        let places = u64::try_from(options.ahead_max).unwrap_or(u64::MAX);
        let ahead = client
            .clone()
            .window_initial_bytes(client.window_initial_bytes.min(options.ahead_bytes))
            .window_max_bytes(options.ahead_bytes)
            .connection_window_bytes(options.ahead_bytes.saturating_mul(places));

        Self {
            shared: Arc::new(Shared {
                link: Link::new(Arc::clone(&bus), options.connection_patience),
                absent: Absent::new(options.description_age),
                ahead: Client::new(Arc::clone(&bus), ahead),
                client: Client::new(bus, client),
                descriptions: Arc::new(Descriptions::new(
                    options.description_age,
                    options.descriptions_bytes,
                    Arc::clone(&counting),
                )),
                trails: Arc::new(Trails::new(options.ahead_max, options.ahead_idle, Arc::clone(&counting))),
                options,
                counting,
            }),
        }
    }

    /// Returns the store with this name. Whether a relay serves it shows when it is used.
    #[must_use]
    pub fn store(&self, name: StoreName) -> Upstream {
        Upstream { name, shared: Arc::clone(&self.shared) }
    }

    /// Returns the counts of all stores together.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counting.counts()
    }
}

impl fmt::Debug for Relays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relays").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

/// A store of relays. It is read over NATS.
///
/// A description may be as old as [`Options::description_age`], and bytes that were read ahead may be older than the
/// request by [`Options::ahead_idle`]. Both belong to the version that they are returned with. A request for a pinned
/// version fails with [`Error::Changed`] if a relay finds another one; its description is then requested anew.
///
/// Without a connection to nats-server, all methods fail with [`Error::Unavailable`] after
/// [`Options::connection_patience`], and so does a body before its first byte. A body that has begun is resumed for as
/// long as the client's patience lasts.
#[derive(Clone)]
pub struct Upstream {
    name: StoreName,
    shared: Arc<Shared>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Store for Upstream {
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, Error>> {
        self.reach(self.open_reached(key, pin, span)).boxed()
    }

    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>> {
        self.reach(self.stat_reached(key, pin)).boxed()
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>> {
        let list = async move {
            let page = self.client().list_page(&self.name, request).await;
            page.map_err(|error| error::of_client(&error))
        };
        self.reach(list).boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let request = ListRequest { limit: Some(1), ..ListRequest::default() };
            self.list(&request).await.map(|_| ())
        }
        .boxed()
    }
}

impl Upstream {
    /// Waits for relays, unless there is no connection, or none of them served the store a short time ago.
    async fn reach<T>(&self, asked: impl Future<Output = Result<T, Error>> + Send) -> Result<T, Error> {
        if let Some(reason) = self.shared.absent.reason(&self.name) {
            return Err(Error::NoBucket(reason));
        }

        let answer = self.shared.link.guard(asked).await;
        if let Err(Error::NoBucket(reason)) = &answer {
            self.shared.absent.note(&self.name, reason);
        }
        answer
    }

    async fn open_reached(&self, key: &Key, pin: &Pin, span: Span) -> Result<Opened, Error> {
        let subject = self.subject(key, pin);
        if let Some(opened) = self.open_sequential(&subject, pin, span).await {
            return opened;
        }

        let get = self.get(key, pin, span);
        let flow = self.start(&self.client(), get, |download| Flow::new(download, None)).await;
        let flow = match flow {
            Ok(flow) => flow,
            Err(error) => return Err(self.failed(&subject, span, &error).await),
        };
        let end = flow.end();
        Ok(self.opened(subject, flow, end))
    }

    async fn stat_reached(&self, key: &Key, pin: &Pin) -> Result<ObjectInfo, Error> {
        if self.shared.options.description_age.is_zero() {
            Counting::add(&self.shared.counting.descriptions_asked, 1);
            let asked = self.client().stat(&self.name, key, pin).await;
            return asked.map_err(|error| error::of_client(&error));
        }

        let object = self.describe(&self.subject(key, pin)).await?;
        if pin.if_match.as_ref().is_none_or(|etag| *etag == object.etag) {
            return Ok(Arc::unwrap_or_clone(object));
        }

        // What is known may be outdated.
        let asked = self.client().stat(&self.name, key, pin).await;
        asked.map_err(|error| error::of_client(&error))
    }

    /// Returns the client for the current request.
    fn client(&self) -> Client {
        self.shared.client.via(via::current())
    }

    fn subject(&self, key: &Key, pin: &Pin) -> Subject {
        Subject { store: self.name.clone(), key: key.clone(), version_id: pin.version_id.clone() }
    }

    fn get(&self, key: &Key, pin: &Pin, span: Span) -> Get {
        let get = Get::new(self.name.clone(), key.clone()).range(span).pin(pin.clone());
        get.verify_etag(self.shared.options.verify_etag)
    }

    async fn describe(&self, subject: &Subject) -> Result<Arc<ObjectInfo>, Error> {
        let ask = || {
            let client = self.client();
            let Subject { store, key, version_id } = subject.clone();
            async move { client.stat(&store, &key, &Pin { if_match: None, version_id }).await }.boxed()
        };
        // A question that was asked before this one may have an outdated answer.
        if self.shared.options.description_age.is_zero() {
            Counting::add(&self.shared.counting.descriptions_asked, 1);
            return ask().await.map(Arc::new).map_err(|error| error::of_client(&error));
        }

        let answer = self.shared.descriptions.describe(subject, ask).await;
        answer.map_err(|error| error::of_client(&error))
    }

    /// Starts a transfer. Whoever reads from a store verifies the object.
    async fn start(
        &self,
        client: &Client,
        get: Get,
        flow: impl FnOnce(client::Download) -> Flow,
    ) -> Result<Flow, client::Error> {
        Counting::add(&self.shared.counting.transfers, 1);
        client.get(get).await.map(|download| flow(download.without_object_checksum()))
    }

    /// Opens a range that starts where another one ended: from the transfer that waits there, or with one that continues
    /// past the range. Returns `None` for all other ranges.
    async fn open_sequential(&self, subject: &Subject, pin: &Pin, span: Span) -> Option<Result<Opened, Error>> {
        let end = span.end?;
        let len = end.checked_sub(span.start)?;
        if span.start == 0 || len == 0 || len > self.shared.options.ahead_bytes {
            return None;
        }

        let is_assumed = pin.if_match.is_none();
        let etag = match &pin.if_match {
            Some(etag) => etag.clone(),
            None => self.current_etag(subject, span.start).await?,
        };
        let version = Arc::new(Version { subject: subject.clone(), etag });
        let spot = Spot { offset: span.start, version };

        if let Some(flow) = self.shared.trails.take(&spot) {
            Counting::add(&self.shared.counting.ranges_continued, 1);
            let end = end.min(flow.end());
            return Some(Ok(self.opened_at(spot.version, flow, end)));
        }

        let place = self.shared.trails.place_after(&spot)?;
        let pin = Pin { if_match: Some(spot.version.etag.clone()), version_id: pin.version_id.clone() };
        let get = self.get(&subject.key, &pin, Span { start: span.start, end: None });
        let flow =
            self.start(&self.shared.ahead.via(via::current()), get, |download| Flow::new(download, Some(place))).await;
        Some(match flow {
            Ok(flow) => {
                let end = end.min(flow.end());
                Ok(self.opened(subject.clone(), flow, end))
            }
            // The caller accepts any version, and only this store expected a certain one.
            Err(client::Error::Changed(_)) if is_assumed => {
                self.shared.descriptions.forget(subject);
                return None;
            }
            Err(error) => Err(self.failed(subject, span, &error).await),
        })
    }

    /// Returns the `ETag` of an object if it is known, or worth asking for because a range ended at this offset.
    async fn current_etag(&self, subject: &Subject, offset: u64) -> Option<String> {
        if let Some(known) = self.shared.descriptions.known(subject) {
            return Some(known.etag.clone());
        }
        if !self.shared.trails.expects(subject, offset) {
            return None;
        }
        self.describe(subject).await.ok().map(|object| object.etag.clone())
    }

    /// Returns a range whose transfer a relay has just accepted.
    fn opened(&self, subject: Subject, flow: Flow, end: u64) -> Opened {
        let etag = flow.object().etag.clone();
        self.shared.descriptions.confirm(subject.clone(), flow.object());
        self.opened_at(Arc::new(Version { subject, etag }), flow, end)
    }

    fn opened_at(&self, version: Arc<Version>, flow: Flow, end: u64) -> Opened {
        let mut object = flow.object().clone();
        object.stale_s = object.stale_s.map(|stale_s| stale_s.saturating_add(flow.age().as_secs()));
        Opened { object, body: Range::new(Arc::clone(&self.shared), version, flow, end).boxed() }
    }

    /// Returns why a transfer was not started.
    async fn failed(&self, subject: &Subject, span: Span, error: &client::Error) -> Error {
        if error::is_past_the_end(error) {
            // What is known may be of a longer version.
            self.shared.descriptions.forget(subject);
            return match self.describe(subject).await {
                Ok(object) if object.size < span.start => Error::Range { start: span.start, size: object.size },
                Ok(_) => Error::unavailable("the object was replaced while its range was requested"),
                Err(error) => error,
            };
        }

        let error = error::of_client(error);
        if matches!(error, Error::Changed(_) | Error::NotFound(_)) {
            self.shared.descriptions.forget(subject);
        }
        error
    }
}
