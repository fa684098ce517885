//! The JSON bodies of protocol v1 and the newtypes that cross a boundary.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::error::WireError;
use super::limits::{TOKEN_MAX_BYTES, VERSION_MAX_BYTES};
use super::{CONTEXT_MAX_BYTES, OFFSET_MAX, REQUEST_MAX_BYTES, VERSION};

/// The identity of one transfer, unique across relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct TransferId(pub Uuid);

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for TransferId {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl FromStr for TransferId {
    type Err = Malformed;

    /// Reads lower-case hexadecimal digits with hyphens, and no other form of a UUID.
    fn from_str(s: &str) -> Result<Self, Malformed> {
        let has_form = s.len() == 36 && s.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        has_form
            .then(|| Uuid::try_parse(s).ok())
            .flatten()
            .map(Self)
            .ok_or_else(|| Malformed::new("transfer id is not a lower-case UUID with hyphens"))
    }
}

/// A name or key that does not have the form it must have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

impl Malformed {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    pub(super) fn subject(subject: &str) -> Self {
        Self(format!("{subject:?} is not a subject of tokens without wildcards, white space and reserved beginnings"))
    }
}

/// The name of a store: one subject token of 1 to 64 characters from `A-Z a-z 0-9 _ -`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreName(String);

impl StoreName {
    /// Returns the name as a subject token.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for StoreName {
    type Error = Malformed;

    fn try_from(name: String) -> Result<Self, Malformed> {
        let fits = (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if !fits {
            return Err(Malformed(format!("store name {name:?} is not 1 to 64 characters from A-Z a-z 0-9 _ -")));
        }
        Ok(Self(name))
    }
}

impl FromStr for StoreName {
    type Err = Malformed;

    fn from_str(s: &str) -> Result<Self, Malformed> {
        Self::try_from(s.to_owned())
    }
}

impl From<StoreName> for String {
    fn from(name: StoreName) -> Self {
        name.0
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An object's key: 1 to 1024 bytes of UTF-8 without NUL, carriage return or newline. Anything else may stand in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

impl Key {
    /// The longest key, in bytes; S3's own limit.
    pub const MAX_BYTES: usize = 1024;

    /// Returns the key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Key {
    type Error = Malformed;

    fn try_from(key: String) -> Result<Self, Malformed> {
        if key.is_empty() {
            return Err(Malformed("key is empty".to_owned()));
        }
        if key.len() > Self::MAX_BYTES {
            return Err(Malformed(format!("key of {} bytes is longer than {}", key.len(), Self::MAX_BYTES)));
        }
        if key.contains(['\0', '\r', '\n']) {
            return Err(Malformed(format!("key {key:?} holds a NUL, carriage return or newline")));
        }
        Ok(Self(key))
    }
}

impl FromStr for Key {
    type Err = Malformed;

    fn from_str(s: &str) -> Result<Self, Malformed> {
        Self::try_from(s.to_owned())
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A byte range as asked for: absolute offsets, `end` exclusive, `None` for the object's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: u64,
    /// The exclusive end; past the object's size it means the object's end.
    pub end: Option<u64>,
}

impl Span {
    /// Resolves the span against an object of `size` bytes; `None` when it starts past the end.
    ///
    /// `start == size` is an empty range, so that a consumer that has every byte may still ask for the end message.
    #[must_use]
    pub fn resolve(self, size: u64) -> Option<Range<u64>> {
        (self.start <= size).then(|| self.start..self.end.unwrap_or(size).clamp(self.start, size))
    }
}

/// Which version of an object is meant. Empty means the current one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The `ETag` that the object must have, opaque, with its quotes if the store gives it with quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_match: Option<String>,
    /// The version to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
}

/// Asks for a transfer: the body of a message to `{prefix}.v1.get.{store}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetRequest {
    /// The protocol version of this body; absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v: Option<u32>,
    /// The object's key within the store.
    pub key: Key,
    /// The first byte wanted.
    #[serde(default, deserialize_with = "offset")]
    pub start: u64,
    /// The exclusive end of what is wanted; absent means the object's end.
    #[serde(default, deserialize_with = "optional_offset", skip_serializing_if = "Option::is_none")]
    pub end: Option<u64>,
    /// Which version is meant.
    #[serde(flatten)]
    pub pin: Pin,
    /// The absolute offset up to which the relay may send at once; absent means as far as the relay allows.
    #[serde(default, deserialize_with = "optional_offset", skip_serializing_if = "Option::is_none")]
    pub credit: Option<u64>,
    /// The largest chunk payload that the consumer takes, in bytes; absent means the relay's own limit.
    #[serde(default, deserialize_with = "optional_offset", skip_serializing_if = "Option::is_none")]
    pub chunk_max: Option<u64>,
    /// Opaque text that comes back on every message of the transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Whether the consumer promises control messages also while it has nothing to allow, so that its silence means
    /// that it is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps_alive: bool,
}

impl GetRequest {
    /// Asks for a whole object, as it is now.
    #[must_use]
    pub const fn new(key: Key) -> Self {
        Self {
            v: None,
            key,
            start: 0,
            end: None,
            pin: Pin { if_match: None, version_id: None },
            credit: None,
            chunk_max: None,
            context: None,
            keeps_alive: false,
        }
    }

    /// Parses and validates a request body.
    ///
    /// # Errors
    /// `bad_request` or `range`, with a message that names the field.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let request: Self = parse(body)?;
        check_version(request.v)?;
        check_pin(&request.pin)?;
        if let Some(end) = request.end
            && request.start > end
        {
            let message = format!("`start` {} is past `end` {end}", request.start);
            return Err(WireError::new(super::Code::Range, message));
        }
        if request.chunk_max == Some(0) {
            return Err(WireError::bad_request("`chunk_max` is 0"));
        }
        if let Some(context) = &request.context {
            check_context(context)?;
        }
        Ok(request)
    }

    /// Returns the byte range asked for.
    #[must_use]
    pub const fn span(&self) -> Span {
        Span { start: self.start, end: self.end }
    }
}

/// Asks for an object's description: the body of a message to `{prefix}.v1.stat.{store}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatRequest {
    /// The protocol version of this body; absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v: Option<u32>,
    /// The object's key within the store.
    pub key: Key,
    /// Which version is meant.
    #[serde(flatten)]
    pub pin: Pin,
}

impl StatRequest {
    /// Parses and validates a request body.
    ///
    /// # Errors
    /// `bad_request`, with a message that names the field.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let request: Self = parse(body)?;
        check_version(request.v)?;
        check_pin(&request.pin)?;
        Ok(request)
    }
}

/// Asks for a page of keys: the body of a message to `{prefix}.v1.list.{store}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRequest {
    /// The protocol version of this body; absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v: Option<u32>,
    /// Only keys that begin with this text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Folds keys that hold `/` past the prefix into `prefixes` unless set.
    #[serde(default)]
    pub recursive: bool,
    /// The most entries wanted in one page; the relay may send fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `next` of the page before; absent for the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl ListRequest {
    /// Parses and validates a request body; an empty body asks for the first page of everything.
    ///
    /// # Errors
    /// `bad_request`, with a message that names the field.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        let request: Self = parse(body)?;
        check_version(request.v)?;
        if request.prefix.len() > Key::MAX_BYTES || request.prefix.contains(['\0', '\r', '\n']) {
            return Err(WireError::bad_request(
                "`prefix` is over 1024 bytes or holds a NUL, carriage return or newline",
            ));
        }
        if request.limit == Some(0) {
            return Err(WireError::bad_request("`limit` is 0"));
        }
        if request.token.as_ref().is_some_and(|token| token.len() > TOKEN_MAX_BYTES) {
            return Err(WireError::bad_request(format!("`token` is over {TOKEN_MAX_BYTES} bytes")));
        }
        Ok(request)
    }
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPage {
    /// Objects, ascending by the key's UTF-8 bytes.
    pub entries: Vec<ListEntry>,
    /// Folded prefixes, each ending in `/`, ascending.
    pub prefixes: Vec<String>,
    /// What to send as `token` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How many keys and folded prefixes of this page are left out, since no JSON text or no request can name them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEntry {
    /// The object's key within the store.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its `ETag`, where the listing gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// When it was written, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
}

/// One immutable version of an object, as its store describes it: the reply to `stat`, and part of `accepted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectInfo {
    /// The object's key within the store.
    pub key: Key,
    /// The whole object's size in bytes.
    pub size: u64,
    /// The store's `ETag`, opaque.
    pub etag: String,
    /// The store's version, where it keeps versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// When it was written, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
    /// Its media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// User metadata.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// The checksum that the store keeps of the whole object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
}

impl ObjectInfo {
    /// Returns the pin that means this very version.
    #[must_use]
    pub fn pin(&self) -> Pin {
        Pin { if_match: Some(self.etag.clone()), version_id: self.version_id.clone() }
    }
}

/// A checksum that a store keeps of a whole object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// The algorithm.
    pub algorithm: ChecksumAlgorithm,
    /// Whether `value` covers the bytes, or the parts' checksums.
    pub kind: ChecksumKind,
    /// Base64 of the big-endian digest, as S3 gives it, without a `-N` suffix.
    pub value: String,
    /// The part sizes of a composite checksum, run-length coded in order; empty where they are unknown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartRun>,
}

impl Checksum {
    /// Returns whether this and `other` cannot both belong to the same bytes. Checksums of different algorithms or kinds
    /// can't be compared, so they never contradict each other.
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> bool {
        (self.algorithm, self.kind) == (other.algorithm, other.kind) && self.value != other.value
    }
}

/// `count` consecutive parts of `size` bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRun {
    /// How many parts.
    pub count: u64,
    /// The size of each, in bytes.
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
}

/// The relay's answer to a `get` that it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The transfer's identity.
    pub transfer: TransferId,
    /// The relay's service id.
    pub instance: String,
    /// Where credit and cancel go.
    pub control: String,
    /// The object, and the version that every byte of the transfer comes from.
    #[serde(flatten)]
    pub object: ObjectInfo,
    /// The first byte that will be sent.
    pub start: u64,
    /// The exclusive end of what will be sent.
    pub end: u64,
    /// The absolute offset up to which the relay sends at once: the request's `credit`, clamped.
    pub credit: u64,
    /// How far past what it has sent the relay lets credit reach, in bytes.
    pub window_max: u64,
    /// The largest chunk payload, in bytes.
    pub chunk_max: u64,
    /// The longest silence of a living relay, in milliseconds.
    pub beat_ms: u64,
    /// How long the relay waits for any control message: always when the request has `keeps_alive`, else while it may
    /// not send. In milliseconds.
    pub idle_ms: u64,
}

/// The consumer's whole state: the body of a message to the control subject. Repeats and reordering do no harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// The absolute offset up to which the relay may send.
    #[serde(default, deserialize_with = "offset")]
    pub credit: u64,
    /// Ends the transfer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
}

impl Control {
    /// Parses a control body.
    ///
    /// # Errors
    /// `bad_request`, with a message that names the field.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        parse(body)
    }
}

/// Says that every chunk has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How many chunks the transfer had.
    pub chunks: u64,
    /// How many bytes they held.
    pub bytes: u64,
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    if body.len() > REQUEST_MAX_BYTES {
        let message = format!("body of {} bytes is over {REQUEST_MAX_BYTES}", body.len());
        return Err(WireError::bad_request(message));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut json)
        .map_err(|error| match error.path().to_string() {
            path if path == "." || path == "?" => WireError::bad_request(format!("body: {}", error.inner())),
            path => WireError::bad_request(format!("`{path}`: {}", error.inner())),
        })
        .and_then(|value| {
            json.end().map_err(|error| WireError::bad_request(format!("body: {error}")))?;
            Ok(value)
        })
}

fn check_version(v: Option<u32>) -> Result<(), WireError> {
    match v {
        None | Some(VERSION) => Ok(()),
        Some(v) => Err(WireError::bad_request(format!("`v`: version {v} is not spoken here, {VERSION} is"))),
    }
}

fn check_pin(pin: &Pin) -> Result<(), WireError> {
    for (name, value) in [("if_match", &pin.if_match), ("version_id", &pin.version_id)] {
        if let Some(value) = value
            && (value.is_empty() || value.len() > VERSION_MAX_BYTES || value.chars().any(char::is_control))
        {
            return Err(WireError::bad_request(format!(
                "`{name}` is empty, over {VERSION_MAX_BYTES} bytes or holds control characters"
            )));
        }
    }
    Ok(())
}

fn check_context(context: &str) -> Result<(), WireError> {
    if context.len() > CONTEXT_MAX_BYTES {
        let message = format!("`context` of {} bytes is over {CONTEXT_MAX_BYTES}", context.len());
        return Err(WireError::bad_request(message));
    }
    if context.chars().any(char::is_control) || context.trim() != context {
        return Err(WireError::bad_request("`context` holds control characters or begins or ends with a space"));
    }
    Ok(())
}

fn offset<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let offset = u64::deserialize(deserializer)?;
    if offset > OFFSET_MAX {
        return Err(D::Error::custom(format!("{offset} is beyond 2^63 - 1")));
    }
    Ok(offset)
}

fn optional_offset<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(offset) = Option::<u64>::deserialize(deserializer)? else { return Ok(None) };
    if offset > OFFSET_MAX {
        return Err(D::Error::custom(format!("{offset} is beyond 2^63 - 1")));
    }
    Ok(Some(offset))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::Code;
    use super::*;

    fn refused(body: &str) -> (Code, String) {
        let error = GetRequest::parse(body.as_bytes()).unwrap_err();
        (error.code, error.message)
    }

    #[test]
    fn the_least_request_is_a_key() {
        let request = GetRequest::parse(br#"{"key":"a/b","colour":"blue"}"#).unwrap();
        assert_eq!(request, GetRequest::new("a/b".parse().unwrap()));
    }

    #[test]
    fn a_bad_field_is_named() {
        let long = "k".repeat(1025);
        let context = "c".repeat(257);
        for (body, field) in [
            ("{".to_owned(), "body"),
            ("[1]".to_owned(), "body"),
            (r#"{"key":"a"} x"#.to_owned(), "body"),
            (format!(r#"{{"key":"a","pad":"{}"}}"#, "x".repeat(REQUEST_MAX_BYTES)), "body"),
            ("{}".to_owned(), "`key`"),
            (r#"{"key":""}"#.to_owned(), "key"),
            (format!(r#"{{"key":"{long}"}}"#), "key"),
            (r#"{"key":"a\nb"}"#.to_owned(), "key"),
            (r#"{"key":"a\u0000b"}"#.to_owned(), "key"),
            (r#"{"key":"a","v":2}"#.to_owned(), "`v`"),
            (r#"{"key":"a","start":-1}"#.to_owned(), "`start`"),
            (r#"{"key":"a","start":9223372036854775808}"#.to_owned(), "`start`"),
            (r#"{"key":"a","end":9223372036854775808}"#.to_owned(), "`end`"),
            (r#"{"key":"a","credit":1e30}"#.to_owned(), "`credit`"),
            (r#"{"key":"a","credit":18446744073709551616}"#.to_owned(), "`credit`"),
            (r#"{"key":"a","chunk_max":0}"#.to_owned(), "`chunk_max`"),
            (r#"{"key":"a","keeps_alive":1}"#.to_owned(), "keeps_alive"),
            (r#"{"key":"a","if_match":""}"#.to_owned(), "`if_match`"),
            (format!(r#"{{"key":"a","context":"{context}"}}"#), "`context`"),
            (r#"{"key":"a","context":"a\r\nB: c"}"#.to_owned(), "`context`"),
        ] {
            let (code, message) = refused(&body);
            assert_eq!(code, Code::BadRequest, "{body}");
            assert!(message.contains(field), "{message:?} does not name {field} for {body}");
        }
    }

    #[test]
    fn start_past_end_is_a_range_error() {
        assert_eq!(refused(r#"{"key":"a","start":2,"end":1}"#).0, Code::Range);
    }

    proptest! {
        #[test]
        fn any_body_is_parsed_or_refused(body in vec(any::<u8>(), 0..200)) {
            parse_as_everything(&body)?;
        }

        #[test]
        fn any_json_is_parsed_or_refused(
            fields in vec(
                ("(v|key|start|end|if_match|version_id|credit|chunk_max|context|keeps_alive|prefix|limit|token|cancel)",
                 r#"([0-9]{1,21}|-[0-9]{1,5}|[0-9]\.[0-9]e[0-9]{1,3}|"[a-z \\]{0,9}"|null|true|\[\]|\{\})"#),
                0..6,
            ),
        ) {
            let fields: Vec<_> = fields.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            parse_as_everything(format!("{{{}}}", fields.join(",")).as_bytes())?;
        }
    }

    /// Parses a body as every kind of request, and holds what is taken against the limits.
    fn parse_as_everything(body: &[u8]) -> Result<(), TestCaseError> {
        if let Ok(request) = GetRequest::parse(body) {
            for offset in [Some(request.start), request.end, request.credit, request.chunk_max].into_iter().flatten() {
                prop_assert!(offset <= OFFSET_MAX);
            }
            prop_assert!(request.end.is_none_or(|end| request.start <= end));
            prop_assert!(request.chunk_max != Some(0));
            let again = serde_json::to_vec(&request).unwrap();
            prop_assert_eq!(GetRequest::parse(&again), Ok(request));
        }
        if let Ok(control) = Control::parse(body) {
            prop_assert!(control.credit <= OFFSET_MAX);
        }
        if let Ok(request) = ListRequest::parse(body) {
            prop_assert!(request.limit != Some(0));
        }
        if let Ok(request) = StatRequest::parse(body) {
            prop_assert!(request.key.as_str().len() <= Key::MAX_BYTES);
        }
        Ok(())
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
