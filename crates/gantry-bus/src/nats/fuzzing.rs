//! What the fuzz targets reach of this module beside its public interface.

use super::auth::Identity;
use super::messages;
use gantry_proto::Headers;

/// Reads a credentials file and a seed file of this text, and returns what is wrong with each.
#[must_use]
pub fn identity_problems(text: &str) -> [Option<String>; 2] {
    [Identity::from_credentials(text).err(), Identity::from_seed_file(text).err()]
}

/// Returns whether a message with these headers can be sent.
#[must_use]
pub fn is_sendable(headers: &Headers) -> bool {
    messages::header_map(headers).is_ok()
}
