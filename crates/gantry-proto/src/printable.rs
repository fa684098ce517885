//! Makes text from peers safe to print.
//!
//! Keys, error messages and dates come from peers and stores. A terminal interprets control characters in them, and a
//! line break forges a line of output. All text that is printed or logged passes through one of these functions. Other
//! characters of any script are unchanged.

use std::borrow::Cow;

/// Returns the text on one line, with each unprintable character replaced by an escape such as `\n` or `\u{1b}`.
///
/// Use this for messages. It is not reversible, because backslashes are not escaped.
#[must_use]
pub fn text(text: &str) -> Cow<'_, str> {
    if is_plain(text) || text.chars().all(is_printable) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_printable(c) {
            escaped.push(c);
        } else {
            escaped.extend(c.escape_default());
        }
    }
    Cow::Owned(escaped)
}

/// Applies [`text`] to each line.
#[must_use]
pub fn lines(of: &str) -> Cow<'_, str> {
    if of.chars().all(|c| is_printable(c) || c == '\n') {
        return Cow::Borrowed(of);
    }
    Cow::Owned(of.split('\n').map(text).collect::<Vec<_>>().join("\n"))
}

/// Returns a name, such as a key, on one line and unambiguously.
///
/// A name that contains unprintable characters, or starts with a quotation mark, is returned as a JSON string. Any
/// other name is unchanged.
#[must_use]
pub fn name(name: &str) -> Cow<'_, str> {
    if !name.starts_with('"') && name.chars().all(is_printable) {
        return Cow::Borrowed(name);
    }
    match serde_json::to_string(name) {
        Ok(quoted) => Cow::Owned(json(&quoted).into_owned()),
        Err(_) => text(name),
    }
}

/// Escapes the unprintable characters that JSON allows within strings. The JSON keeps its meaning.
#[must_use]
pub fn json(json: &str) -> Cow<'_, str> {
    if is_plain(json) || json.chars().all(is_printable) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        // Outside of strings, these are white space.
        if is_printable(c) || c == '\n' || c == '\t' || c == '\r' {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            escaped.push_str(&format!("\\u{unit:04x}"));
        }
    }
    Cow::Owned(escaped)
}

/// Returns whether a text contains only printable ASCII, as nearly every log line does. This check is much faster than
/// testing each character.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Returns whether a character is safe to print: not a control character or line break, not invisible, and without
/// effect on the direction of the text around it.
///
/// Source: Unicode 16, `White_Space` and `Bidi_Control`, and UTS 39 on invisible characters. Joiners and variation
/// selectors are allowed because ordinary words contain them.
#[must_use]
pub const fn is_printable(c: char) -> bool {
    !matches!(c,
        // C0, DEL and C1: escape sequences, cursor movements, line breaks.
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        // Line and paragraph separators.
        | '\u{2028}' | '\u{2029}'
        // Bidirectional controls.
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
        // Byte order mark, interlinear annotations, and tags, which spell out hidden text.
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: [char; 10] =
        ['\u{1b}', '\n', '\r', '\u{7f}', '\u{9b}', '\u{2028}', '\u{202e}', '\u{2066}', '\u{feff}', '\u{e0041}'];

    #[test]
    fn escapes_characters_that_a_terminal_interprets() {
        assert_eq!(text("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        for c in HOSTILE {
            let hostile = format!("a{c}b");
            for printed in [text(&hostile), name(&hostile), lines(&hostile)] {
                assert!(printed.chars().all(|c| is_printable(c) || c == '\n'), "{printed:?}");
            }
        }
    }

    #[test]
    fn keeps_text_of_every_script() {
        for ordinary in ["a b\\c", "Größe 9″", "مرحبا", "日本語", "👩‍👩‍👧 ❤️", "é", "क्‍ष"]
        {
            assert!(matches!(text(ordinary), Cow::Borrowed(same) if same == ordinary));
            assert!(matches!(name(ordinary), Cow::Borrowed(same) if same == ordinary));
        }
    }

    #[test]
    fn a_name_can_be_read_back() {
        for original in ["a\nb", "a\\n\u{1b}", "\"quoted\"", "tags \u{e0041}", "\u{202e}gpj.exe"] {
            let printed = name(original);
            assert!(printed.chars().all(is_printable), "{printed}");
            assert_eq!(serde_json::from_str::<String>(&printed).unwrap(), original);
        }
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({ "key": HOSTILE.iter().collect::<String>(), "other": "日本" });
        let plain = value.to_string();
        let printed = json(&plain);
        assert!(printed.chars().all(is_printable), "{printed}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&printed).unwrap(), value);
    }
}
