//! Requests the bytes as they are stored, even from servers that encode or decode them.
//!
//! An object may be stored compressed, with `Content-Encoding: gzip`. Some servers, such as Google's, decompress it
//! unless the request accepts gzip. Others compress objects if the request accepts it. Only the latter can be
//! recognised by their answers. Requests therefore accept gzip until a server turns out to compress.

use std::sync::atomic::{AtomicBool, Ordering};

/// The header with the encoding of the stored object. Google's servers send it.
pub(super) const STORED: &str = "x-goog-stored-content-encoding";

/// The encodings that a request accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    Gzip,
    Identity,
}

impl Accepted {
    /// Returns the value of the header `Accept-Encoding`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Identity => "identity",
        }
    }
}

/// The encoding that the next request accepts.
#[derive(Debug, Default)]
pub(super) struct Accepting {
    no_gzip: AtomicBool,
}

impl Accepting {
    pub(super) fn now(&self) -> Accepted {
        if self.no_gzip.load(Ordering::Relaxed) { Accepted::Identity } else { Accepted::Gzip }
    }

    /// Accepts the other encoding from now on.
    pub(super) fn change_from(&self, used: Accepted) {
        self.no_gzip.store(used == Accepted::Gzip, Ordering::Relaxed);
    }
}

/// Returns whether a `Content-Encoding` is gzip.
pub(super) fn is_gzip(encoding: Option<&str>) -> bool {
    let codings = encoding.unwrap_or_default().split(',').map(str::trim);
    codings.into_iter().any(|coding| coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_recognised_among_other_codings() {
        for (encoding, expected) in [
            (None, false),
            (Some(""), false),
            (Some("identity"), false),
            (Some("gzip"), true),
            (Some("br, X-GZIP"), true),
        ] {
            assert_eq!(is_gzip(encoding), expected, "{encoding:?}");
        }
    }

    #[test]
    fn a_change_applies_to_the_encoding_that_was_used() {
        let accepting = Accepting::default();
        for _ in 0..2 {
            accepting.change_from(Accepted::Gzip);
            assert_eq!(accepting.now(), Accepted::Identity);
        }
        accepting.change_from(Accepted::Identity);
        assert_eq!(accepting.now(), Accepted::Gzip);
    }
}
