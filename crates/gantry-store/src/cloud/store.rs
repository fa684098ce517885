//! The [`Store`] over a cloud.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;

use super::Cloud;
use super::bucket::Bucket;
use super::failure::{Cure, Failure};
use super::requests;
use crate::crowd::Member;
use crate::position::Position;
use crate::ranged::{About, Ranged as _, Reader, Response, Retry, about_key, retry, retry_within};
use crate::{Budget, Error, Opened, Store};
use gantry_proto::{Key, ListPage, ListRequest, ObjectInfo, Pin, Span};

/// Maximum time for a probe with its retries. The relay waits for a second longer, so that it learns the cause of a
/// failure.
const PROBE_BUDGET: Duration = Duration::from_secs(4);

/// A bucket or container, or the objects below a prefix in it.
pub(crate) struct CloudStore<C> {
    bucket: Arc<Bucket<C>>,
    budget: Budget,
    fingerprint: String,
}

impl<C: Cloud> fmt::Debug for CloudStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudStore")
            .field("place", &self.bucket.cloud.place())
            .field("prefix", &self.bucket.prefix)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

/// An object, the requested range, and the response that begins with it. There is no response for an empty range.
type Opening = (ObjectInfo, Range<u64>, Option<Response<Incoming>>);

impl<C: Cloud> CloudStore<C> {
    pub(crate) fn new(bucket: Bucket<C>, budget: Budget, fingerprint: String) -> Self {
        Self { bucket: Arc::new(bucket), budget, fingerprint }
    }

    /// Makes one request, so the first byte arrives after one round trip.
    async fn open_whole(&self, key: &Key, pin: &Pin) -> Result<Opening, Error> {
        let bucket = &self.bucket;
        let found = retry(&**bucket, &about_key(key), |_| bucket.get_whole(key, pin)).await;

        let found = found.map_err(|failure| failure.error)?;
        let response = Response { body: found.body, end: found.range.end };
        Ok((found.object, found.range, Some(response)))
    }

    /// Checks that the object exists, although no bytes are read.
    async fn open_empty(&self, key: &Key, pin: &Pin, span: Span) -> Result<Opening, Error> {
        let object = self.describe(key, pin).await?;
        let range = resolve(span, &object)?;
        Ok((object, range, None))
    }

    /// Opens a range. Its first response ends at `response_end`, exclusive.
    async fn open_range(&self, key: &Key, pin: &Pin, span: Span, response_end: Option<u64>) -> Result<Opening, Error> {
        let bucket = &self.bucket;
        let asked = (span.start, response_end);

        match retry(&**bucket, &about_key(key), |_| bucket.get_range(key, pin, asked)).await {
            Ok(found) => {
                let response = Response { body: found.body, end: found.range.end };
                let range = resolve(span, &found.object)?;
                Ok((found.object, range, Some(response)))
            }
            Err(Failure { retry: Retry::AfterCure(Cure::Size), error }) => {
                let object = self.describe(key, pin).await?;
                let range = resolve(span, &object)?;
                if range.is_empty() { Ok((object, range, None)) } else { Err(requests::contradicted(&error)) }
            }
            Err(Failure { error, .. }) => Err(error),
        }
    }

    async fn describe(&self, key: &Key, pin: &Pin) -> Result<ObjectInfo, Error> {
        let bucket = &self.bucket;
        let described = retry(&**bucket, &about_key(key), |_| bucket.describe(key, pin)).await;
        described.map_err(|failure| failure.error)
    }

    fn opened(&self, (object, range, response): Opening, member: Member) -> Opened {
        let budget = self.budget.clone();
        let body = Reader::new(Arc::clone(&self.bucket), &object, range, response, budget, member).into_body();
        Opened { object, body }
    }
}

impl<C: Cloud> Store for CloudStore<C> {
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, Error>> {
        async move {
            // Counted from here on, so that many simultaneous readers take one another into account.
            let member = self.budget.crowd().enter();
            let range_bytes = self.bucket.limits().range_bytes;
            let response_end = self.budget.crowd().response_end(range_bytes, span.start, span.end);

            let opening = match (span, response_end) {
                (Span { start: 0, .. }, None) => self.open_whole(key, pin).await?,
                (Span { start, end: Some(end) }, _) if end <= start => self.open_empty(key, pin, span).await?,
                (span, response_end) => self.open_range(key, pin, span, response_end).await?,
            };
            Ok(self.opened(opening, member))
        }
        .boxed()
    }

    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>> {
        self.describe(key, pin).boxed()
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>> {
        async move {
            let what = About::Consumer("the listing".to_owned());
            let listed = retry(&*self.bucket, &what, |_| self.bucket.list(request)).await;
            listed.map_err(|failure| failure.error)
        }
        .boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            match self.probe_listing().await {
                // Permission to list is not required for reading.
                Err(Error::Denied(_)) => Ok(()),
                probed => probed,
            }
        }
        .boxed()
    }

    fn probe_listing(&self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let what = self.bucket.what_place();
            let probed = retry_within(&*self.bucket, &what, PROBE_BUDGET, |_| self.bucket.probe()).await;
            probed.map_err(|failure| failure.error)
        }
        .boxed()
    }

    fn token_after(&self, name: &str) -> Option<String> {
        let position = Position::After(name.to_owned());
        if C::STARTS_AFTER_NAMES { position.into_token() } else { None }
    }

    fn fingerprint(&self) -> Option<String> {
        Some(self.fingerprint.clone())
    }
}

fn resolve(span: Span, object: &ObjectInfo) -> Result<Range<u64>, Error> {
    span.resolve(object.size).ok_or(Error::Range { start: span.start, size: object.size })
}
