//! The objects to download into a tree.

use gantry_proto::{Get, Key, ListEntry, Malformed, StoreName};

/// An object to download into a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Item {
    /// The store.
    pub store: StoreName,
    /// The object's key.
    pub key: Key,
    /// The number of bytes at the start of the key that are not part of the path.
    pub cut: usize,
    /// The size in bytes, if it is known.
    pub size: Option<u64>,
    /// The `ETag`, if it is known.
    pub etag: Option<String>,
    /// The modification time in RFC 3339, if it is known.
    pub last_modified: Option<String>,
}

impl Item {
    /// Describes an object by its key alone. The path is the key without its first `cut` bytes.
    #[must_use]
    pub const fn new(store: StoreName, key: Key, cut: usize) -> Self {
        Self { store, key, cut, size: None, etag: None, last_modified: None }
    }

    /// Describes an object of a listing. The path is the key without its first `cut` bytes.
    ///
    /// # Errors
    /// [`Malformed`] if the key is invalid; not retryable.
    pub fn listed(store: StoreName, entry: ListEntry, cut: usize) -> Result<Self, Malformed> {
        let ListEntry { key, size, etag, last_modified, .. } = entry;
        Ok(Self { store, key: Key::try_from(key)?, cut, size: Some(size), etag, last_modified })
    }

    /// Returns the part of the key that becomes the path.
    pub(super) fn path_key(&self) -> &str {
        self.key.as_str().get(self.cut..).unwrap_or_default()
    }

    pub(super) fn get(&self) -> Get {
        Get::new(self.store.clone(), self.key.clone())
    }
}
