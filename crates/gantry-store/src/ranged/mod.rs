//! Reading from any store that can read a range: retries, read-ahead, and restraint among many readers.
//!
//! A store implements [`Ranged`]: one request for one range, and the cures for its own failures. Whatever takes more
//! than one request is here, and knows no store.

mod failure;
mod limits;
mod pace;
mod reader;
mod retry;

use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use gantry_proto::{Key, ObjectInfo};

pub(crate) use failure::{About, Failure, Retry};
pub use limits::Limits;
pub(crate) use reader::{Reader, Response};
pub(crate) use retry::retry;

/// A store that can read a range of one version of an object.
pub(crate) trait Ranged: fmt::Debug + Send + Sync + 'static {
    /// What the store is called in messages.
    const NAME: &'static str;

    /// What sends requests. A cure may replace it.
    type Client: Clone + Send + Sync;

    /// The body of one response.
    type Body: Send;

    /// What makes another attempt worthwhile, beyond a pause.
    type Cure: Send;

    /// The cures that were not tried yet.
    type Cures: Default + Send;

    /// Returns the bounds on time and concurrency.
    fn limits(&self) -> &Limits;

    /// Returns what sends the next request.
    fn client(&self) -> Self::Client;

    /// Requests a range of exactly the version that `object` describes, once. `range.end` is exclusive.
    fn get(
        &self,
        client: &Self::Client,
        object: &ObjectInfo,
        range: Range<u64>,
    ) -> impl Future<Output = Result<Self::Body, Failure<Self::Cure>>> + Send;

    /// Returns the next piece of a body, which may be empty; `None` at its end.
    fn next(
        body: &mut Self::Body,
    ) -> impl Future<Output = Option<Result<Bytes, Box<dyn StdError + Send + Sync>>>> + Send;

    /// Applies the cure of a failure, and takes it from `left`. Returns the failure if another attempt is worthwhile.
    ///
    /// # Errors
    /// The failure to report, if the cure does not help or is not left.
    fn cure(
        &self,
        used: &Self::Client,
        left: &mut Self::Cures,
        failure: Failure<Self::Cure>,
        about: &About,
    ) -> impl Future<Output = Result<Failure<Self::Cure>, Failure<Self::Cure>>> + Send;
}

/// Names an object in messages to consumers.
pub(crate) fn about_key(key: &Key) -> About {
    About::Consumer(format!("key {:?}", key.as_str()))
}
