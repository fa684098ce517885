//! The text of a secret, without what editors, shells and files of variables add to it.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;

/// Begins a text in UTF-8 that some editors save.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Reads a file with a secret.
///
/// # Errors
/// If it can't be read, or is not UTF-8. The error contains no part of it.
pub fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path)?;
    let is_utf_16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    let problem = if is_utf_16 { "it is in UTF-16, save it in UTF-8" } else { "it is not text in UTF-8" };
    String::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::InvalidData, problem))
}

/// Returns a secret without a byte order mark, white space and one pair of quotes around it. No key, signature or token
/// begins or ends with one of these.
#[must_use]
pub fn trimmed(text: &str) -> &str {
    let is_around = |c: char| c == BYTE_ORDER_MARK || c.is_whitespace();
    let text = text.trim_matches(is_around);
    let unquoted = ['"', '\''].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote));
    unquoted.map_or(text, |text| text.trim_matches(is_around))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_surrounds_a_secret_is_removed() {
        for text in ["hush", " hush\r\n", "\u{feff}hush\n", "\"hush\"\n", "'hush'", "\u{feff}\" hush \""] {
            assert_eq!(trimmed(text), "hush", "{text:?}");
        }
        for text in ["hu\"sh", "\"hush", "hush'", "\"hush'"] {
            assert_eq!(trimmed(text), text);
        }
        assert_eq!(trimmed("{\"a\":\"b\"}\n"), "{\"a\":\"b\"}");
        for text in ["", "\u{feff}", "\"\"", " ' ' "] {
            assert_eq!(trimmed(text), "", "{text:?}");
        }
    }

    #[test]
    fn another_encoding_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for (bytes, problem) in [
            (&b"\xff\xfeh\0u\0s\0h\0"[..], "it is in UTF-16, save it in UTF-8"),
            (&b"\xfe\xff\0h\0u\0s\0h"[..], "it is in UTF-16, save it in UTF-8"),
            (&b"hush\xff"[..], "it is not text in UTF-8"),
        ] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(read(&path).unwrap_err().to_string(), problem);
        }
    }
}
