//! Builds the options of caches on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gantry_proto::StoreName;
use gantry_store::cache;

use super::Build;
use crate::config::error::Problem;
use crate::config::{Cache, keys};

impl Build {
    /// Returns the caches of all stores that have one.
    pub(super) fn caches(&mut self, stores: &BTreeMap<StoreName, keys::Store>) -> BTreeMap<StoreName, Cache> {
        let mut caches = BTreeMap::new();
        let mut users: BTreeMap<PathBuf, &StoreName> = BTreeMap::new();
        for (name, keys) in stores {
            let Some(dir) = keys.cache_dir.as_ref().map(PathBuf::from) else {
                self.report_stale_without_cache(name, keys);
                continue;
            };

            let other = users.insert(dir.clone(), name);
            if let Some(other) = other {
                self.report_common_folder(other, name);
            }
            let limits = cache::Limits { bytes_max: keys.cache_bytes, files_max: keys.cache_files };
            let options = cache::Options { serve_stale: keys.serve_stale };
            caches.insert(name.clone(), Cache { dir, limits, options });
        }
        caches
    }

    fn report_stale_without_cache(&mut self, name: &StoreName, keys: &keys::Store) {
        let cache_dir = format!("stores.{name}.cache_dir");
        if keys.serve_stale && !self.problems.iter().any(|problem| problem.is_about(&cache_dir)) {
            let stale = format!("stores.{name}.serve_stale");
            let place = self.origin(&stale);
            self.missing(&cache_dir, format!("`{stale}` ({place}) requires it"));
        }
    }

    /// Reports a folder that two stores would compete for.
    fn report_common_folder(&mut self, one: &StoreName, other: &StoreName) {
        let place = |name: &StoreName| {
            let key = format!("stores.{name}.cache_dir");
            format!("`{key}` ({})", self.origin(&key))
        };
        let keys = format!("{} and {}", place(one), place(other));
        self.problems.push(Problem::Conflict { keys, cure: "give each store a folder of its own".to_owned() });
    }
}
