//! An announced object.

use std::path::PathBuf;

use gantry_client::tree::Item;
use gantry_proto::{Key, StoreName};

/// An announced object that the user wants.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) store: StoreName,
    pub(super) key: Key,
    /// The number of bytes at the start of the key that are not part of the path.
    pub(super) cut: usize,
    pub(super) size: Option<u64>,
    pub(super) etag: Option<String>,
    pub(super) event: String,
    /// Where it was downloaded to.
    pub(super) file: Option<PathBuf>,
}

impl Object {
    pub(super) fn address(&self) -> String {
        format!("{}/{}", self.store, self.key)
    }

    /// Converts the object to an item for a download. The modification time is left out, so that the file is replaced even if it has the
    /// same size and time: an object can be overwritten twice within a second.
    pub(super) fn item(&self) -> Item {
        let mut item = Item::new(self.store.clone(), self.key.clone(), self.cut);
        item.size = self.size;
        item
    }
}
