//! What the stores in Azure and Google Cloud have in common: requests, descriptions, failures, listings.
//!
//! A cloud implements [`Cloud`]: the addresses of its requests, and what is its own in the answers. Every answer is
//! compared with the request, as in S3: `ETag`, version, range, length.
//!
//! `object_store` provides credentials and signatures. Requests for objects are not sent through it, because its paths
//! exclude keys such as `a//b`, and one such key makes a listing fail.

mod answer;
mod bucket;
mod credentials;
mod failure;
mod object;
mod requests;
mod secrets;
mod store;
mod tokens;
mod url;
mod xml;

use std::fmt;

use hyper::HeaderMap;
use object_store::client::{HttpRequest, HttpRequestBody};

pub(crate) use self::answer::{Answer, Subject};
pub(crate) use self::bucket::Bucket;
pub(crate) use self::credentials::{Credentials, Loaded, Source, secret_file, shown_path};
#[cfg(test)]
pub(crate) use self::failure::of_answer;
pub(crate) use self::failure::{Cure, Failure, busy, denied, expired, missing, no_place};
pub(crate) use self::object::{header, rfc3339};
pub(crate) use self::store::CloudStore;
pub(crate) use self::tokens::{Problem, Tokens};
#[cfg(feature = "azure")]
pub(crate) use self::url::check_address;
pub(crate) use self::url::{Query, check_endpoint, encoded, encoded_text};
pub(crate) use self::xml::{Element, parse};
use crate::listing;
use crate::ranged::{About, Retry};
use crate::{Error, UnavailableKind};
use gantry_proto::Checksum;

/// A request for a page of a listing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageRequest<'a> {
    /// The prefix of the names, including the store's.
    pub(crate) prefix: &'a str,
    /// Whether names are folded at the next slash.
    pub(crate) is_folded: bool,
    /// The cloud's own token of the page.
    pub(crate) token: Option<&'a str>,
    /// The name after which the page begins, including the store's prefix.
    pub(crate) start_after: Option<&'a str>,
    /// Maximum number of entries and prefixes together.
    pub(crate) limit: u32,
}

/// The checksums in the head of an answer: of the kinds that [`ObjectInfo`](gantry_proto::ObjectInfo) distinguishes.
#[derive(Debug, Default)]
pub(crate) struct Checksums {
    pub(crate) checksum: Option<Checksum>,
    pub(crate) other_checksum: Option<Checksum>,
}

/// A cloud whose objects are read over HTTP.
pub(crate) trait Cloud: fmt::Debug + Send + Sync + 'static {
    /// The cloud's name in messages.
    const NAME: &'static str;

    /// What the cloud calls the place of its objects: a bucket, a container.
    const PLACE: &'static str;

    /// The header with an object's version.
    const VERSION: &'static str;

    /// The prefix of headers with user metadata.
    const METADATA: &'static str;

    /// A header that only this cloud sends with an object.
    const OWN: &'static str;

    /// Whether a listing can begin after any name.
    const STARTS_AFTER_NAMES: bool;

    /// Returns the name of the bucket or container.
    fn place(&self) -> &str;

    /// Returns the URL of an object, whose name includes the store's prefix. Returns `None` if no URL can name it.
    fn object_url(&self, name: &str, version: Option<&str>) -> Option<String>;

    /// Returns the URL of a page of the listing.
    fn listing_url(&self, page: PageRequest<'_>) -> String;

    /// Adds the headers that each request for such a subject needs, except for its authorization.
    fn prepare(&self, headers: &mut HeaderMap, subject: Subject);

    /// Signs a request, or adds a token.
    ///
    /// # Errors
    /// A failure about `about` if there are no credentials.
    fn authorize(&self, request: &mut HttpRequest, about: &About) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Returns the number of the current credentials. It changes when they are loaded again.
    fn credentials(&self) -> u64;

    /// Returns whether a token is being requested, so that requests wait for it. Names the service that is asked.
    fn awaits(&self) -> Option<String>;

    /// Loads the credentials again, unless those with the number `used` were already replaced. Returns whether another
    /// attempt makes sense: if a file has changed, or another token can be requested. With `only_other`, only a changed
    /// file counts.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if a file can't be read.
    fn reload(&self, used: u64, only_other: bool) -> Result<bool, Error>;

    /// Returns whether a text can be a version's name.
    fn is_version(text: &str) -> bool;

    /// Reads the checksums of the whole object. With `is_part`, the body of the answer is only a part of it.
    fn checksums(headers: &HeaderMap, is_part: bool) -> Checksums;

    /// Checks the head of a successful answer for what only this cloud sends.
    ///
    /// # Errors
    /// The reason why the answer can't be used, as the end of a sentence about the cloud.
    fn check_head(headers: &HeaderMap) -> Result<(), Refusal>;

    /// Classifies an error in the cloud's own way, or returns `None` to classify it by its status.
    fn refusal(&self, answer: &Answer<'_>) -> Option<(Error, Retry<Cure>)>;

    /// Reads a page of a listing.
    ///
    /// # Errors
    /// If the body is not one. The error describes the problem.
    fn page(body: &[u8]) -> Result<listing::Answer, String>;
}

/// Why an object is not delivered, although the cloud answers.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It is a folder, which has no bytes.
    Folder,
    /// The body is not the stored one.
    OtherEncoding,
}

/// Creates a request with an empty body.
fn request(method: hyper::Method, url: &str) -> Result<HttpRequest, hyper::http::Error> {
    hyper::Request::builder().method(method).uri(url).body(HttpRequestBody::empty())
}

/// Creates the error for a file or a variable that contains no usable credentials.
pub(crate) fn unusable_credentials(message: impl Into<String>) -> Error {
    Error::unavailable_because(UnavailableKind::UnusableCredentials, message)
}

/// Creates the error for credentials that are missing, unreadable or expired.
pub(crate) fn without_credentials(message: impl Into<String>) -> Error {
    Error::unavailable_because(UnavailableKind::Credentials, message)
}
