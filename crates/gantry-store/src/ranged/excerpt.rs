//! Text from stores in messages: printable, and of bounded length.

use gantry_proto::printable;

/// Maximum length of quoted text, in characters before escaping. S3's own error codes have at most 50, and most of its
/// messages less than 150.
const EXCERPT_MAX_CHARS: usize = 160;

/// Returns the beginning of a text from a store, printable on one line. An ellipsis shows that more follows.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_MAX_CHARS) {
        None => printable::text(text).into_owned(),
        Some((at, _)) => format!("{}…", printable::text(&text[..at])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_printable_and_bounded() {
        assert_eq!(excerpt("NoSuchKey"), "NoSuchKey");
        assert_eq!(excerpt("a\n\u{1b}[31m"), "a\\n\\u{1b}[31m");
        let long = excerpt(&"é".repeat(1_000_000));
        assert_eq!(long.chars().count(), EXCERPT_MAX_CHARS + 1);
        assert!(long.ends_with('…'));
    }
}
