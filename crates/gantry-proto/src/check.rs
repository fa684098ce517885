//! Checks what a relay reports about objects against the bounds in [`limits`](super::limits).

use std::collections::BTreeMap;

use super::answer::ListPage;
use super::error::{Code, Malformed, WireError};
use super::limits::{
    CHECKSUM_MAX_BYTES, DESCRIPTION_MAX_BYTES, METADATA_MAX_BYTES, OFFSET_MAX, PAGE_MAX, PART_RUNS_MAX,
    TOKEN_MAX_BYTES, VERSION_MAX_BYTES,
};
use super::names::Key;
use super::object::{Checksum, ObjectInfo};
use super::request::ListRequest;

/// Checks an object's description.
///
/// # Errors
/// [`Malformed`] names the member that is out of bounds.
pub fn object(object: &ObjectInfo) -> Result<(), Malformed> {
    if object.size > OFFSET_MAX {
        return Err(Malformed::new("`size` is beyond 2^63 - 1"));
    }
    if !is_version(&object.etag) {
        return Err(Malformed::new("`etag` is empty, too long or contains control characters"));
    }
    if object.version_id.as_deref().is_some_and(|version| !is_version(version)) {
        return Err(Malformed::new("`version_id` is empty, too long or contains control characters"));
    }

    let texts = [&object.content_type, &object.last_modified];
    if texts.into_iter().flatten().any(|text| text.len() > DESCRIPTION_MAX_BYTES) {
        return Err(Malformed::new("`content_type` or `last_modified` is too long"));
    }
    if len(&object.metadata) > METADATA_MAX_BYTES || len(&object.headers) > METADATA_MAX_BYTES {
        return Err(Malformed::new("`metadata` or `headers` is too long"));
    }
    let checksums = [&object.checksum, &object.other_checksum];
    if checksums.into_iter().flatten().any(|checksum| !is_bounded(checksum)) {
        return Err(Malformed::new("`checksum` or `other_checksum` is too long"));
    }

    Ok(())
}

/// Prepares a store's description of an object for sending: removes optional members that are out of bounds.
///
/// # Errors
/// A `store_unavailable` that is not retryable and names the member, if a required member is out of bounds: a consumer
/// would reject the description, and retries would fail as well.
pub fn make_sendable(object: &mut ObjectInfo) -> Result<(), WireError> {
    trim(object);

    self::object(object).map_err(|malformed| WireError {
        retryable: false,
        ..WireError::new(Code::StoreUnavailable, format!("the store's description is unusable: {malformed}"))
    })
}

/// Removes the optional members of an object's description that are out of bounds.
pub fn trim(object: &mut ObjectInfo) {
    let fits = |text: &String| text.len() <= DESCRIPTION_MAX_BYTES;
    object.content_type = object.content_type.take().filter(fits);
    object.last_modified = object.last_modified.take().filter(fits);
    for texts in [&mut object.metadata, &mut object.headers] {
        if len(texts) > METADATA_MAX_BYTES {
            texts.clear();
        }
    }
    object.checksum = object.checksum.take().filter(is_bounded);
    object.other_checksum = object.other_checksum.take().filter(is_bounded);
}

/// Checks a page that answers `request`.
///
/// # Errors
/// [`Malformed`] describes the violation of the protocol.
pub fn page(page: &ListPage, request: &ListRequest) -> Result<(), Malformed> {
    let limit = usize::try_from(request.limit.unwrap_or(PAGE_MAX).min(PAGE_MAX)).unwrap_or(usize::MAX);
    let count = page.entries.len().saturating_add(page.prefixes.len());

    if count > limit {
        return Err(Malformed::new(format!("a page of {count} entries where at most {limit} were requested")));
    }

    let keys = page.entries.iter().map(|entry| &entry.key);
    if keys.chain(&page.prefixes).any(|key| !is_listed(key, &request.prefix)) {
        return Err(Malformed::new("a page with a name that was not requested, or that is not a valid key"));
    }
    if page.entries.iter().any(|entry| entry.size > OFFSET_MAX) {
        return Err(Malformed::new("a page with a size beyond 2^63 - 1"));
    }

    let is_bad = |token: &String| token.len() > TOKEN_MAX_BYTES || Some(token) == request.token.as_ref();
    if page.next.as_ref().is_some_and(is_bad) {
        return Err(Malformed::new("a page whose `next` is too long, or equals its own token"));
    }
    Ok(())
}

/// Removes names that are not valid keys from a store's page, and counts them as omitted. A consumer would reject the
/// whole page because of one of them.
pub fn trim_page(page: &mut ListPage, prefix: &str) {
    let before = page.entries.len() + page.prefixes.len();
    page.entries.retain(|entry| is_listed(&entry.key, prefix));
    page.prefixes.retain(|key| is_listed(key, prefix));

    let after = page.entries.len() + page.prefixes.len();
    page.omitted = page.omitted.saturating_add((before - after) as u64);
}

/// Returns whether a text is a valid `if_match` or `version_id`.
fn is_version(text: &str) -> bool {
    (1..=VERSION_MAX_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn is_bounded(checksum: &Checksum) -> bool {
    checksum.value.len() <= CHECKSUM_MAX_BYTES && checksum.parts.len() <= PART_RUNS_MAX
}

fn is_listed(key: &str, prefix: &str) -> bool {
    key.starts_with(prefix) && key.parse::<Key>().is_ok()
}

/// Returns the length of all names and values together, in bytes.
fn len(texts: &BTreeMap<String, String>) -> usize {
    texts.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum()
}

#[cfg(test)]
mod tests {
    use super::super::answer::ListEntry;
    use super::super::object::{ChecksumAlgorithm, ChecksumKind, PartRun};
    use super::*;

    fn good() -> ObjectInfo {
        ObjectInfo {
            key: "k".parse().unwrap(),
            size: 1,
            etag: "\"1\"".to_owned(),
            version_id: Some("v".to_owned()),
            last_modified: Some("2026-01-02T03:04:05Z".to_owned()),
            content_type: Some("text/plain".to_owned()),
            headers: [("expires".to_owned(), "0".to_owned())].into(),
            metadata: [("colour".to_owned(), "blue".to_owned())].into(),
            other_checksum: None,
            stale_s: None,
            checksum: Some(Checksum {
                algorithm: ChecksumAlgorithm::Sha1,
                kind: ChecksumKind::Composite,
                value: "AAAA".to_owned(),
                parts: vec![PartRun { count: 1, size: 1 }],
            }),
        }
    }

    fn long(len: usize) -> String {
        "x".repeat(len)
    }

    #[test]
    fn a_description_out_of_bounds_is_rejected_or_trimmed() {
        assert_eq!(object(&good()), Ok(()));

        let checksum = good().checksum.unwrap();
        let many = vec![PartRun { count: 1, size: 1 }; PART_RUNS_MAX + 1];

        for (needed, wrong) in [
            (true, ObjectInfo { size: OFFSET_MAX + 1, ..good() }),
            (true, ObjectInfo { etag: String::new(), ..good() }),
            (true, ObjectInfo { etag: long(VERSION_MAX_BYTES + 1), ..good() }),
            (true, ObjectInfo { etag: "\"1\"\r\n".to_owned(), ..good() }),
            (true, ObjectInfo { version_id: Some(String::new()), ..good() }),
            (false, ObjectInfo { content_type: Some(long(DESCRIPTION_MAX_BYTES + 1)), ..good() }),
            (false, ObjectInfo { last_modified: Some(long(DESCRIPTION_MAX_BYTES + 1)), ..good() }),
            (false, ObjectInfo { metadata: [(long(9), long(METADATA_MAX_BYTES))].into(), ..good() }),
            (false, ObjectInfo { headers: [(long(9), long(METADATA_MAX_BYTES))].into(), ..good() }),
            (false, ObjectInfo { checksum: Some(Checksum { parts: many, ..checksum.clone() }), ..good() }),
            (
                false,
                ObjectInfo { checksum: Some(Checksum { value: long(CHECKSUM_MAX_BYTES + 1), ..checksum }), ..good() },
            ),
        ] {
            assert!(object(&wrong).is_err(), "{wrong:?}");
            let mut trimmed = wrong;
            trim(&mut trimmed);
            assert_eq!(object(&trimmed).is_err(), needed);
        }
    }

    #[test]
    fn a_page_contains_only_what_was_requested() {
        let entry = |key: &str, size| ListEntry { key: key.to_owned(), size, etag: None, last_modified: None };
        let request = ListRequest {
            prefix: "a/".to_owned(),
            limit: Some(2),
            token: Some("t".to_owned()),
            ..ListRequest::default()
        };
        let good = ListPage {
            entries: vec![entry("a/b", 1)],
            prefixes: vec!["a/c/".to_owned()],
            next: Some("u".to_owned()),
            omitted: 0,
        };

        assert_eq!(page(&good, &request), Ok(()));

        for wrong in [
            ListPage { entries: vec![entry("a/b", 1); 2], ..good.clone() },
            ListPage { entries: vec![entry("b", 1)], ..good.clone() },
            ListPage { entries: vec![entry("a/\n", 1)], ..good.clone() },
            ListPage { entries: vec![entry(&format!("a/{}", long(1024)), 1)], ..good.clone() },
            ListPage { entries: vec![entry("a/b", OFFSET_MAX + 1)], ..good.clone() },
            ListPage { prefixes: vec!["../".to_owned()], ..good.clone() },
            ListPage { next: Some(long(TOKEN_MAX_BYTES + 1)), ..good.clone() },
            ListPage { next: Some("t".to_owned()), ..good },
        ] {
            assert!(page(&wrong, &request).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_description_that_no_consumer_accepts_is_a_final_error() {
        for etag in ["", "\"a\u{9b}31m\"", &"x".repeat(VERSION_MAX_BYTES + 1)] {
            let mut object = good();
            object.etag = etag.to_owned();
            let error = make_sendable(&mut object).unwrap_err();
            assert!(!error.retryable && error.message.contains("`etag`"), "{error:?}");
        }
    }

    #[test]
    fn an_invalid_name_does_not_fail_the_page() {
        let entry = |key: &str| ListEntry { key: key.to_owned(), size: 1, etag: None, last_modified: None };
        let mut found = ListPage {
            entries: vec![entry("a/\n"), entry("a/b")],
            prefixes: vec!["a/\r/".to_owned(), "a/c/".to_owned()],
            next: None,
            omitted: 1,
        };
        trim_page(&mut found, "a/");
        assert_eq!(
            found,
            ListPage { entries: vec![entry("a/b")], prefixes: vec!["a/c/".to_owned()], next: None, omitted: 3 }
        );
    }
}
