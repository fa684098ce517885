//! What the heads of S3's answers say about an object.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_sdk_s3::types::ChecksumType;

use crate::Error;
use crate::ranged::About;
use gantry_proto::{Checksum, ChecksumAlgorithm, ChecksumKind, Key, ObjectInfo, Pin};

/// The fields that GET and HEAD have in common.
struct Head<'a> {
    size: Option<u64>,
    etag: Option<&'a str>,
    version_id: Option<&'a str>,
    last_modified: Option<&'a DateTime>,
    content_type: Option<&'a str>,
    metadata: Option<&'a HashMap<String, String>>,
    checksum: Option<Checksum>,
}

/// Copies out of either answer what both have under the same names.
macro_rules! head {
    ($output:expr, $size:expr, $checksum:expr) => {
        Head {
            size: $size,
            etag: $output.e_tag(),
            version_id: $output.version_id(),
            last_modified: $output.last_modified(),
            content_type: $output.content_type(),
            metadata: $output.metadata(),
            checksum: $checksum,
        }
    };
}

/// Returns the checksum that an un-ranged answer holds. The order is that of what it costs to check.
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

/// Describes an object from a HEAD with checksum mode.
pub(super) fn of_head(key: &Key, pin: &Pin, output: &HeadObjectOutput, what: &About) -> Result<ObjectInfo, Error> {
    let size = output.content_length().and_then(|len| u64::try_from(len).ok());
    describe(key, pin, head!(output, size, checksum!(output)), what)
}

/// Describes an object from an un-ranged GET with checksum mode.
pub(super) fn of_whole(key: &Key, pin: &Pin, output: &GetObjectOutput, what: &About) -> Result<ObjectInfo, Error> {
    let size = output.content_length().and_then(|len| u64::try_from(len).ok());
    describe(key, pin, head!(output, size, checksum!(output)), what)
}

/// Describes an object from a ranged GET, which yields no checksum, and returns the range that it yields.
///
/// The range is held against what was `asked` for: an exclusive end, `None` for the object's.
pub(super) fn of_range(
    key: &Key,
    pin: &Pin,
    asked: (u64, Option<u64>),
    output: &GetObjectOutput,
    what: &About,
) -> Result<(ObjectInfo, Range<u64>), Error> {
    let Some(text) = output.content_range() else {
        return Err(Error::Protocol(format!("{what}: S3 ignores the range that was asked for")));
    };
    let Some((range, size)) = content_range(text) else {
        return Err(Error::Protocol(format!("{what}: S3 sends Content-Range {text:?}")));
    };
    let (start, end) = asked;
    let end = end.map_or(size, |end| end.min(size));
    if range != (start..end) {
        return Err(Error::Protocol(format!("{what}: S3 sends bytes {text}, but {start} to {end} were asked for")));
    }
    // A body that is shorter or longer than its range would be noticed later; where it is announced it is now.
    let len = output.content_length().and_then(|len| u64::try_from(len).ok());
    if len.is_some_and(|len| len != end - start) {
        return Err(Error::Protocol(format!("{what}: S3 sends bytes {text}, but another length")));
    }
    Ok((describe(key, pin, head!(output, Some(size), None), what)?, range))
}

fn describe(key: &Key, pin: &Pin, head: Head<'_>, what: &About) -> Result<ObjectInfo, Error> {
    let Some(size) = head.size else {
        return Err(Error::Protocol(format!("{what}: S3 names no size")));
    };
    let Some(etag) = head.etag.filter(|etag| !etag.is_empty()) else {
        return Err(Error::Protocol(format!("{what}: S3 names no ETag")));
    };
    // Checked here too, since there are stores that ignore If-Match.
    let etag = quoted(etag);
    if let Some(expected) = &pin.if_match
        && quoted(expected) != etag
    {
        return Err(Error::Changed(format!("{what}: has ETag {etag}, not {expected}")));
    }
    if let Some(expected) = &pin.version_id
        && head.version_id != Some(expected)
    {
        return Err(Error::NotFound(format!("{what}: no version {expected:?}")));
    }
    Ok(ObjectInfo {
        key: key.clone(),
        size,
        etag,
        version_id: head.version_id.map(str::to_owned),
        last_modified: head.last_modified.and_then(rfc3339),
        content_type: head.content_type.map(str::to_owned),
        metadata: head.metadata.map(|map| map.clone().into_iter().collect::<BTreeMap<_, _>>()).unwrap_or_default(),
        checksum: head.checksum,
    })
}

/// Returns an `ETag` as HTTP spells it. Some servers leave out the quotes in some of their answers, and a shell removes
/// them from an option.
pub(super) fn quoted(etag: &str) -> String {
    let is_quoted = etag.len() > 1 && etag.starts_with('"') && etag.ends_with('"');
    if is_quoted || etag.starts_with("W/") { etag.to_owned() } else { format!("\"{}\"", etag.trim_matches('"')) }
}

pub(super) fn rfc3339(time: &DateTime) -> Option<String> {
    time.fmt(DateTimeFormat::DateTime).ok()
}

/// Reads a stored checksum. `None` where it can't be told what the value covers: a wrong guess would call good bytes
/// wrong.
fn checksum(algorithm: ChecksumAlgorithm, value: &str, kind: Option<&ChecksumType>, etag: &str) -> Option<Checksum> {
    let (digest, parts) = value.split_once('-').map_or((value, None), |(digest, parts)| (digest, Some(parts)));
    // S3 marks an upload in parts in its ETag, and older stores send such an object's composite without a mark.
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

/// Reads `bytes first-last/size` into the range and the size.
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size) = (first.parse().ok()?, last.parse::<u64>().ok()?, size.parse().ok()?);
    let end = last.checked_add(1)?;
    (first < end && end <= size).then_some((first..end, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_range_is_read_strictly() {
        assert_eq!(content_range("bytes 2-4/9"), Some((2..5, 9)));
        for text in
            ["", "bytes */9", "bytes 2-4/*", "2-4/9", "bytes 4-2/9", "bytes 2-9/9", "bytes 0-18446744073709551615/9"]
        {
            assert_eq!(content_range(text), None, "{text}");
        }
    }

    #[test]
    fn a_checksum_is_used_only_when_it_is_known_what_it_covers() {
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
