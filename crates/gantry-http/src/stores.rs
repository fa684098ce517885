//! How a server finds its stores.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _, ready};

use gantry_proto::StoreName;
use gantry_store::{Error, Store};

/// The stores that a server serves, by name.
pub trait Stores: fmt::Debug + Send + Sync + 'static {
    /// Returns the names of all stores, for S3's `ListBuckets` and the index page of `/`.
    ///
    /// # Errors
    /// Those of [`Store`], without [`Error::NotFound`].
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped before it is ready.
    fn names(&self) -> BoxFuture<'_, Result<Vec<StoreName>, Error>>;

    /// Returns the store with this name. Returns `None` if it does not exist; clients then receive `NoSuchBucket`.
    ///
    /// # Errors
    /// Those of [`Store`], without [`Error::NotFound`].
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped before it is ready.
    fn store<'a>(&'a self, name: &'a StoreName) -> BoxFuture<'a, Result<Option<Arc<dyn Store>>, Error>>;
}

/// A fixed set of stores.
#[derive(Clone, Debug, Default)]
pub struct StoreMap(BTreeMap<StoreName, Arc<dyn Store>>);

impl FromIterator<(StoreName, Arc<dyn Store>)> for StoreMap {
    fn from_iter<T: IntoIterator<Item = (StoreName, Arc<dyn Store>)>>(stores: T) -> Self {
        Self(stores.into_iter().collect())
    }
}

impl Stores for StoreMap {
    fn names(&self) -> BoxFuture<'_, Result<Vec<StoreName>, Error>> {
        ready(Ok(self.0.keys().cloned().collect())).boxed()
    }

    fn store<'a>(&'a self, name: &'a StoreName) -> BoxFuture<'a, Result<Option<Arc<dyn Store>>, Error>> {
        ready(Ok(self.0.get(name).cloned())).boxed()
    }
}
