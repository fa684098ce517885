//! What to download.

use std::ops::{Bound, RangeBounds};

use super::OFFSET_MAX;
use super::error::Malformed;
use super::names::{Key, StoreName};
use super::object::{Pin, Span};

/// What to download: an object, and which version and bytes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Get {
    /// The store.
    pub store: StoreName,
    /// The object's key.
    pub key: Key,
    /// The byte range, as absolute offsets, end exclusive.
    pub span: Span,
    /// The required version.
    pub pin: Pin,
    /// Text that is repeated on every message of the transfer, for correlation.
    pub context: Option<String>,
    /// Whether to compare the `ETag` with the MD5 of the bytes if the store keeps no checksum. It costs the time of an MD5,
    /// and only a match proves something.
    pub verify_etag: bool,
}

impl Get {
    /// Requests a whole object, in its current version.
    #[must_use]
    pub const fn new(store: StoreName, key: Key) -> Self {
        Self {
            store,
            key,
            span: Span { start: 0, end: None },
            pin: Pin { if_match: None, version_id: None },
            context: None,
            verify_etag: false,
        }
    }

    /// Requests the object at `store/key`. Everything after the first slash is the key.
    ///
    /// # Errors
    /// If the key is missing, or the store's name or the key is invalid.
    ///
    /// # Examples
    /// ```
    /// use gantry_proto::Get;
    ///
    /// # fn main() -> Result<(), gantry_proto::Malformed> {
    /// let get = Get::at("files/videos/a.mp4")?.range(0..100).if_match("\"5d41402a\"");
    /// assert_eq!(get.store.as_str(), "files");
    /// assert_eq!(get.key.as_str(), "videos/a.mp4");
    /// # Ok(())
    /// # }
    /// ```
    pub fn at(address: &str) -> Result<Self, Malformed> {
        let Some((store, key)) = address.split_once('/') else {
            return Err(Malformed::new(format!("{address:?} has no key: must be STORE/KEY")));
        };
        Ok(Self::new(store.parse()?, key.parse()?))
    }

    /// Requests these bytes only, as absolute offsets. An end past the object's size means the object's end.
    #[must_use]
    pub fn range(mut self, range: impl RangeBounds<u64>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => Some(last.saturating_add(1)),
            Bound::Excluded(end) => Some(*end),
            Bound::Unbounded => None,
        };

        self.span = Span { start, end: end.filter(|end| *end <= OFFSET_MAX) };
        self
    }

    /// Requires the version in `pin`. [`ObjectInfo::pin`](super::ObjectInfo::pin) returns that of an object.
    #[must_use]
    pub fn pin(mut self, pin: Pin) -> Self {
        self.pin = pin;
        self
    }

    /// Sets whether to compare the `ETag` with the MD5 of the bytes if the store keeps no checksum.
    #[must_use]
    pub const fn verify_etag(mut self, verify_etag: bool) -> Self {
        self.verify_etag = verify_etag;
        self
    }

    /// Requires this `ETag`, spelled as the store spells it, usually in double quotes.
    #[must_use]
    pub fn if_match(mut self, etag: impl Into<String>) -> Self {
        self.pin.if_match = Some(etag.into());
        self
    }

    /// Requests this version, in a store that keeps versions.
    #[must_use]
    pub fn version_id(mut self, version_id: impl Into<String>) -> Self {
        self.pin.version_id = Some(version_id.into());
        self
    }

    /// Adds text that is repeated on every message of the transfer, for correlation: at most 256 bytes.
    #[must_use]
    pub fn context(mut self, context: impl Into<String>) -> Self {
        self.context = Some(context.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_every_form_become_half_open() {
        let get = Get::at("s/k").unwrap();
        for (span, start, end) in [
            (get.clone().range(..).span, 0, None),
            (get.clone().range(5..).span, 5, None),
            (get.clone().range(5..10).span, 5, Some(10)),
            (get.clone().range(5..=9).span, 5, Some(10)),
            (get.clone().range(..=u64::MAX).span, 0, None),
        ] {
            assert_eq!(span, Span { start, end });
        }
    }

    #[test]
    fn addresses_without_a_store_or_key_are_rejected() {
        for address in ["", "s", "s/", "/k", "s.t/k"] {
            assert!(Get::at(address).is_err(), "{address:?}");
        }
        assert_eq!(Get::at("s//a/b").unwrap().key.as_str(), "/a/b");
    }
}
