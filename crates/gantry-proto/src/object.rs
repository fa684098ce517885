//! Objects as stores describe them: byte ranges, versions, sizes and checksums.

use std::collections::BTreeMap;
use std::ops::{Bound, Range, RangeBounds};

use serde::{Deserialize, Serialize};

use super::names::Key;

/// The HTTP headers that stores keep with an object besides its type, for those who serve it over HTTP. Source: S3's
/// system-defined metadata that users control.
pub const STORED_HEADERS: [&str; 5] =
    ["cache-control", "content-disposition", "content-encoding", "content-language", "expires"];

/// A requested byte range: absolute offsets, `end` exclusive, `None` for the object's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: u64,
    /// The exclusive end. A value past the object's size means the object's end.
    pub end: Option<u64>,
}

impl Span {
    /// Resolves the span for an object of `size` bytes. Returns `None` if it starts past the end.
    ///
    /// `start == size` is an empty range, so that a consumer that has every byte can still request the end message.
    #[must_use]
    pub fn resolve(self, size: u64) -> Option<Range<u64>> {
        (self.start <= size).then(|| self.start..self.end.unwrap_or(size).clamp(self.start, size))
    }
}

impl RangeBounds<u64> for Span {
    fn start_bound(&self) -> Bound<&u64> {
        Bound::Included(&self.start)
    }

    fn end_bound(&self) -> Bound<&u64> {
        self.end.as_ref().map_or(Bound::Unbounded, Bound::Excluded)
    }
}

/// The requested version of an object. If empty, the current version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The `ETag` that the object must have: opaque, and with quotes if the store's `ETag` has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_match: Option<String>,
    /// The version to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
}
/// One immutable version of an object, as described by its store. Part of `accepted`, and the answer to `stat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ObjectInfo {
    /// The object's key within the store.
    pub key: Key,
    /// The whole object's size in bytes.
    pub size: u64,
    /// The store's `ETag`, opaque.
    pub etag: String,
    /// The store's version id, if the store keeps versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// When it was last modified, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
    /// The media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The HTTP headers that are stored with the object, by their names in lower case: those of [`STORED_HEADERS`].
    #[serde(default, deserialize_with = "super::json::texts", skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// User metadata.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// The whole object's checksum, as kept by the store.
    #[serde(default, deserialize_with = "super::json::optional", skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
    /// A checksum of the whole object that older consumers don't know: of another algorithm, or the `ETag`. Only if there
    /// is no `checksum`.
    #[serde(default, deserialize_with = "super::json::optional", skip_serializing_if = "Option::is_none")]
    pub other_checksum: Option<Checksum>,
    /// How long ago the version was known to be current, in seconds, if a relay at a site serves it from its cache because
    /// it can't ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_s: Option<u64>,
}

impl ObjectInfo {
    /// Describes a version by what every store knows: `size` in bytes, and an opaque `etag`. The rest is unset.
    #[must_use]
    pub const fn new(key: Key, size: u64, etag: String) -> Self {
        Self {
            key,
            size,
            etag,
            version_id: None,
            last_modified: None,
            content_type: None,
            headers: BTreeMap::new(),
            metadata: BTreeMap::new(),
            checksum: None,
            other_checksum: None,
            stale_s: None,
        }
    }

    /// Returns the pin of exactly this version.
    #[must_use]
    pub fn pin(&self) -> Pin {
        Pin { if_match: Some(self.etag.clone()), version_id: self.version_id.clone() }
    }

    /// Returns the checksum to verify the object with.
    #[must_use]
    pub fn stated_checksum(&self) -> Option<&Checksum> {
        self.checksum.as_ref().or(self.other_checksum.as_ref())
    }

    /// Returns whether this description and `other` state checksums that can't belong to the same bytes.
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> bool {
        let is_contradiction = |one: &Option<Checksum>, other: &Option<Checksum>| matches!((one, other), (Some(one), Some(other)) if one.contradicts(other));
        is_contradiction(&self.checksum, &other.checksum)
            || is_contradiction(&self.other_checksum, &other.other_checksum)
    }
}

/// A checksum that a store keeps of a whole object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// The algorithm.
    pub algorithm: ChecksumAlgorithm,
    /// Whether `value` covers the object's bytes or its parts' checksums.
    pub kind: ChecksumKind,
    /// Base64 of the big-endian digest, as in S3, without a `-N` suffix.
    pub value: String,
    /// The part sizes of a composite checksum in order, run-length encoded; empty if unknown.
    #[serde(default, deserialize_with = "super::json::array", skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartRun>,
}

impl Checksum {
    /// Returns whether this checksum and `other` can't belong to the same bytes. Checksums of different algorithms or
    /// kinds can't be compared, so they never contradict each other.
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> bool {
        (self.algorithm, self.kind) == (other.algorithm, other.kind) && self.value != other.value
    }
}

/// `count` consecutive parts of `size` bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRun {
    /// The number of parts.
    pub count: u64,
    /// The size of each part, in bytes.
    pub size: u64,
}

/// A checksum algorithm that S3 stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChecksumAlgorithm {
    /// CRC-64/NVME, S3's default.
    Crc64Nvme,
    /// CRC-32 (ISO-HDLC).
    Crc32,
    /// CRC-32C (Castagnoli).
    Crc32c,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
    /// MD5.
    Md5,
    /// XXH64, which Gantry does not verify.
    Xxhash64,
    /// XXH3 of 64 bits, which Gantry does not verify.
    Xxhash3,
    /// XXH3 of 128 bits, which Gantry does not verify.
    Xxhash128,
    /// An algorithm that this version does not know.
    #[serde(other)]
    Unknown,
}

impl ChecksumAlgorithm {
    /// Returns the name as S3 writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crc64Nvme => "CRC64NVME",
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Sha512 => "SHA512",
            Self::Md5 => "MD5",
            Self::Xxhash64 => "XXHASH64",
            Self::Xxhash3 => "XXHASH3",
            Self::Xxhash128 => "XXHASH128",
            Self::Unknown => "a checksum of an unknown algorithm",
        }
    }
}

/// What a stored checksum covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChecksumKind {
    /// The object's bytes.
    FullObject,
    /// The concatenated digests of the object's parts.
    Composite,
    /// Probably the object's bytes: it is the `ETag`, which is their MD5 in most stores, but in some only looks so.
    Etag,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_headers_are_optional() {
        let read = |member: &str| {
            let body = format!(r#"{{"key":"a","size":1,"etag":"e","metadata":{{}}{member}}}"#);
            serde_json::from_str::<ObjectInfo>(&body)
        };
        assert_eq!(read("").unwrap().headers, BTreeMap::new());
        assert_eq!(read(r#","headers":null"#).unwrap().headers, BTreeMap::new());
        read(r#","headers":["expires"]"#).unwrap_err();
        read(r#","headers":{"expires":1}"#).unwrap_err();

        let mut object = read(r#","headers":{"expires":"0"}"#).unwrap();
        assert_eq!(object.headers["expires"], "0");
        object.headers.clear();
        assert!(
            !serde_json::to_string(&object).unwrap().contains("headers"),
            "consumers of earlier versions see no change"
        );
    }

    #[test]
    fn a_span_is_resolved_against_the_size() {
        assert_eq!(Span { start: 0, end: None }.resolve(0), Some(0..0));
        assert_eq!(Span { start: 2, end: Some(9) }.resolve(5), Some(2..5));
        assert_eq!(Span { start: 5, end: None }.resolve(5), Some(5..5));
        assert_eq!(Span { start: 6, end: None }.resolve(5), None);
        assert_eq!(Span { start: 6, end: Some(6) }.resolve(5), None);
    }
}
