//! The start of a page of a listing, and its token.
//!
//! S3 identifies the next page by a token of its own. Some servers ignore `max-keys`, some omit the token, and a
//! message may hold less than a page. In these cases the next page begins after a name, which S3 calls `start-after`.

/// Marks a token that contains a name.
const AFTER: &str = "gantry-after:";

/// Marks a token of S3 that starts like one of Gantry's.
const TOKEN: &str = "gantry-token:";

/// The start of all of Gantry's tokens.
const OURS: &str = "gantry-";

/// The number of bytes by which a mark lengthens a token of S3.
pub(crate) const MARK_BYTES: usize = TOKEN.len();

/// Sorts after every character that can follow in a key.
const LAST: char = char::MAX;

/// The start of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// At the first name.
    Start,
    /// At S3's own token.
    Token(String),
    /// After this name, without the store's prefix.
    After(String),
}

impl Position {
    /// Reads the token of a request.
    pub(crate) fn of(token: Option<&str>) -> Self {
        let Some(token) = token else { return Self::Start };
        if let Some(name) = token.strip_prefix(AFTER) {
            return Self::After(name.to_owned());
        }
        Self::Token(token.strip_prefix(TOKEN).unwrap_or(token).to_owned())
    }

    /// Returns the token of the page, or `None` for the first page.
    pub(crate) fn into_token(self) -> Option<String> {
        match self {
            Self::Start => None,
            Self::Token(token) if token.starts_with(OURS) => Some(format!("{TOKEN}{token}")),
            Self::Token(token) => Some(token),
            Self::After(name) => Some(format!("{AFTER}{name}")),
        }
    }

    /// Returns S3's own token, if the page begins there.
    pub(crate) fn token(&self) -> Option<&str> {
        match self {
            Self::Token(token) => Some(token),
            Self::Start | Self::After(_) => None,
        }
    }

    /// Returns the name after which the page begins, if the position is a name.
    pub(crate) fn after(&self) -> Option<&str> {
        match self {
            Self::After(name) => Some(name),
            Self::Start | Self::Token(_) => None,
        }
    }

    /// Returns the value of `start-after` below the store's prefix.
    ///
    /// `is_folded` means that the name stands for all keys that begin with it. They must not be listed again.
    pub(crate) fn start_after(&self, store_prefix: &str, is_folded: bool) -> Option<String> {
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
    fn a_token_of_s3_is_unchanged_unless_it_looks_like_one_of_gantrys() {
        assert_eq!(Position::Token("1ueGcxLPRx1Tr".to_owned()).into_token().as_deref(), Some("1ueGcxLPRx1Tr"));
    }

    #[test]
    fn no_key_below_a_folded_name_is_listed_again() {
        let position = Position::After("a/".to_owned());

        let start_after = position.start_after("store/", true).unwrap();

        assert!(start_after.as_str() > "store/a/\u{ffff}z" && start_after.as_str() < "store/a0");
        assert_eq!(position.start_after("store/", false).as_deref(), Some("store/a/"));
    }
}
