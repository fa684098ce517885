//! Reads descriptions of objects from the heads of answers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::SystemTime;

use hyper::HeaderMap;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Checksums, Cloud, Refusal};
use crate::Error;
use crate::headers::{content_range, quoted, stored_headers};
use crate::ranged::{About, excerpt};
use gantry_proto::limits::{OFFSET_MAX, VERSION_MAX_BYTES};
use gantry_proto::{Key, ObjectInfo, Pin, STORED_HEADERS};

/// Neither cloud stores it. Google computes one for each answer.
const EXPIRES: &str = "expires";

/// Returns a header's value. Returns `None` if the header is missing, repeated with other values, or not ASCII.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.all(|value| value == first).then(|| first.to_str().ok()).flatten().map(str::trim)
}

/// Describes an object by the head of an answer without a part of it.
pub(super) fn of_whole<C: Cloud>(key: &Key, pin: &Pin, headers: &HeaderMap, what: &About) -> Result<ObjectInfo, Error> {
    let size = header(headers, "content-length").and_then(|len| len.parse().ok());
    describe::<C>(key, pin, headers, size, false, what)
}

/// Describes an object by the head of an answer with a range of it, and returns the range.
///
/// The range is compared with the one that was `asked` for. Its end is exclusive; `None` is the object's end.
pub(super) fn of_range<C: Cloud>(
    key: &Key,
    pin: &Pin,
    asked: (u64, Option<u64>),
    headers: &HeaderMap,
    what: &About,
) -> Result<(ObjectInfo, Range<u64>), Error> {
    let Some(text) = header(headers, "content-range") else {
        return Err(Error::Protocol(format!("{what}: {} ignores the requested range", C::NAME)));
    };
    let Some((range, size)) = content_range(text) else {
        let text = excerpt(text);
        return Err(Error::Protocol(format!("{what}: {} sends an invalid Content-Range, {text}", C::NAME)));
    };

    let (start, end) = asked;
    let end = end.map_or(size, |end| end.min(size));
    if range != (start..end) {
        return Err(Error::Protocol(format!(
            "{what}: {} sends {}, but bytes from {start} to {end} were requested",
            C::NAME,
            excerpt(text)
        )));
    }

    // A body of another length would be detected later. Unlike another range, it may be the fault of a proxy that is
    // broken for a while.
    let len = header(headers, "content-length").and_then(|len| len.parse::<u64>().ok());
    if len.is_some_and(|len| len != end - start) {
        let text = excerpt(text);
        return Err(Error::unavailable(format!("{what}: {} sends {text}, but announces another length", C::NAME)));
    }

    Ok((describe::<C>(key, pin, headers, Some(size), true, what)?, range))
}

fn describe<C: Cloud>(
    key: &Key,
    pin: &Pin,
    headers: &HeaderMap,
    size: Option<u64>,
    is_part: bool,
    what: &About,
) -> Result<ObjectInfo, Error> {
    let invalid = |problem: &str| Error::Protocol(format!("{what}: {} {problem}", C::NAME));
    match C::check_head(headers) {
        Ok(()) => {}
        Err(Refusal::Folder) => return Err(Error::NotFound(format!("{what}: is a folder, not an object"))),
        Err(Refusal::OtherEncoding) => return Err(invalid("sends the object in another encoding than the stored one")),
    }

    let size = size.filter(|size| *size <= OFFSET_MAX).ok_or_else(|| invalid("sends no valid size"))?;
    let etag = header(headers, "etag").filter(|etag| !etag.is_empty()).ok_or_else(|| invalid("sends no ETag"))?;
    let version_id = header(headers, C::VERSION);
    if [Some(etag), version_id].into_iter().flatten().any(|text| text.len() > VERSION_MAX_BYTES) {
        return Err(invalid("sends an ETag or a version of more than the maximum length"));
    }

    // Checked here too, because an emulator ignores If-Match.
    let etag = quoted(etag);
    if let Some(expected) = &pin.if_match
        && quoted(expected) != etag
    {
        return Err(Error::Changed(format!("{what}: has ETag {}, not {expected}", excerpt(&etag))));
    }
    if let Some(expected) = &pin.version_id
        && version_id != Some(expected)
    {
        let message = format!("{what}: no version {expected:?}");
        return Err(if pin.if_match.is_some() { Error::Changed(message) } else { Error::NotFound(message) });
    }

    let Checksums { checksum, other_checksum } = C::checksums(headers, is_part);
    let mut object = ObjectInfo::new(key.clone(), size, etag);
    object.version_id = version_id.map(str::to_owned);
    object.last_modified = header(headers, "last-modified").and_then(rfc3339);
    object.content_type = header(headers, "content-type").map(str::to_owned);
    let stored = STORED_HEADERS.into_iter().filter(|name| *name != EXPIRES);
    object.headers = stored_headers(stored.map(|name| (name, header(headers, name))));
    object.metadata = metadata(headers, C::METADATA);
    object.other_checksum = other_checksum.filter(|_| checksum.is_none());
    object.checksum = checksum;
    Ok(object)
}

/// Returns the user metadata: the headers with this prefix whose values are UTF-8.
fn metadata(headers: &HeaderMap, prefix: &str) -> BTreeMap<String, String> {
    let named = headers.iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix(prefix)?;
        Some((name.to_owned(), std::str::from_utf8(value.as_bytes()).ok()?.to_owned()))
    });

    let mut metadata = BTreeMap::new();
    for (name, value) in named {
        // RFC 9110, section 5.3: a repeated header is one list.
        metadata.entry(name).and_modify(|all: &mut String| *all = format!("{all}, {value}")).or_insert(value);
    }
    metadata
}

/// Converts a date of HTTP to RFC 3339.
pub(crate) fn rfc3339(date: &str) -> Option<String> {
    let time: SystemTime = httpdate::parse_http_date(date).ok()?;
    OffsetDateTime::from(time).format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn a_header_with_two_values_is_ambiguous() {
        let mut headers = HeaderMap::new();
        headers.append("etag", HeaderValue::from_static("\"1\""));
        assert_eq!(header(&headers, "etag"), Some("\"1\""));
        headers.append("etag", HeaderValue::from_static("\"1\""));
        assert_eq!(header(&headers, "etag"), Some("\"1\""));
        headers.append("etag", HeaderValue::from_static("\"2\""));
        assert_eq!(header(&headers, "etag"), None);
    }

    #[test]
    fn metadata_is_read_from_headers_with_its_prefix() {
        let mut headers = HeaderMap::new();
        headers.append("x-ms-meta-a", HeaderValue::from_bytes("é".as_bytes()).unwrap());
        headers.append("x-ms-meta-b", HeaderValue::from_static("1"));
        headers.append("x-ms-meta-b", HeaderValue::from_static("2"));
        headers.append("x-ms-meta-c", HeaderValue::from_bytes(b"\xe9").unwrap());
        headers.append("x-other", HeaderValue::from_static("x"));

        let found = metadata(&headers, "x-ms-meta-");
        let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, [("a", "é"), ("b", "1, 2")]);
    }

    #[test]
    fn dates_are_converted() {
        assert_eq!(rfc3339("Sat, 28 Nov 2026 21:30:12 GMT").as_deref(), Some("2026-11-28T21:30:12Z"));
        assert_eq!(rfc3339("yesterday"), None);
    }
}
