//! Reads descriptions of objects from the headers of S3's answers.

use std::collections::HashMap;
use std::ops::Range;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_sdk_s3::types::{ChecksumType, ServerSideEncryption};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Error;
use crate::headers::{content_range, quoted, stored_headers};
use crate::ranged::{About, excerpt};
use gantry_proto::limits::{OFFSET_MAX, VERSION_MAX_BYTES};
use gantry_proto::{Checksum, ChecksumAlgorithm, ChecksumKind, Key, ObjectInfo, Pin, STORED_HEADERS};

/// The fields that GET and HEAD have in common.
struct Head<'a> {
    size: Option<u64>,
    etag: Option<&'a str>,
    version_id: Option<&'a str>,
    last_modified: Option<&'a DateTime>,
    content_type: Option<&'a str>,
    /// In the order of [`STORED_HEADERS`].
    headers: [Option<&'a str>; 5],
    metadata: Option<&'a HashMap<String, String>>,
    checksum: Option<Checksum>,
    other_checksum: Option<Checksum>,
    encryption: Option<&'a ServerSideEncryption>,
}

/// Copies the fields that both answers have under the same names.
macro_rules! head {
    ($output:expr, $size:expr, $checksum:expr, $other_checksum:expr) => {
        Head {
            size: $size,
            etag: $output.e_tag(),
            version_id: $output.version_id(),
            last_modified: $output.last_modified(),
            content_type: $output.content_type(),
            headers: [
                $output.cache_control(),
                $output.content_disposition(),
                $output.content_encoding(),
                $output.content_language(),
                $output.expires_string(),
            ],
            metadata: $output.metadata(),
            checksum: $checksum,
            other_checksum: $other_checksum,
            encryption: $output.server_side_encryption(),
        }
    };
}

/// Returns the checksum of an un-ranged answer, preferably one that is cheap to verify.
macro_rules! checksum {
    ($output:expr) => {
        [
            (ChecksumAlgorithm::Crc64Nvme, $output.checksum_crc64_nvme()),
            (ChecksumAlgorithm::Crc32c, $output.checksum_crc32_c()),
            (ChecksumAlgorithm::Crc32, $output.checksum_crc32()),
            (ChecksumAlgorithm::Sha256, $output.checksum_sha256()),
            (ChecksumAlgorithm::Sha1, $output.checksum_sha1()),
        ]
        .into_iter()
        .find_map(|(algorithm, value)| {
            checksum(algorithm, value?, $output.checksum_type(), $output.e_tag().unwrap_or_default())
        })
    };
}

/// Returns the checksum of an un-ranged answer that older consumers don't know.
macro_rules! other_checksum {
    ($output:expr) => {
        [
            (ChecksumAlgorithm::Sha512, $output.checksum_sha512()),
            (ChecksumAlgorithm::Md5, $output.checksum_md5()),
            (ChecksumAlgorithm::Xxhash3, $output.checksum_xxhash3()),
            (ChecksumAlgorithm::Xxhash128, $output.checksum_xxhash128()),
            (ChecksumAlgorithm::Xxhash64, $output.checksum_xxhash64()),
        ]
        .into_iter()
        .find_map(|(algorithm, value)| {
            checksum(algorithm, value?, $output.checksum_type(), $output.e_tag().unwrap_or_default())
        })
    };
}

/// Describes an object from a HEAD with checksum mode.
pub(super) fn of_head(key: &Key, pin: &Pin, output: &HeadObjectOutput, what: &About) -> Result<ObjectInfo, Error> {
    let size = output.content_length().and_then(|len| u64::try_from(len).ok());
    describe(key, pin, head!(output, size, checksum!(output), other_checksum!(output)), what)
}

/// Describes an object from an un-ranged GET with checksum mode.
pub(super) fn of_whole(key: &Key, pin: &Pin, output: &GetObjectOutput, what: &About) -> Result<ObjectInfo, Error> {
    let size = output.content_length().and_then(|len| u64::try_from(len).ok());
    describe(key, pin, head!(output, size, checksum!(output), other_checksum!(output)), what)
}

/// Describes an object from a ranged GET, which has no checksum, and returns the range of the body.
///
/// The range is compared with the one that was `asked` for. Its end is exclusive; `None` is the object's end.
pub(super) fn of_range(
    key: &Key,
    pin: &Pin,
    asked: (u64, Option<u64>),
    output: &GetObjectOutput,
    what: &About,
) -> Result<(ObjectInfo, Range<u64>), Error> {
    let Some(text) = output.content_range() else {
        return Err(Error::Protocol(format!("{what}: S3 ignores the requested range")));
    };
    let Some((range, size)) = content_range(text) else {
        return Err(Error::Protocol(format!("{what}: S3 sends an invalid Content-Range, {}", excerpt(text))));
    };

    let (start, end) = asked;
    let end = end.map_or(size, |end| end.min(size));
    if range != (start..end) {
        return Err(Error::Protocol(format!(
            "{what}: S3 sends {}, but bytes from {start} to {end} were requested",
            excerpt(text)
        )));
    }

    // A body of another length would be detected later. If the length is announced, it is detected now. Unlike another
    // range, it may be the fault of a proxy that is broken for a while.
    let len = output.content_length().and_then(|len| u64::try_from(len).ok());
    if len.is_some_and(|len| len != end - start) {
        return Err(Error::unavailable(format!("{what}: S3 sends {}, but announces another length", excerpt(text))));
    }

    Ok((describe(key, pin, head!(output, Some(size), None, None), what)?, range))
}

fn describe(key: &Key, pin: &Pin, head: Head<'_>, what: &About) -> Result<ObjectInfo, Error> {
    let Some(size) = head.size.filter(|size| *size <= OFFSET_MAX) else {
        return Err(Error::Protocol(format!("{what}: S3 sends no valid size")));
    };
    let Some(etag) = head.etag.filter(|etag| !etag.is_empty()) else {
        return Err(Error::Protocol(format!("{what}: S3 sends no ETag")));
    };
    let versions = [Some(etag), head.version_id];
    if let Some(long) = versions.into_iter().flatten().find(|text| text.len() > VERSION_MAX_BYTES) {
        return Err(Error::Protocol(format!("{what}: S3 sends an ETag or a version id of {} bytes", long.len())));
    }

    // Checked here too, because some stores ignore If-Match.
    let etag = quoted(etag);
    if let Some(expected) = &pin.if_match
        && quoted(expected) != etag
    {
        return Err(Error::Changed(format!("{what}: has ETag {}, not {expected}", excerpt(&etag))));
    }
    if let Some(expected) = &pin.version_id
        && head.version_id != Some(expected)
    {
        let message = format!("{what}: no version {expected:?}");
        return Err(if pin.if_match.is_some() { Error::Changed(message) } else { Error::NotFound(message) });
    }

    let other_checksum = head.other_checksum.or_else(|| md5_of_etag(&etag, head.encryption));

    let mut object = ObjectInfo::new(key.clone(), size, etag);
    object.version_id = head.version_id.map(str::to_owned);
    object.last_modified = head.last_modified.and_then(rfc3339);
    object.content_type = head.content_type.map(str::to_owned);
    object.headers = stored_headers(STORED_HEADERS.into_iter().zip(head.headers));
    object.metadata = head.metadata.map(|map| map.clone().into_iter().collect()).unwrap_or_default();
    object.other_checksum = other_checksum.filter(|_| head.checksum.is_none());
    object.checksum = head.checksum;
    Ok(object)
}

pub(super) fn rfc3339(time: &DateTime) -> Option<String> {
    time.fmt(DateTimeFormat::DateTime).ok()
}

/// Parses a stored checksum. Returns `None` if it is unknown what the value covers: with a wrong guess, correct bytes
/// would fail the check.
fn checksum(algorithm: ChecksumAlgorithm, value: &str, kind: Option<&ChecksumType>, etag: &str) -> Option<Checksum> {
    let (digest, parts) = value.split_once('-').map_or((value, None), |(digest, parts)| (digest, Some(parts)));
    // S3 marks a multipart upload in its ETag. Older stores do not mark the composite checksum of such an object.
    let may_be_composite = etag.contains('-') && algorithm != ChecksumAlgorithm::Crc64Nvme;
    let kind = match kind {
        Some(ChecksumType::Composite) => ChecksumKind::Composite,
        _ if parts.is_some() => ChecksumKind::Composite,
        Some(ChecksumType::FullObject) => ChecksumKind::FullObject,
        None if !may_be_composite => ChecksumKind::FullObject,
        _ => return None,
    };
    Some(Checksum { algorithm, kind, value: digest.to_owned(), parts: Vec::new() })
}

/// Returns the MD5 that an `ETag` probably is: that of an object uploaded in one request, and not encrypted with a key of
/// KMS. Source: the S3 API reference, "Object", `ETag`.
fn md5_of_etag(etag: &str, encryption: Option<&ServerSideEncryption>) -> Option<Checksum> {
    let is_plain = matches!(encryption, None | Some(ServerSideEncryption::Aes256));
    let digits = etag.trim_matches('"');
    if !is_plain || digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }

    let digest = u128::from_str_radix(digits, 16).ok()?.to_be_bytes();
    let (algorithm, kind) = (ChecksumAlgorithm::Md5, ChecksumKind::Etag);
    Some(Checksum { algorithm, kind, value: STANDARD.encode(digest), parts: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_of_another_length_than_its_range_is_temporary() {
        let answer =
            |len| GetObjectOutput::builder().content_range("bytes 0-9/20").content_length(len).e_tag("\"a\"").build();
        let key: Key = "a".parse().unwrap();
        let read = |len| of_range(&key, &Pin::default(), (0, Some(10)), &answer(len), &crate::ranged::about_key(&key));

        assert_eq!(read(10).unwrap().1, 0..10);
        assert!(read(4).unwrap_err().is_retryable());
    }

    #[test]
    fn an_etag_is_an_md5_only_of_a_single_upload_without_a_key_of_kms() {
        let etag = "\"900150983cd24fb0d6963f7d28e17f72\"";
        let value = |etag, encryption: Option<ServerSideEncryption>| {
            md5_of_etag(etag, encryption.as_ref()).map(|checksum| checksum.value)
        };
        let md5 = Some("kAFQmDzST7DWlj99KOF/cg==".to_owned());

        assert_eq!(value(etag, None), md5);
        assert_eq!(value(etag, Some(ServerSideEncryption::Aes256)), md5);
        assert_eq!(value(etag, Some(ServerSideEncryption::AwsKms)), None);
        for other in ["\"900150983cd24fb0d6963f7d28e17f72-2\"", "\"9001\"", "\"+00150983cd24fb0d6963f7d28e17f72\"", ""]
        {
            assert_eq!(value(other, None), None, "{other}");
        }
    }

    #[test]
    fn a_checksum_is_used_only_if_its_coverage_is_known() {
        let kind = |value, kind: Option<&ChecksumType>, etag| {
            checksum(ChecksumAlgorithm::Sha256, value, kind, etag).map(|checksum| checksum.kind)
        };
        let (full, composite) = (Some(&ChecksumType::FullObject), Some(&ChecksumType::Composite));
        assert_eq!(kind("abc=", None, "\"e\""), Some(ChecksumKind::FullObject));
        assert_eq!(kind("abc=", full, "\"e-2\""), Some(ChecksumKind::FullObject));
        assert_eq!(kind("abc=-2", None, "\"e-2\""), Some(ChecksumKind::Composite));
        assert_eq!(kind("abc=", composite, "\"e-2\""), Some(ChecksumKind::Composite));
        assert_eq!(kind("abc=", None, "\"e-2\""), None);
        let crc = checksum(ChecksumAlgorithm::Crc64Nvme, "abc=", None, "\"e-2\"").unwrap();
        assert_eq!(crc.kind, ChecksumKind::FullObject);
    }
}
