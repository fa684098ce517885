//! The requirements for a store that is read by ranges.

use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use super::failure::{About, Failure};
use super::limits::Limits;
use gantry_proto::ObjectInfo;

/// A store that can read a range of one version of an object.
pub(crate) trait Ranged: fmt::Debug + Send + Sync + 'static {
    /// The store's name in messages.
    const NAME: &'static str;

    /// Sends requests. A cure may replace it.
    type Client: Clone + Send + Sync;

    /// The body of one response.
    type Body: Send;

    /// An action that makes another attempt worthwhile, beyond a pause.
    type Cure: Send;

    /// The cures that have not been tried yet.
    type Cures: Default + Send;

    /// Returns the bounds on time and concurrency.
    fn limits(&self) -> &Limits;

    /// Returns the client for the next request.
    fn client(&self) -> Self::Client;

    /// Returns whether ranges may be requested. Becomes false if the store ignores the range of a request. Then only
    /// whole objects can be read.
    fn takes_ranges(&self) -> bool;

    /// Requests a range of exactly the version that `object` describes, once. `range.end` is exclusive.
    fn get(
        &self,
        client: &Self::Client,
        object: &ObjectInfo,
        range: Range<u64>,
    ) -> impl Future<Output = Result<Self::Body, Failure<Self::Cure>>> + Send;

    /// Describes that a request was not answered in time.
    fn silence(&self, about: &About) -> Failure<Self::Cure> {
        Failure::passing(format!("{about}: {} did not answer in time", Self::NAME))
    }

    /// Returns the next piece of a body, which may be empty, or `None` at its end.
    fn next(
        body: &mut Self::Body,
    ) -> impl Future<Output = Option<Result<Bytes, Box<dyn StdError + Send + Sync>>>> + Send;

    /// Applies the cure of a failure, and removes it from `left`. Returns the failure if another attempt is worthwhile.
    ///
    /// # Errors
    /// The failure to report, if the cure does not help or was already tried.
    fn cure(
        &self,
        used: &Self::Client,
        left: &mut Self::Cures,
        failure: Failure<Self::Cure>,
        about: &About,
    ) -> impl Future<Output = Result<Failure<Self::Cure>, Failure<Self::Cure>>> + Send;
}
