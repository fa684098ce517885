//! Objects from S3 and compatible servers. No other module uses the SDK.
//!
//! Every answer is compared with the request: `ETag`, version, range, length. A request without an answer is repeated
//! within [`Limits`]. After the first request for an object, all others are pinned to the version that it found.

mod body_limit;
mod bucket;
mod client;
mod coding;
mod connections;
mod every_request;
mod failure;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod headers;
mod listing;
mod mend;
mod object;
mod observe;
mod options;
mod parts;
mod reads;
mod versions;
mod witness;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join};

use self::bucket::Bucket;
use self::failure::{Cure, Failure};
pub use self::options::{Credentials, KeyFiles, Limits, Options, StaticCredentials};
use self::parts::Parts;
use self::reads::Answer;
use super::crowd::Member;
use super::position::Position;
use super::ranged::{About, Ranged as _, Reader, Response, Retry, retry_within};
use super::{Budget, Error, Opened, Store};
use gantry_proto::{Key, ListPage, ListRequest, ObjectInfo, Pin, Span};

/// How often an object may be replaced between the two requests that describe it, before opening it fails.
const REPLACED_MAX: u32 = 3;

/// Maximum time for a probe with its retries. The relay waits for a second longer, so that it learns the cause of a
/// failure.
const PROBE_BUDGET: Duration = Duration::from_secs(4);

/// A bucket, or the objects below a prefix in it.
pub struct S3Store {
    bucket: Arc<Bucket>,
    parts: Arc<Parts>,
    budget: Budget,
    fingerprint: String,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store")
            .field("bucket", &self.bucket.name())
            .field("prefix", &self.bucket.prefix())
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

impl S3Store {
    /// Finds the region and the credentials. No request is sent to S3.
    ///
    /// # Errors
    /// [`Error::Invalid`] if an option is invalid, or if a file with a key can't be read.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped before it is ready.
    pub async fn connect(options: Options, budget: Budget) -> Result<Self, Error> {
        let fingerprint = fingerprint(&options);
        let bucket = Arc::new(Bucket::connect(options).await?);
        Ok(Self { bucket, parts: Arc::default(), budget, fingerprint })
    }
}

/// An object, the requested range, and the response that begins with it. There is no response for an empty range.
type Opening = (ObjectInfo, Range<u64>, Option<Response<ByteStream>>);

impl Store for S3Store {
    fn open<'a>(&'a self, key: &'a Key, pin: &'a Pin, span: Span) -> BoxFuture<'a, Result<Opened, Error>> {
        async move {
            // Counted from here on, so that many simultaneous readers take one another into account.
            let member = self.budget.crowd().enter();
            let opening = match (span, self.response_end(span)) {
                (Span { start: 0, .. }, None) => self.open_whole(key, pin).await?,
                (Span { start, end: Some(end) }, _) if end <= start => self.open_empty(key, pin, span).await?,
                (span, response_end) => match self.open_range(key, pin, span, response_end).await {
                    // The whole object was requested as a range only because there are many readers.
                    Err(_) if is_whole(span) && !self.bucket.takes_ranges() => self.open_whole(key, pin).await?,
                    opened => opened?,
                },
            };
            Ok(self.opened(opening, member).await)
        }
        .boxed()
    }

    fn stat<'a>(&'a self, key: &'a Key, pin: &'a Pin) -> BoxFuture<'a, Result<ObjectInfo, Error>> {
        async move {
            let mut object = self.describe(key, pin).await?;
            self.parts.recall(&mut object);
            Ok(object)
        }
        .boxed()
    }

    fn list<'a>(&'a self, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage, Error>> {
        async move {
            let what = About::Consumer("the listing".to_owned());
            self.bucket
                .retry(&what, |client| async move { self.bucket.list(&client, request).await })
                .await
                .map_err(|failure| failure.error)
        }
        .boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let what = self.bucket.what_bucket();
            let probed = |client: Arc<Client>| async move { self.bucket.probe(&client).await };
            let probed = retry_within(&*self.bucket, &what, PROBE_BUDGET, probed).await;
            probed.map_err(|failure| failure.error)
        }
        .boxed()
    }

    fn probe_listing(&self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let what = self.bucket.what_bucket();
            let probed = |client: Arc<Client>| async move { self.bucket.probe_listing(&client).await };
            let probed = retry_within(&*self.bucket, &what, PROBE_BUDGET, probed).await;
            probed.map_err(|failure| failure.error)
        }
        .boxed()
    }

    fn token_after(&self, name: &str) -> Option<String> {
        let position = Position::After(name.to_owned());
        if self.bucket.lists_in_order() { position.into_token() } else { None }
    }

    fn fingerprint(&self) -> Option<String> {
        Some(self.fingerprint.clone())
    }
}

/// Returns the fingerprint of the endpoint, bucket and prefix. An endpoint that only a profile names is not included.
fn fingerprint(options: &Options) -> String {
    let endpoint =
        options.endpoint_url.clone().or_else(client::endpoint_of_environment).unwrap_or_default().to_ascii_lowercase();
    let endpoint = endpoint.trim_end_matches('/');

    let endpoint = match endpoint.split_once("://") {
        Some(("http", _)) => endpoint.trim_end_matches(":80"),
        Some(("https", _)) => endpoint.trim_end_matches(":443"),
        _ => endpoint,
    };

    super::fingerprint("s3", &[endpoint, &options.bucket, &options.prefix])
}

impl S3Store {
    /// Makes one request, so the first byte arrives after one round trip.
    async fn open_whole(&self, key: &Key, pin: &Pin) -> Result<Opening, Error> {
        let what = self.bucket.what(key);

        let answer = self
            .bucket
            .retry(&what, |client| async move { self.bucket.get_whole(&client, key, pin).await })
            .await
            .map_err(|failure| failure.error)?;

        let response = Response { body: answer.body, end: answer.range.end };
        Ok((answer.object, answer.range, Some(response)))
    }

    /// Checks that the object exists, although no bytes are read.
    async fn open_empty(&self, key: &Key, pin: &Pin, span: Span) -> Result<Opening, Error> {
        let object = self.describe(key, pin).await?;
        let range = resolve(span, &object)?;
        Ok((object, range, None))
    }

    /// Opens a range. Its first response ends at `response_end`, exclusive.
    async fn open_range(&self, key: &Key, pin: &Pin, span: Span, response_end: Option<u64>) -> Result<Opening, Error> {
        let what = self.bucket.what(key);
        let first = (span.start, response_end);
        let range = |client: Arc<_>| async move { self.bucket.get_range(&client, key, pin, first).await };

        let opened = if span.end.is_some() {
            // A range that ends before the object can't be compared with its checksum.
            self.bucket.retry(&what, range).await.map(Some)
        } else {
            self.range_and_checksum(&what, key, pin, range).await
        };

        match opened {
            Ok(Some(answer)) => {
                let response = Response { body: answer.body, end: answer.range.end };
                let range = resolve(span, &answer.object)?;
                Ok((answer.object, range, Some(response)))
            }
            Ok(None) => Err(Error::Changed(format!("{what}: is replaced faster than it can be read"))),
            Err(Failure { retry: Retry::AfterCure(Cure::Size), error }) => {
                let object = self.describe(key, pin).await?;
                let range = resolve(span, &object)?;
                if range.is_empty() { Ok((object, range, None)) } else { Err(reads::contradicted(&error)) }
            }
            Err(Failure { error, .. }) => Err(error),
        }
    }

    /// Sends two requests at once: one for the range, and a HEAD for the checksum, which a ranged request can't return.
    /// Returns `None` if their answers described different versions each time.
    async fn range_and_checksum<F>(
        &self,
        what: &About,
        key: &Key,
        pin: &Pin,
        range: impl Fn(Arc<Client>) -> F,
    ) -> Result<Option<Answer>, Failure>
    where
        F: Future<Output = Result<Answer, Failure>>,
    {
        let head = |client: Arc<_>| async move { self.bucket.head(&client, key, pin).await };
        // The GET's failure is preferred, because only it has a reason.
        let described = async || Ok(self.bucket.retry(what, head).await);

        for _ in 0..REPLACED_MAX {
            let (answer, described) = try_join(self.bucket.retry(what, &range), described()).await?;
            match described {
                Ok(object) if is_same(&answer.object, &object) => return Ok(Some(Answer { object, ..answer })),
                // The object was replaced between the two requests. Without a pin, the newer version is equally valid.
                Ok(_) => {}
                // A policy may permit only GET, or a server may not know HEAD. Then only the checksum is missing.
                Err(Failure { error: Error::Denied(_) | Error::Invalid(_), .. }) => return Ok(Some(answer)),
                Err(failure) => return Err(failure),
            }
        }

        Ok(None)
    }

    /// Returns the exclusive end of the first response, or `None` for the object's end.
    fn response_end(&self, span: Span) -> Option<u64> {
        if !self.bucket.takes_ranges() {
            return span.end;
        }
        self.budget.crowd().response_end(self.bucket.limits().range_bytes, span.start, span.end)
    }

    async fn describe(&self, key: &Key, pin: &Pin) -> Result<ObjectInfo, Error> {
        let what = self.bucket.what(key);
        self.bucket
            .retry(&what, |client| async move { self.bucket.head_or_reason(&client, key, pin).await })
            .await
            .map_err(|failure| failure.error)
    }

    async fn opened(&self, (mut object, range, response): Opening, member: Member) -> Opened {
        parts::learn(&self.parts, &self.bucket, &mut object).await;

        let budget = self.budget.clone();
        let body = Reader::new(Arc::clone(&self.bucket), &object, range, response, budget, member).into_body();
        Opened { object, body }
    }
}

fn resolve(span: Span, object: &ObjectInfo) -> Result<Range<u64>, Error> {
    span.resolve(object.size).ok_or(Error::Range { start: span.start, size: object.size })
}

const fn is_whole(span: Span) -> bool {
    span.start == 0 && span.end.is_none()
}

fn is_same(one: &ObjectInfo, other: &ObjectInfo) -> bool {
    one.etag == other.etag && one.version_id == other.version_id && one.size == other.size
}
