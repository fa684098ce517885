//! Addresses that contain a secret where no question mark precedes it. The messages repeat no part of it.

use super::without_query;
use crate::config::redact;

/// What to write for an address that contains the key of a storage account.
pub(in crate::config) const KEY_CURE: &str = "must be az://container/prefix with the account's name in `account`, and the key in a file that `account_key_file` \
     names";

/// Returns the part of an address before the segment of its path in which a signature begins. Returns `None` if there is
/// no signature in the path.
pub(in crate::config) fn before_signature(url: &str) -> Option<&str> {
    let (address, _) = without_query(url);
    if !redact::has_signature(address) {
        return None;
    }

    let start = address.find("://").map_or(0, |at| at + 3);
    let place = &address[start..];
    let parameters = place.find(['&', '='])?;
    let slash = place[..parameters].rfind('/')?;
    Some(&address[..start + slash])
}

/// Returns whether a valid address has parameters of a signature in its prefix. A prefix may well contain `sig=`.
pub(in crate::config) fn has_parameters_of_signature(url: &str) -> bool {
    let url = url.to_ascii_lowercase();
    let is_sas = url.starts_with("az:") && url.contains('&') && url.contains("sig=");
    is_sas || ["x-amz-signature=", "x-goog-signature="].iter().any(|name| url.contains(name))
}

/// Explains what to write for an address with a signature in its path. `place` is what precedes it, and `problem` what is
/// wrong with that.
pub(in crate::config) fn of_signature(url: &str, place: &str, problem: Option<String>) -> String {
    let place = problem.unwrap_or_else(|| format!("must be {place}"));
    let is_sas = !url.to_ascii_lowercase().contains("signature=");
    let rest = if is_sas { "and the SAS in a file that `sas_token_file` names" } else { "without the signature" };
    format!("{place}, {rest}")
}
