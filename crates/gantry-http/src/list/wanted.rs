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

impl Wanted {
    /// Returns a name shortly before the folded prefix that contains `after`, if there is one. Other keys with the prefix
    /// may follow `after`, but a store that begins after `after` does not list the prefix.
    pub(crate) fn folded_before<'a>(&self, after: &'a str) -> Option<&'a str> {
        if self.is_recursive {
            return None;
        }

        let rest = after.strip_prefix(&*self.prefix)?;
        let slash = self.prefix.len() + rest.find('/')?;
        let is_within = slash + 1 < after.len();
        is_within.then(|| &after[..slash])
    }
}

/// Where a page begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Start {
    /// The name after which the client wants the listing to begin. It applies to each page. Empty for all names.
    pub(crate) after: String,
    /// The store's token of the page. `None` for its first page.
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
    fn a_listing_begins_before_the_folded_prefix_that_contains_its_start() {
        let wanted =
            |prefix: &str| Wanted { prefix: prefix.to_owned(), is_recursive: false, limit: 1, start: Start::default() };
        for (prefix, after, before) in [
            ("", "b/1", Some("b")),
            ("", "b/", None),
            ("", "b", None),
            ("", "/x", Some("")),
            ("b/", "b/1", None),
            ("b/", "b/c/1", Some("b/c")),
            ("b/", "c/1", None),
        ] {
            assert_eq!(wanted(prefix).folded_before(after), before, "{prefix} {after}");
        }
    }

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
