//! Shared reads: a store that is asked once for what several consumers request at about the same time.
//!
//! [`SharedStore`] is a [`Store`] around a [`Store`]. It keeps the bytes that are read, in blocks, for requests that run
//! at the same time or follow soon, in memory that nobody else needs. A request that finds nothing of its object passes
//! to the store unchanged.
//!
//! - **Nobody owns a read.** Whoever needs the next byte polls the store's body, so it is read at the speed of the
//!   fastest reader, and only while somebody wants it. A reader that leaves takes nothing from the others.
//! - **Nobody waits for a slower reader.** A reader whose bytes were evicted reads them from the store again, up to the
//!   next ones that are kept.
//! - **Nothing is older than the request.** A request joins others only if the store describes the same version after
//!   the request has arrived. Requests that arrive together share this description.
//! - **Versions do not mix.** Kept bytes belong to an `ETag`, a version id, a size and a date.
//! - **A store that keeps what is read sees every object from time to time**, even one that is always in memory. Otherwise
//!   it would not notice that it lacks something, and discard what nobody seems to use.
//! - **Errors are not kept.** Only requests that were waiting for the same bytes share one.

mod kept;
mod leads;
mod limits;
mod observe;
mod reader;
mod room;
mod source;

use std::ops::Range;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

use self::leads::{Lead, Leads, Opening};
use self::observe::Report as Event;
use self::reader::Reader;
use self::room::Room;
use self::source::Source;
use crate::descriptions::{Descriptions, is_same};
use crate::{Budget, Error, Opened, Store};
use gantry_proto::{Key, ListPage, ListRequest, ObjectInfo, Pin, Span};

pub use self::limits::Limits;
pub use self::observe::{Observe, Observer, Report, Unobserved};

/// A store whose reads are shared by the requests that run at the same time or follow soon.
#[derive(Debug)]
pub struct SharedStore {
    room: Arc<Room>,
    leads: Leads,
    descriptions: Descriptions,
}

impl SharedStore {
    /// Shares the reads of `store`. The memory for kept bytes is a part of `budget`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, budget: Budget, limits: Limits, observer: Observer) -> Self {
        let room = Room::new(store, budget, limits, observer);
        Self { room, leads: Leads::default(), descriptions: Descriptions::default() }
    }

    async fn open_shared(&self, key: &Key, pin: &Pin, span: Span) -> Result<Opened, Error> {
        if span.end.is_some_and(|end| end <= span.start) {
            return self.room.store.open(key, pin, span).await;
        }

        let arrival = self.leads.arrive();
        let _forgets = self.leads.forgets(key);
        let leads = self.leads.helpful(key, span);
        if !leads.is_empty() || self.room.lock().kept.may_serve(key, span) {
            let _expected = self.room.expect(key);
            match self.descriptions.describe(&self.room.store, key, pin).await {
                Ok(object) => {
                    if let Some(opened) = self.follow(leads, &object, span).await {
                        return opened;
                    }
                    if !self.claims_read(&object)
                        && let Some(opened) = self.find(&object, span)
                    {
                        return Ok(opened);
                    }
                }
                Err(error) if error.is_retryable() => return Err(error),
                // A store may describe objects by other rules than it reads them, so it decides.
                Err(_) => {}
            }
        }

        let lead = self.leads.lead(&self.room.store, key, pin, span, arrival).await?;
        self.enter(&lead, span)
    }

    /// Opens the version that `object` describes, if one of these requests finds it. Their errors are reported to their own
    /// callers only.
    async fn follow(
        &self,
        leads: Vec<Shared<Opening>>,
        object: &ObjectInfo,
        span: Span,
    ) -> Option<Result<Opened, Error>> {
        for opening in leads {
            if let Ok(lead) = opening.await
                && is_same(&lead.object, object)
            {
                return Some(self.enter(&lead, span));
            }
        }
        None
    }

    /// Returns whether this request reads the store, even if the version is in memory.
    fn claims_read(&self, object: &ObjectInfo) -> bool {
        self.room.store.keeps(object) && self.room.lock().kept.claim_read(object, Instant::now())
    }

    /// Opens a version of which something is kept or being read.
    fn find(&self, object: &ObjectInfo, span: Span) -> Option<Opened> {
        let range = span.resolve(object.size)?;
        let mut state = self.room.lock();
        let stale_s = object.stale_s;
        let (version, object) = state.kept.find(object, span)?;

        state.kept.share(version);
        let is_kept = state.kept.has(version, range.start);
        let id = state.kept.join(version, range.clone());
        drop(state);

        self.room.observer.record(if is_kept { Event::Hit } else { Event::Join });
        let mut opened = self.opened(object, version, id, range, None);
        // Kept bytes may be older than the description.
        opened.object.stale_s = stale_s;
        Some(opened)
    }

    /// Opens the version that a request to the store has found.
    fn enter(&self, lead: &Lead, span: Span) -> Result<Opened, Error> {
        let object = &lead.object;
        let range = span.resolve(object.size).ok_or(Error::Range { start: span.start, size: object.size })?;
        let source = lead.take_source();

        let mut state = self.room.lock();
        let version = state.kept.enter(object, lead.is_complete, Instant::now());
        let id = state.kept.join(version, range.clone());
        let event = if let Some(source) = &source {
            state.kept.add_source(version, lead.range.clone(), source.clone());
            Event::Miss
        } else {
            state.kept.share(version);
            Event::Join
        };
        drop(state);

        self.room.observer.record(event);
        Ok(self.opened(Arc::clone(object), version, id, range, source))
    }

    fn opened(
        &self,
        object: Arc<ObjectInfo>,
        version: kept::VersionId,
        id: kept::ReaderId,
        range: Range<u64>,
        source: Option<Source>,
    ) -> Opened {
        let reader = Reader::new(Arc::clone(&self.room), Arc::clone(&object), version, id, range, source);
        Opened { object: ObjectInfo::clone(&object), body: Box::pin(reader) }
    }
}

impl Store for SharedStore {
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, Error>> {
        self.open_shared(key, pin, span).boxed()
    }

    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>> {
        async move {
            let object = self.descriptions.describe(&self.room.store, key, pin).await?;
            Ok(Arc::unwrap_or_clone(object))
        }
        .boxed()
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>> {
        self.room.store.list(request)
    }

    fn token_after(&self, name: &str) -> Option<String> {
        self.room.store.token_after(name)
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.room.store.probe()
    }

    fn probe_listing(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.room.store.probe_listing()
    }

    fn keeps(&self, object: &ObjectInfo) -> bool {
        self.room.store.keeps(object)
    }

    fn fingerprint(&self) -> Option<String> {
        self.room.store.fingerprint()
    }
}

#[cfg(test)]
mod tests;
