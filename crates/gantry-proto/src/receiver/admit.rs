//! Checks whether a consumer may act on a relay's `accepted`.

use super::super::answer::Accepted;
use super::super::check;
use super::super::limits::{CHUNK_MIN_BYTES, OFFSET_MAX, WINDOW_MIN_BYTES};
use super::super::names::{Key, TransferId};
use super::super::object::{ObjectInfo, Span};
use super::super::subject::{Prefix, is_instance};

/// Checks the identities in an `accepted`. After this check, the consumer may publish to the control subject.
///
/// That subject must be the one of this prefix, instance and transfer. A relay that could choose it freely could make a
/// consumer publish to any subject that it has permission for.
///
/// # Errors
/// A description of the violation, for users.
pub(super) fn check_identity(
    accepted: &Accepted,
    transfer: Option<TransferId>,
    prefix: &Prefix,
    key: &Key,
) -> Result<(), String> {
    if transfer != Some(accepted.transfer) {
        return Err("its `accepted` names another transfer than its header".to_owned());
    }
    if !is_instance(&accepted.instance) {
        return Err("its instance is not a subject token".to_owned());
    }
    if accepted.control != prefix.control(&accepted.instance, accepted.transfer) {
        return Err("its control subject is not the one of its transfer".to_owned());
    }
    if accepted.object.key != *key {
        return Err("it accepted another key than the requested one".to_owned());
    }
    check::object(&accepted.object).map_err(|malformed| malformed.to_string())
}

/// Checks the terms in an `accepted`: the range, and the numbers that drive the transfer. `begun` is the version of
/// earlier bytes.
///
/// # Errors
/// A description of the violation, for users.
pub(super) fn check_terms(
    accepted: &Accepted,
    span: Span,
    chunk_max: u64,
    begun: Option<&ObjectInfo>,
) -> Result<(), String> {
    if span.resolve(accepted.object.size) != Some(accepted.start..accepted.end) {
        return Err(format!("it accepted {}..{} instead of the requested range", accepted.start, accepted.end));
    }
    if accepted.chunk_max == 0 || accepted.chunk_max > chunk_max.max(CHUNK_MIN_BYTES) {
        return Err(format!("its chunk_max {} is not within 1 to {chunk_max}", accepted.chunk_max));
    }
    if !(WINDOW_MIN_BYTES..=OFFSET_MAX).contains(&accepted.window_max) {
        return Err(format!("its window_max {} is not within {WINDOW_MIN_BYTES} to 2^63 - 1", accepted.window_max));
    }
    let Some(begun) = begun else { return Ok(()) };
    if let (Some(was), Some(is)) = (&begun.version_id, &accepted.object.version_id)
        && was != is
    {
        return Err("it accepted another version than the requested one".to_owned());
    }
    if begun.contradicts(&accepted.object) {
        return Err("it states another checksum of the same version".to_owned());
    }
    Ok(())
}
