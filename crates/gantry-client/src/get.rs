//! What a download asks for.

use gantry_proto::receiver::Wanted;
use gantry_proto::{Key, Pin, Span, StoreName};

/// What to download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Get {
    /// The store.
    pub store: StoreName,
    /// The object's key.
    pub key: Key,
    /// The byte range, absolute.
    pub span: Span,
    /// Which version.
    pub pin: Pin,
    /// Opaque text that comes back on every message, for correlation.
    pub context: Option<String>,
}

impl Get {
    /// Asks for a whole object, as it is now.
    #[must_use]
    pub const fn new(store: StoreName, key: Key) -> Self {
        Self {
            store,
            key,
            span: Span { start: 0, end: None },
            pin: Pin { if_match: None, version_id: None },
            context: None,
        }
    }
}

impl From<Get> for Wanted {
    fn from(Get { store: _, key, span, pin, context }: Get) -> Self {
        Self { key, span, pin, context }
    }
}
