//! What a client wants to see of a listing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use gantry_proto::limits::TOKEN_MAX_BYTES;

/// What a client wants to see.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) prefix: String,
    /// Whether keys are not folded at `/`.
    pub(crate) is_recursive: bool,
    /// The maximum number of names, 1 to 1000.
    pub(crate) limit: u32,
    pub(crate) start: Start,
}

/// Where a page begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Start {
    /// The page begins after this name. Empty for the first page.
    pub(crate) after: String,
    /// The store's token of the page in which the name after `after` is, if it is known.
    pub(crate) token: Option<String>,
}

impl Start {
    pub(crate) fn after(name: &str) -> Self {
        Self { after: name.to_owned(), token: None }
    }

    /// Parses a continuation token of this server.
    pub(crate) fn of_token(text: &str) -> Option<Self> {
        let (token, after) = text.split_once('.')?;
        let decode = |text: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok();
        let (token, after) = (decode(token)?, decode(after)?);
        (token.len() <= TOKEN_MAX_BYTES).then(|| Self { after, token: (!token.is_empty()).then_some(token) })
    }

    pub(crate) fn token(&self) -> String {
        let token = URL_SAFE_NO_PAD.encode(self.token.as_deref().unwrap_or_default());
        format!("{token}.{}", URL_SAFE_NO_PAD.encode(&self.after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back() {
        for start in [
            Start { after: "a/é".to_owned(), token: Some("t.o/k".to_owned()) },
            Start { after: "b".to_owned(), token: None },
        ] {
            assert_eq!(Start::of_token(&start.token()), Some(start));
        }
        for invalid in ["", "abc", "!.!", "_w.", "a.b.c"] {
            assert_eq!(Start::of_token(invalid), None, "{invalid}");
        }
    }
}
