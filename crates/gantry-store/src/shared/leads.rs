//! Requests that open an object in the store, for all that want the same and arrive before they are sent.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use super::source::Source;
use crate::{Body, Error, Opened, Store};
use gantry_proto::{Key, ObjectInfo, Pin, Span};

/// An object that is being opened.
pub(super) type Opening = BoxFuture<'static, Result<Arc<Lead>, Error>>;

/// An object as the store has opened it.
pub(super) struct Lead {
    pub(super) object: Arc<ObjectInfo>,
    /// Whether the request was for everything up to the object's end.
    pub(super) is_complete: bool,
    /// The bytes of the body.
    pub(super) range: Range<u64>,
    /// The body, until the first of the requests takes it.
    body: Mutex<Option<Body>>,
}

/// When a request arrived, or when one was sent to the store: all of them in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

/// The objects that are being opened.
#[derive(Debug, Default)]
pub(super) struct Leads {
    count: AtomicU64,
    in_flight: Mutex<HashMap<Key, Vec<InFlight>>>,
}

struct InFlight {
    sent: Moment,
    pin: Pin,
    span: Span,
    opening: WeakShared<Opening>,
}

impl Lead {
    /// Returns the source of the body's bytes. Only one of the requests gets it, which adds it for the others.
    pub(super) fn take_source(&self) -> Option<Source> {
        let body = self.body.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Source::new(body, self.range.start, self.range.end))
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").field("sent", &self.sent).field("span", &self.span).finish_non_exhaustive()
    }
}

impl Leads {
    /// Returns the moment at which a request arrives.
    pub(super) fn arrive(&self) -> Moment {
        Moment(self.count.fetch_add(1, Ordering::SeqCst))
    }

    /// Returns the requests in flight whose bytes a request for `span` also needs. They continue while this is held.
    pub(super) fn helpful(&self, key: &Key, span: Span) -> Vec<Shared<Opening>> {
        let all = self.lock();
        let helpful = all.get(key).into_iter().flatten().filter(|lead| lead.helps(span));
        helpful.filter_map(|lead| lead.opening.upgrade()).collect()
    }

    /// Opens an object, with a request that is sent after the moment `arrival`.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    ///
    /// # Cancel safety
    /// Other callers get their answer if the future is dropped before it is ready.
    pub(super) async fn lead(
        &self,
        store: &Arc<dyn Store>,
        key: &Key,
        pin: &Pin,
        span: Span,
        arrival: Moment,
    ) -> Result<Arc<Lead>, Error> {
        let opening = {
            let mut all = self.lock();
            let same = all.get(key).into_iter().flatten();
            let same = same.filter(|lead| lead.sent > arrival && lead.pin == *pin && lead.span == span);
            let same = same.filter_map(|lead| lead.opening.upgrade()).next();
            same.unwrap_or_else(|| {
                let opening = open(Arc::clone(store), key.clone(), pin.clone(), span).boxed().shared();
                let sent = self.arrive();
                let weak = opening.downgrade();
                let lead = weak.map(|opening| InFlight { sent, pin: pin.clone(), span, opening });
                all.entry(key.clone()).or_default().extend(lead);
                opening
            })
        };
        opening.await
    }

    /// Returns a guard for a request, which forgets what nobody waits for any more when it is dropped.
    pub(super) const fn forgets<'a>(&'a self, key: &'a Key) -> Forgets<'a> {
        Forgets { leads: self, key }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<InFlight>>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlight {
    fn helps(&self, span: Span) -> bool {
        self.span.start == span.start && (self.span.end.is_none() || self.span.end == span.end)
    }
}

async fn open(store: Arc<dyn Store>, key: Key, pin: Pin, span: Span) -> Result<Arc<Lead>, Error> {
    let Opened { object, body } = store.open(&key, &pin, span).await?;
    let range = span.resolve(object.size).ok_or(Error::Range { start: span.start, size: object.size })?;

    let is_complete = span.end.is_none();
    Ok(Arc::new(Lead { object: Arc::new(object), is_complete, range, body: Mutex::new(Some(body)) }))
}

/// Forgets requests when their last callers have left.
pub(super) struct Forgets<'a> {
    leads: &'a Leads,
    key: &'a Key,
}

impl Drop for Forgets<'_> {
    fn drop(&mut self) {
        let mut all = self.leads.lock();
        let Some(of_key) = all.get_mut(self.key) else { return };
        of_key.retain(|lead| lead.opening.upgrade().is_some());
        if of_key.is_empty() {
            all.remove(self.key);
        }
    }
}
