//! Arguments of the commands: `STORE/KEY`, byte ranges, rates and ids of downloads.

use std::fmt;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bytesize::ByteSize;

use crate::config::begins_connection_string;
use gantry_proto::{Get, Key, OFFSET_MAX, Span, StoreName};

/// `STORE/KEY`. Everything after the first slash is the key, so a key that begins with a slash is `STORE//KEY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObjectAddress {
    /// The store.
    pub(super) store: StoreName,
    /// The key in the store.
    pub(super) key: Key,
}

/// Bytes per second, as in `500K` or `10MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate(pub(super) NonZeroU64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "must be bytes per second, such as 500K, 10M or 1.5MiB";
        let bytes: ByteSize = text.parse().map_err(|_| form.to_owned())?;
        NonZeroU64::new(bytes.as_u64()).map(Self).ok_or_else(|| form.to_owned())
    }
}

/// The id of a download, for logs and traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Correlation(pub(super) String);

impl FromStr for Correlation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if gantry_proto::is_valid_context(text) {
            return Ok(Self(text.to_owned()));
        }
        Err("must be at most 256 bytes, without control characters or white space at its ends".to_owned())
    }
}

impl FromStr for ObjectAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        reject_path(text)?;
        let Get { store, key, .. } = Get::at(text).map_err(|error| error.to_string())?;
        Ok(Self { store, key })
    }
}

impl fmt::Display for ObjectAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.store, self.key)
    }
}

impl ObjectAddress {
    /// Returns the last part of the key, if it is valid as a file name.
    #[must_use]
    pub(super) fn file_name(&self) -> Option<&str> {
        let name = self.key.as_str().rsplit('/').next()?;
        (!matches!(name, "" | "." | "..")).then_some(name)
    }

    /// Returns the file to write: `output`, or a file in `output` if that is a folder, or a file in the current folder.
    ///
    /// # Errors
    /// If the last part of the key is needed as a file name, but is not valid as one.
    pub(super) fn target(&self, output: Option<&Path>) -> Result<PathBuf, String> {
        let folder = match output {
            Some(path) if !is_folder(path) => return Ok(path.to_owned()),
            Some(folder) => folder,
            None => Path::new(""),
        };
        match self.file_name() {
            Some(name) => Ok(folder.join(name)),
            None => Err(format!(
                "the key {:?} does not end with a file name: add -r to download all keys that begin with it, or -o \
                     with a file name",
                self.key.as_str()
            )),
        }
    }
}

fn is_folder(path: &Path) -> bool {
    path.as_os_str().to_string_lossy().ends_with('/') || path.is_dir()
}

/// Rejects what is meant as a path of this machine, as a URL or as a connection string. The message repeats no part of it,
/// which may be a password.
pub(super) fn reject_path(text: &str) -> Result<(), String> {
    let store = text.split('/').next().unwrap_or_default();
    let is_url = text.contains("://") || store.contains('@');
    let is_connection = store.split_once('=').is_some_and(|(name, _)| begins_connection_string(name));
    if text.starts_with(['/', '.', '~']) || is_url || is_connection {
        return Err("must be STORE/KEY, such as files/a.bin, not a path or URL".to_owned());
    }
    Ok(())
}

/// `STORE[/PREFIX]`: the keys to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListAddress {
    /// The store.
    pub(super) store: StoreName,
    /// The beginning of the keys; may be empty.
    pub(super) prefix: String,
}

impl FromStr for ListAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        reject_path(text)?;
        let (store, prefix) = text.split_once('/').unwrap_or((text, ""));
        let store = store.parse().map_err(|error| format!("{error}"))?;
        if prefix.len() > Key::MAX_BYTES || prefix.contains(['\0', '\r', '\n']) {
            return Err(format!(
                "the prefix is longer than {} bytes, or contains a NUL or a line break: no key begins with it",
                Key::MAX_BYTES
            ));
        }
        Ok(Self { store, prefix: prefix.to_owned() })
    }
}

/// A byte range as in HTTP and curl: with an inclusive end, with an open end, or the last bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ByteRange {
    /// Absolute offsets, end exclusive.
    Span(Span),
    /// This number of bytes at the end.
    Last(u64),
}

impl FromStr for ByteRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is not a range: must be FIRST-LAST (inclusive), FIRST- or -COUNT");
        let number = |digits: &str| {
            let digits = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            digits.and_then(|digits| digits.parse::<u64>().ok()).filter(|number| *number < OFFSET_MAX).ok_or_else(form)
        };

        let (first, last) = text.split_once('-').ok_or_else(form)?;
        if first.is_empty() {
            return match number(last)? {
                0 => Err(form()),
                count => Ok(Self::Last(count)),
            };
        }

        let start = number(first)?;
        if last.is_empty() {
            return Ok(Self::Span(Span { start, end: None }));
        }

        let last = number(last)?;
        if last < start {
            return Err(format!("{text:?} ends before it starts: must be FIRST-LAST (inclusive)"));
        }
        Ok(Self::Span(Span { start, end: Some(last + 1) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bytes_per_second_with_common_units() {
        for (text, bytes) in
            [("1", 1), ("500K", 500_000), ("10MB", 10_000_000), ("1.5MiB", 3 << 19), ("2 GiB", 2 << 30)]
        {
            assert_eq!(text.parse::<Rate>().unwrap().0.get(), bytes, "{text}");
        }
        for text in ["", "0", "-1", "fast", "10Mbit", "1e3"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_or_url_is_not_an_address() {
        for text in
            ["/files/a", "./files/a", "../a", "~/a", "s3://bucket/a", "file:///a", "me:hush@demo/a", "AccountName=a"]
        {
            let object = text.parse::<ObjectAddress>().unwrap_err();
            let list = text.parse::<ListAddress>().unwrap_err();
            assert!(object.contains("STORE/KEY") && list == object, "{text}: {object}, {list}");
        }
    }

    #[test]
    fn address_is_split_at_the_first_slash() {
        for (text, store, key) in [
            ("files/a", "files", "a"),
            ("files/a/b c?#%", "files", "a/b c?#%"),
            ("files//a", "files", "/a"),
            ("files/a/", "files", "a/"),
            ("F_1-x/ü", "F_1-x", "ü"),
        ] {
            let address: ObjectAddress = text.parse().unwrap();
            assert_eq!((address.store.as_str(), address.key.as_str()), (store, key));
            assert_eq!(address.to_string(), text);
        }
        for text in ["", "files", "files/", "/a", "a b/c", "a.b/c", "files/a\nb"] {
            assert!(text.parse::<ObjectAddress>().is_err(), "{text:?}");
        }
        assert!(format!("files/{}", "x".repeat(1025)).parse::<ObjectAddress>().is_err());
    }

    #[test]
    fn list_address_needs_only_a_store() {
        for (text, prefix) in [("files", ""), ("files/", ""), ("files/a/", "a/"), ("files//", "/")] {
            assert_eq!(text.parse::<ListAddress>().unwrap().prefix, prefix);
        }
        assert!("".parse::<ListAddress>().is_err());
    }

    #[test]
    fn range_includes_both_ends() {
        let span = |start, end| Ok(ByteRange::Span(Span { start, end }));
        assert_eq!("0-0".parse(), span(0, Some(1)));
        assert_eq!("10-19".parse(), span(10, Some(20)));
        assert_eq!("10-".parse(), span(10, None));
        assert_eq!("-5".parse(), Ok(ByteRange::Last(5)));
        for text in [
            "",
            "-",
            "5",
            "5-4",
            "-0",
            "a-b",
            "1-2-3",
            "+1-2",
            " 1-2",
            "0-9223372036854775807",
            "0-99999999999999999999",
        ] {
            assert!(text.parse::<ByteRange>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn target_is_as_given_or_in_a_folder() {
        let folder = tempfile::TempDir::new().unwrap();
        let address: ObjectAddress = "files/a/model.bin".parse().unwrap();
        assert_eq!(address.target(None), Ok(PathBuf::from("model.bin")));
        assert_eq!(address.target(Some(Path::new("x/y"))), Ok(PathBuf::from("x/y")));
        assert_eq!(address.target(Some(Path::new("none/"))), Ok(PathBuf::from("none/model.bin")));
        assert_eq!(address.target(Some(folder.path())), Ok(folder.path().join("model.bin")));
        for key in ["a/", ".", "..", "a/..", "/"] {
            let address: ObjectAddress = format!("files/{key}").parse().unwrap();
            assert!(address.target(None).is_err(), "{key:?}");
            assert_eq!(address.target(Some(Path::new("x"))), Ok(PathBuf::from("x")));
        }
    }
}
