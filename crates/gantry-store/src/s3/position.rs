//! Where a page of a listing begins, and how its token says so.
//!
//! S3 names the next page by a token of its own. Some servers ignore `max-keys`, some leave the token out, and a message
//! may hold less than a page. In these cases the next page begins after a name, which S3 calls `start-after`.

/// Marks a token that holds a name.
const AFTER: &str = "gantry-after:";

/// Marks a token of S3 that begins like one of ours.
const TOKEN: &str = "gantry-token:";

/// What all tokens of ours begin with.
const OURS: &str = "gantry-";

/// By how much a mark lengthens a token of S3, in bytes.
pub(super) const MARK_BYTES: usize = TOKEN.len();

/// Sorts after every character that a key may go on with.
const LAST: char = char::MAX;

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// At the first name.
    Start,
    /// Where S3's own token says.
    Token(String),
    /// After this name, without the store's prefix.
    After(String),
}

impl Position {
    /// Reads the token of a request.
    pub(super) fn of(token: Option<&str>) -> Self {
        let Some(token) = token else { return Self::Start };
        if let Some(name) = token.strip_prefix(AFTER) {
            return Self::After(name.to_owned());
        }
        Self::Token(token.strip_prefix(TOKEN).unwrap_or(token).to_owned())
    }

    /// Returns the token of the page, or `None` for the first page.
    pub(super) fn into_token(self) -> Option<String> {
        match self {
            Self::Start => None,
            Self::Token(token) if token.starts_with(OURS) => Some(format!("{TOKEN}{token}")),
            Self::Token(token) => Some(token),
            Self::After(name) => Some(format!("{AFTER}{name}")),
        }
    }

    /// Returns S3's own token, if the page begins there.
    pub(super) fn token(&self) -> Option<&str> {
        match self {
            Self::Token(token) => Some(token),
            Self::Start | Self::After(_) => None,
        }
    }

    /// Returns the name after which the page begins, if that is how it is named.
    pub(super) fn after(&self) -> Option<&str> {
        match self {
            Self::After(name) => Some(name),
            Self::Start | Self::Token(_) => None,
        }
    }

    /// Returns the value of `start-after` below the store's prefix.
    ///
    /// `is_folded` says that the name stands for all keys that begin with it. They must not come again.
    pub(super) fn start_after(&self, store_prefix: &str, is_folded: bool) -> Option<String> {
        let name = self.after()?;
        let mut start_after = format!("{store_prefix}{name}");
        if is_folded {
            start_after.push(LAST);
        }
        Some(start_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_survives_its_token() {
        for position in [
            Position::Start,
            Position::Token("abc=".to_owned()),
            Position::Token("gantry-after:a".to_owned()),
            Position::Token("gantry-token:a".to_owned()),
            Position::Token("gantry-".to_owned()),
            Position::After("a/b".to_owned()),
            Position::After("gantry-after:a".to_owned()),
        ] {
            let token = position.clone().into_token();
            assert_eq!(Position::of(token.as_deref()), position, "{token:?}");
        }
    }

    #[test]
    fn a_token_of_s3_stays_as_it_is_unless_it_looks_like_ours() {
        assert_eq!(Position::Token("1ueGcxLPRx1Tr".to_owned()).into_token().as_deref(), Some("1ueGcxLPRx1Tr"));
    }

    #[test]
    fn no_key_below_a_folded_name_comes_again() {
        let position = Position::After("a/".to_owned());

        let start_after = position.start_after("store/", true).unwrap();

        assert!(start_after.as_str() > "store/a/\u{ffff}z" && start_after.as_str() < "store/a0");
        assert_eq!(position.start_after("store/", false).as_deref(), Some("store/a/"));
    }
}
