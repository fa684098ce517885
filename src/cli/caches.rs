//! The cache folders of stores.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use gantry_proto::StoreName;
use gantry_relay::metrics::CacheMetrics;
use gantry_store::Store;
use gantry_store::budget::Budget;
use gantry_store::cache::{CacheStore, Folder};
use tokio::sync::Mutex;

use crate::config::Cache;

/// The folders in use. They outlive a reload of the configuration, since a folder is locked while it is in use.
#[derive(Debug, Default)]
pub(super) struct Folders(Mutex<BTreeMap<PathBuf, Weak<Folder>>>);

impl Folders {
    /// Returns the store with its cache.
    pub(super) async fn cached(
        &self,
        name: &StoreName,
        store: Arc<dyn Store>,
        config: &Cache,
        budget: &Budget,
        metrics: &CacheMetrics,
    ) -> Arc<dyn Store> {
        let folder = self.folder(name, config, metrics).await;
        Arc::new(CacheStore::new(store, name.as_str(), folder, budget.clone(), config.options))
    }

    /// Opens a folder, or returns the one that is open. Its problems are logged.
    async fn folder(&self, name: &StoreName, config: &Cache, metrics: &CacheMetrics) -> Arc<Folder> {
        let mut folders = self.0.lock().await;
        folders.retain(|_, folder| folder.strong_count() > 0);
        if let Some(folder) = folders.get(&config.dir).and_then(Weak::upgrade) {
            folder.set_limits(config.limits);
            return folder;
        }

        let observer = Arc::new(metrics.of_store(name.as_str()));
        let folder = Folder::open(config.dir.clone(), config.limits, observer).await;
        folders.insert(config.dir.clone(), Arc::downgrade(&folder));
        folder
    }
}
