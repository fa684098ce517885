//! The names of buckets and containers.

/// The forms of a store's address.
pub(super) const STORE_FORM: &str =
    "must be s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, nats:STORE or file:///dir";

pub(super) fn is_bucket(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=255).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// Source: Azure, "Naming and referencing containers, blobs, and metadata". Some containers have names of their own.
pub(super) fn is_container(name: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let is_ordinary = (3..=63).contains(&name.len()) && name.split('-').all(is_word);
    is_ordinary || matches!(name, "$web" | "$root" | "$logs")
}
