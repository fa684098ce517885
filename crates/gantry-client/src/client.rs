//! The client: one connection, any number of requests and downloads.

use std::path::Path;
use std::sync::Arc;

use super::connection::Connection;
use super::download::{self, Download};
use super::file::{self, FileOptions, Report};
use super::{Error, Get, Listing, Options};
use gantry_bus::Bus;
use gantry_proto::{Key, ListPage, ListRequest, ObjectInfo, Pin, StoreName};

/// A consumer on one connection. Clones share the connection and its window budget.
#[derive(Clone, Debug)]
pub struct Client {
    connection: Arc<Connection>,
}

impl Client {
    /// Makes a client on a connection.
    #[must_use]
    pub fn new(bus: Arc<dyn Bus>, options: Options) -> Self {
        Self { connection: Arc::new(Connection::new(bus, options)) }
    }

    /// Starts a download and returns when a relay has accepted it.
    ///
    /// # Errors
    /// As [`Error`] says; retrying is already done.
    pub async fn get(&self, get: Get) -> Result<Download, Error> {
        download::start(&self.connection, get).await
    }

    /// Downloads to a file: beside the target until proved, then in its place.
    ///
    /// # Errors
    /// As [`Error`] says. The target is then as it was; what arrived stays beside it, to be resumed.
    pub async fn download(&self, get: Get, target: &Path, options: FileOptions) -> Result<Report, Error> {
        file::download(&self.connection, get, target, options).await
    }

    /// Describes an object.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn stat(&self, store: &StoreName, key: &Key, pin: &Pin) -> Result<ObjectInfo, Error> {
        self.connection.stat(store, key, pin).await
    }

    /// Lists one page of keys; its `next` is the `token` of the following request.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn list_page(&self, store: &StoreName, request: &ListRequest) -> Result<ListPage, Error> {
        self.connection.list_page(store, request).await
    }

    /// Lists the keys that begin with `prefix`, in ascending order; keys are cut after the next slash. Pages are
    /// requested as the stream is read.
    ///
    /// The stream ends with an [`Error`] as [`Self::list_page`] returns it, or with [`Error::Malformed`] when the relay
    /// returns to an earlier page.
    #[must_use]
    pub fn list(&self, store: &StoreName, prefix: impl Into<String>) -> Listing {
        let request = ListRequest { prefix: prefix.into(), ..ListRequest::default() };
        Listing::new(Arc::clone(&self.connection), store.clone(), request)
    }

    /// Lists every key that begins with `prefix`, however many slashes follow. Otherwise as [`Self::list`].
    #[must_use]
    pub fn list_recursive(&self, store: &StoreName, prefix: impl Into<String>) -> Listing {
        let request = ListRequest { prefix: prefix.into(), recursive: true, ..ListRequest::default() };
        Listing::new(Arc::clone(&self.connection), store.clone(), request)
    }
}
