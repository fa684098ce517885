//! The text of a secret, without what editors, shells and files of variables add to it.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Read as _, Result};
use std::path::Path;

/// Maximum length of a file with a secret, in bytes. The longest, files of credentials for Google, have a few kilobytes.
const FILE_MAX_BYTES: u64 = 64 * 1024;

/// Begins a text in UTF-8 that some editors save.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Reads a file with a secret. Links are followed.
///
/// # Errors
/// If it can't be read, is no regular file, is too long, or is not UTF-8. The error contains no part of it.
pub fn read(path: &Path) -> Result<String> {
    let invalid = |problem: &str| Error::new(ErrorKind::InvalidData, problem);
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(Error::new(ErrorKind::IsADirectory, "it is a directory, name a file"));
    }
    // To open a pipe may block, and a device may have no end.
    if !metadata.is_file() {
        return Err(invalid("it is a pipe or a device, name a regular file"));
    }

    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(invalid("it has more than 64 KiB, name the file with the secret alone"));
    }
    decoded(bytes)
}

/// Returns the content of a file as text.
///
/// # Errors
/// If it is not UTF-8. The error contains no part of it.
pub fn decoded(bytes: Vec<u8>) -> Result<String> {
    let is_utf_16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    let problem = if is_utf_16 { "it is in UTF-16, save it in UTF-8" } else { "it is not text in UTF-8" };
    String::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::InvalidData, problem))
}

/// Describes why a file can't be read. A path that does not exist may be one that a shell would expand.
#[must_use]
pub fn unreadable(path: &Path, error: &Error) -> String {
    let text = path.to_string_lossy();
    let cure = if error.kind() != ErrorKind::NotFound {
        ""
    } else if text.starts_with("file:") {
        ": write the path alone, without file://"
    } else if text.starts_with('~') || text.contains('$') {
        ": write the whole path, since ~ and variables are not expanded"
    } else {
        ""
    };
    format!("can't be read: {error}{cure}")
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
    fn only_regular_files_of_a_moderate_length_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("key"), folder.path().join("link"));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        fs::write(&path, "h".repeat(64 * 1024)).unwrap();
        assert_eq!(read(&link).unwrap().len(), 64 * 1024);

        fs::write(&path, "h".repeat(64 * 1024 + 1)).unwrap();
        let problem = |path: &Path| read(path).unwrap_err().to_string();
        assert_eq!(problem(&path), "it has more than 64 KiB, name the file with the secret alone");
        assert_eq!(problem(Path::new("/dev/zero")), "it is a pipe or a device, name a regular file");
        assert_eq!(problem(folder.path()), "it is a directory, name a file");

        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(problem(&pipe), "it is a pipe or a device, name a regular file");
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
