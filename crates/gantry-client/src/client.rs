//! The client: one connection, any number of requests and downloads.

use std::path::Path;
use std::sync::Arc;

use gantry_bus::Bus;
use gantry_proto::{Get, Key, ListPage, ListRequest, ObjectInfo, Pin, StoreName, Via};
use uuid::Uuid;

use crate::connection::Connection;
use crate::download::{self, Download};
use crate::error::Error;
use crate::file::{self, FileOptions, Report};
use crate::listing::Listing;
use crate::options::Options;

/// A consumer on one connection. Clones share the connection and the memory for their downloads' windows.
///
/// All methods need a Tokio runtime with I/O and time enabled. They retry by themselves, within the limits in
/// [`Options`]: lost messages, silent or restarting relays and lost connections are not errors until these limits are
/// reached.
#[derive(Clone, Debug)]
pub struct Client {
    connection: Arc<Connection>,
    via: Via,
}

impl Client {
    /// Creates a client on a connection. [`Self::connect`] is the short way.
    #[must_use]
    pub fn new(bus: Arc<dyn Bus>, options: Options) -> Self {
        Self { connection: Arc::new(Connection::new(bus, options)), via: Via::default() }
    }

    /// Returns this client for requests on behalf of others: their requests have passed these relays, and
    /// [`Self::get`], [`Self::stat`] and [`Self::list_page`] state it. A relay that asks other relays needs it.
    #[must_use]
    pub fn via(&self, via: Via) -> Self {
        Self { connection: Arc::clone(&self.connection), via }
    }

    /// Starts a download to a stream, and returns it once a relay has accepted the request.
    ///
    /// All requests of the download carry [`Get::context`], which the relay logs as `correlation`. If the caller has set
    /// none, it is a [`new_correlation`].
    ///
    /// # Errors
    /// Retryable:
    /// - [`Error::NoRelay`] or [`Error::StoreLeft`] if no relay answers within [`Options::no_relay_patience`].
    /// - [`Error::Unanswered`] if a relay receives the requests, but none of its answers arrives.
    /// - [`Error::GaveUp`] if no relay accepts the request within [`Options::patience`].
    ///
    /// Not retryable:
    /// - [`Error::NoStore`] if relays answer, but none of them serves the store.
    /// - [`Error::Refused`] if there is no such object or version, the store denies access, or the range starts past the
    ///   object's end.
    /// - [`Error::Changed`] if the object is not the version that `get` requires.
    /// - [`Error::NotPermitted`] if nats-server denies a subject.
    /// - [`Error::Bus`] if the connection was closed for good.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the transfer at the relay.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run(client: gantry_client::Client) -> Result<(), gantry_client::Error> {
    /// use gantry_client::Get;
    ///
    /// let mut download = client.get(Get::at("files/videos/a.mp4")?).await?;
    /// let mut len = 0;
    /// while let Some(bytes) = download.try_next().await? {
    ///     len += bytes.len();
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get(&self, get: Get) -> Result<Download, Error> {
        download::start(&self.connection, correlated(get), &self.via).await
    }

    /// Downloads to a file, and returns once the file is verified and durable.
    ///
    /// The bytes are kept in a hidden file next to `target` until they are verified, and then replace it. An interrupted
    /// download to the same target is resumed. [`part`](crate::part) describes these files.
    ///
    /// # Errors
    /// The target stays unchanged, and the bytes received so far are kept for the next download. Retryable:
    /// - [`Error::NoRelay`] or [`Error::StoreLeft`] if no relay answers within [`Options::no_relay_patience`].
    /// - [`Error::Unanswered`] if a relay receives the requests, but none of its answers arrives.
    /// - [`Error::GaveUp`] if no new bytes arrive within [`Options::patience`].
    /// - [`Error::Part`] with [`part::Error::InUse`](crate::part::Error::InUse) if another download to the same target is
    ///   running.
    ///
    /// Not retryable:
    /// - [`Error::NoStore`] if relays answer, but none of them serves the store.
    /// - [`Error::Refused`] if there is no such object or version, the store denies access, or the range starts at or past
    ///   the object's end.
    /// - [`Error::Changed`] if the object is not the version that `get` requires, or if it changes during the download.
    /// - [`Error::Part`] if the file can't be written, or with [`part::Error::Mismatch`](crate::part::Error::Mismatch) if
    ///   the bytes do not match the store's checksum. Bytes that do not match are deleted.
    /// - [`Error::NotPermitted`] if nats-server denies a subject.
    /// - [`Error::Bus`] if the connection was closed for good.
    /// - [`Error::Cancelled`] after [`FileOptions::cancel`].
    ///
    /// # Cancel safety
    /// Dropping the future cancels the transfer at the relay, and keeps most of the bytes received so far. The file stays
    /// locked until the current write ends. [`FileOptions::cancel`] waits for that, and keeps all bytes.
    pub async fn download(&self, get: Get, target: &Path, options: FileOptions) -> Result<Report, Error> {
        file::download(&self.connection, correlated(get), target, options).await
    }

    /// Describes an object.
    ///
    /// # Errors
    /// Retryable:
    /// - [`Error::NoRelay`] or [`Error::StoreLeft`] if no relay answers within [`Options::no_relay_patience`].
    /// - [`Error::Unanswered`] if a relay receives the requests, but none of its answers arrives.
    /// - [`Error::GaveUp`] if there is no answer within [`Options::query_timeout`], or if the relay reports a failure that
    ///   may pass.
    ///
    /// Not retryable:
    /// - [`Error::NoStore`] if relays answer, but none of them serves the store.
    /// - [`Error::Refused`] if there is no such object or version, or if the store denies access.
    /// - [`Error::Changed`] if the object is not the version that `pin` requires.
    /// - [`Error::Malformed`] if the answer is invalid, or describes another object.
    /// - [`Error::NotPermitted`] if nats-server denies a subject.
    /// - [`Error::Bus`] if the connection was closed for good.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the request.
    pub async fn stat(&self, store: &StoreName, key: &Key, pin: &Pin) -> Result<ObjectInfo, Error> {
        self.connection.stat(store, key, pin, &self.via).await
    }

    /// Lists one page of keys. Its `next` is the `token` of the following request.
    ///
    /// # Errors
    /// Retryable:
    /// - [`Error::NoRelay`] or [`Error::StoreLeft`] if no relay answers within [`Options::no_relay_patience`].
    /// - [`Error::Unanswered`] if a relay receives the requests, but none of its answers arrives.
    /// - [`Error::GaveUp`] if there is no answer within [`Options::query_timeout`], or if the relay reports a failure that
    ///   may pass.
    ///
    /// Not retryable:
    /// - [`Error::NoStore`] if relays answer, but none of them serves the store.
    /// - [`Error::Refused`] if the prefix or the token is invalid, or if the store denies listing.
    /// - [`Error::Malformed`] if the answer is invalid, such as a page with names outside of the prefix.
    /// - [`Error::NotPermitted`] if nats-server denies a subject.
    /// - [`Error::Bus`] if the connection was closed for good.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the request.
    pub async fn list_page(&self, store: &StoreName, request: &ListRequest) -> Result<ListPage, Error> {
        self.connection.list_page(store, request, &self.via).await
    }

    /// Lists the keys that begin with `prefix`, in ascending order. Keys are cut after the next slash. Pages are requested
    /// as the stream is read.
    ///
    /// The stream ends with an error of [`Self::list_page`], or with [`Error::Malformed`] if the relay returns to an
    /// earlier page. [`Listing::omitted`] counts the names that can't be listed.
    #[must_use]
    pub fn list(&self, store: &StoreName, prefix: impl Into<String>) -> Listing {
        let request = ListRequest { prefix: prefix.into(), ..ListRequest::default() };
        Listing::new(Arc::clone(&self.connection), store.clone(), request)
    }

    /// Lists every key that begins with `prefix`, however many slashes follow. Otherwise like [`Self::list`].
    #[must_use]
    pub fn list_recursive(&self, store: &StoreName, prefix: impl Into<String>) -> Listing {
        let request = ListRequest { prefix: prefix.into(), recursive: true, ..ListRequest::default() };
        Listing::new(Arc::clone(&self.connection), store.clone(), request)
    }
}

/// Returns a random id for [`Get::context`], under which the logs and traces of both sides show a download: 32 hexadecimal
/// digits.
#[must_use]
pub fn new_correlation() -> String {
    Uuid::new_v4().simple().to_string()
}

/// Gives a download an id, unless the caller has chosen one.
fn correlated(mut get: Get) -> Get {
    get.context.get_or_insert_with(new_correlation);
    get
}
