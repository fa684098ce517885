//! The headers that describe an object.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{
    ACCEPT_RANGES, AGE, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, EXPIRES, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED,
};

use gantry_proto::{Checksum, ChecksumAlgorithm, ChecksumKind, ObjectInfo};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::condition::Validators;
use crate::date;
use crate::etag::EntityTag;
use crate::target::Query;

/// The media type of objects whose type is neither stored nor known by their name.
const UNKNOWN_TYPE: &str = "application/octet-stream";

/// The length of an MD5 in hexadecimal digits.
const MD5_HEX_LEN: usize = 32;

/// What S3 lets a query override, and the header.
pub(crate) const OVERRIDES: [(&str, HeaderName); 6] = [
    ("response-content-type", CONTENT_TYPE),
    ("response-content-disposition", CONTENT_DISPOSITION),
    ("response-content-language", CONTENT_LANGUAGE),
    ("response-content-encoding", CONTENT_ENCODING),
    ("response-cache-control", CACHE_CONTROL),
    ("response-expires", EXPIRES),
];

/// The characters of a file's name that need no escape. Source: RFC 8187, section 3.2.1, `attr-char`.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_');

/// Returns what a version is compared by.
pub(crate) fn validators(object: &ObjectInfo) -> Validators {
    let modified = object.last_modified.as_deref().and_then(date::parse);
    Validators { etag: EntityTag::of_store(&object.etag), modified: modified.map(time::OffsetDateTime::unix_timestamp) }
}

/// Returns the headers that identify a version, which a 304 has as well.
pub(crate) fn version(object: &ObjectInfo) -> HeaderMap {
    let mut headers = HeaderMap::new();
    insert(&mut headers, ETAG, &EntityTag::of_store(&object.etag).text());

    if let Some(modified) = object.last_modified.as_deref().and_then(date::parse) {
        insert(&mut headers, LAST_MODIFIED, &date::http(modified));
    }
    if let Some(version) = &object.version_id {
        insert(&mut headers, HeaderName::from_static("x-amz-version-id"), version);
    }
    if let Some(stale_s) = object.stale_s {
        headers.insert(AGE, HeaderValue::from(stale_s));
    }
    // A client that keeps the object learns for how much longer: RFC 9110, section 15.4.5.
    stored(object, &[CACHE_CONTROL, EXPIRES], &mut headers);
    headers
}

/// Returns all headers of an object that do not depend on the requested range.
pub(crate) fn object(object: &ObjectInfo, query: &Query) -> HeaderMap {
    let mut headers = version(object);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // A browser must not take a file for a script because of its content.
    headers.insert(hyper::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    insert(&mut headers, CONTENT_TYPE, &content_type(object));
    stored(object, &[CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE], &mut headers);
    metadata(object, &mut headers);

    if query.has("download") {
        let name = query.value("download").filter(|name| !name.is_empty()).unwrap_or_else(|| file_name(object));
        insert(&mut headers, CONTENT_DISPOSITION, &attachment(name));
    }
    for (parameter, name) in OVERRIDES {
        if let Some(value) = query.value(parameter) {
            insert(&mut headers, name, value);
        }
    }
    // Without access keys anybody can make such a link, under which a file could be a page with scripts.
    if query.has("response-content-type") {
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    }
    headers
}

/// Adds headers that the store keeps with the object. Others that it states are not those of an object.
fn stored(object: &ObjectInfo, names: &[HeaderName], headers: &mut HeaderMap) {
    for name in names {
        if let Some(value) = object.headers.get(name.as_str()) {
            insert(headers, name.clone(), value);
        }
    }
}

/// Adds the stored checksum of the whole object in S3's form. `etag` tells how many parts a composite one has.
pub(crate) fn checksum(object: &ObjectInfo, headers: &mut HeaderMap) {
    let Some((name, value, kind)) = stored_checksum(object) else { return };
    if let Ok(name) = HeaderName::try_from(format!("x-amz-checksum-{}", name.to_ascii_lowercase())) {
        insert(headers, name, &value);
        insert(headers, HeaderName::from_static("x-amz-checksum-type"), kind);
    }
}

/// Returns the name of the algorithm, the value and the kind of the stored checksum as S3 writes them. Returns `None` if
/// there is no checksum, or if S3's clients do not know its algorithm.
pub(crate) fn stored_checksum(object: &ObjectInfo) -> Option<(&'static str, String, &'static str)> {
    let checksum = object.stated_checksum()?;
    if checksum.algorithm == ChecksumAlgorithm::Unknown {
        return None;
    }

    let name = checksum.algorithm.name();
    match checksum.kind {
        ChecksumKind::FullObject => Some((name, checksum.value.clone(), "FULL_OBJECT")),
        ChecksumKind::Composite => {
            let parts = part_count(checksum, object)?;
            Some((name, format!("{}-{parts}", checksum.value), "COMPOSITE"))
        }
        // It is the ETag, which has a header of its own.
        ChecksumKind::Etag => None,
    }
}

fn part_count(checksum: &Checksum, object: &ObjectInfo) -> Option<u64> {
    if checksum.parts.is_empty() {
        return etag_parts(object);
    }
    checksum.parts.iter().try_fold(0_u64, |sum, run| sum.checked_add(run.count))
}

/// Returns the number of parts that an `ETag` such as `"…-12"` states. Source: the S3 user guide, "Checking object
/// integrity", "Using part-level checksums for multipart uploads".
pub(crate) fn etag_parts(object: &ObjectInfo) -> Option<u64> {
    let (digest, count) = object.etag.trim_matches('"').rsplit_once('-')?;
    // Other stores have ETags with a dash, too.
    if digest.len() != MD5_HEX_LEN || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    count.parse().ok().filter(|count| (1..=10_000).contains(count))
}

fn content_type(object: &ObjectInfo) -> String {
    let stored =
        object.content_type.as_ref().filter(|stored| !stored.is_empty() && HeaderValue::from_str(stored).is_ok());
    if let Some(stored) = stored {
        return stored.clone();
    }
    mime_guess::from_path(object.key.as_str()).first_raw().unwrap_or(UNKNOWN_TYPE).to_owned()
}

/// Adds the user's metadata. What can't be a header is counted, as in S3.
fn metadata(object: &ObjectInfo, headers: &mut HeaderMap) {
    let mut missing = 0_u64;
    for (name, value) in &object.metadata {
        let Ok(name) = HeaderName::try_from(format!("x-amz-meta-{name}")) else {
            missing += 1;
            continue;
        };
        // Source: RFC 2047, which S3 uses for values that are not ASCII.
        let is_plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let value = if is_plain { value.clone() } else { format!("=?UTF-8?B?{}?=", STANDARD.encode(value)) };
        insert(headers, name, &value);
    }

    if missing > 0 {
        headers.insert("x-amz-missing-meta", HeaderValue::from(missing));
    }
}

/// Returns the last segment of a key.
fn file_name(object: &ObjectInfo) -> &str {
    object.key.as_str().trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// Source: RFC 6266.
fn attachment(name: &str) -> String {
    format!("attachment; filename*=UTF-8''{}", utf8_percent_encode(name, NAME))
}

/// Inserts a header, unless its value can't be one.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use gantry_proto::PartRun;

    use super::*;

    fn of(key: &str) -> ObjectInfo {
        ObjectInfo::new(key.parse().unwrap(), 4, "\"77f9b0e1b5f2a4c6d8e0f1a2b3c4d5e6-2\"".to_owned())
    }

    fn value(headers: &HeaderMap, name: &str) -> Option<String> {
        headers.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_type_is_stored_or_guessed() {
        let described = |object: &ObjectInfo| value(&super::object(object, &Query::default()), "content-type").unwrap();
        assert_eq!(described(&of("a.json")), "application/json");
        assert_eq!(described(&of("a/model")), "application/octet-stream");

        let mut stored = of("a.json");
        stored.content_type = Some("text/x-own".to_owned());
        assert_eq!(described(&stored), "text/x-own");
        let mut invalid = of("a.json");
        invalid.content_type = Some("a\r\nb: c".to_owned());
        assert_eq!(described(&invalid), "application/json");
    }

    /// RFC 9111, section 5.1.
    #[test]
    fn a_version_from_a_cache_without_its_store_has_an_age() {
        let mut object = of("a");
        assert_eq!(value(&version(&object), "age"), None);
        object.stale_s = Some(312);
        assert_eq!(value(&version(&object), "age").unwrap(), "312");
        assert_eq!(value(&super::object(&object, &Query::default()), "age").unwrap(), "312");
    }

    #[test]
    fn metadata_that_can_not_be_a_header_is_encoded_or_counted() {
        let mut object = of("a");
        for (name, text) in [("plain", "b c"), ("wide", "é\n"), ("not a name", "d")] {
            object.metadata.insert(name.to_owned(), text.to_owned());
        }
        let headers = super::object(&object, &Query::default());
        assert_eq!(value(&headers, "x-amz-meta-plain").unwrap(), "b c");
        assert_eq!(value(&headers, "x-amz-meta-wide").unwrap(), "=?UTF-8?B?w6kK?=");
        assert_eq!(value(&headers, "x-amz-missing-meta").unwrap(), "1");
    }

    #[test]
    fn only_an_etag_of_s3_states_a_number_of_parts() {
        for (etag, parts) in [
            ("\"77f9b0e1b5f2a4c6d8e0f1a2b3c4d5e6-3\"", Some(3)),
            ("\"77f9b0e1b5f2a4c6d8e0f1a2b3c4d5e6-10001\"", None),
            ("\"77f9b0e1b5f2a4c6d8e0f1a2b3c4d5e6\"", None),
            // That of a file of 16 bytes in a directory.
            ("\"187c3a1d2b4f5a60-10\"", None),
        ] {
            let mut object = of("a");
            object.etag = etag.to_owned();
            assert_eq!(etag_parts(&object), parts, "{etag}");
        }
    }

    #[test]
    fn composite_checksums_name_their_number_of_parts() {
        let checksum = Checksum {
            algorithm: ChecksumAlgorithm::Sha256,
            kind: ChecksumKind::Composite,
            value: "AA==".to_owned(),
            parts: vec![PartRun { count: 3, size: 1 }, PartRun { count: 1, size: 1 }],
        };
        let mut known = of("a");
        known.checksum = Some(checksum.clone());
        assert_eq!(stored_checksum(&known), Some(("SHA256", "AA==-4".to_owned(), "COMPOSITE")));

        let mut unknown = of("a");
        unknown.checksum = Some(Checksum { parts: Vec::new(), ..checksum });
        assert_eq!(stored_checksum(&unknown), Some(("SHA256", "AA==-2".to_owned(), "COMPOSITE")));
    }

    #[test]
    fn a_download_has_the_keys_last_segment_as_its_name() {
        assert_eq!(attachment(file_name(&of("a/b\"é.txt"))), "attachment; filename*=UTF-8''b%22%C3%A9.txt");
    }
}
