//! Private parts of this module that fuzz targets use.

use super::auth::Identity;
use super::messages;
use gantry_proto::Headers;

/// Parses the text as a credentials file and as a seed file, and returns the error of each.
#[must_use]
pub fn identity_problems(text: &str) -> [Option<String>; 2] {
    [Identity::from_credentials(text).err(), Identity::from_seed_file(text).err()]
}

/// Returns whether a message with these headers can be sent.
#[must_use]
pub fn is_sendable(headers: &Headers) -> bool {
    messages::header_map(headers).is_ok()
}
