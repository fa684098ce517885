//! Names on the wire: transfers, stores and keys.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::Malformed;

/// The id of a transfer, unique across relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct TransferId(pub Uuid);

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for TransferId {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl FromStr for TransferId {
    type Err = Malformed;

    /// Parses a UUID in lower case with hyphens; other forms are invalid.
    fn from_str(s: &str) -> Result<Self, Malformed> {
        let has_form = s.len() == 36 && s.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        has_form
            .then(|| Uuid::try_parse(s).ok())
            .flatten()
            .map(Self)
            .ok_or_else(|| Malformed::new("transfer id is not a lower-case UUID with hyphens"))
    }
}
/// The name of a store: one subject token of 1 to 64 characters from `A-Z a-z 0-9 _ -`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreName(String);

impl StoreName {
    /// Returns the name as a subject token.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for StoreName {
    type Error = Malformed;

    fn try_from(name: String) -> Result<Self, Malformed> {
        let fits = (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if !fits {
            return Err(Malformed::new(format!("store name {name:?} is not 1 to 64 characters from A-Z a-z 0-9 _ -")));
        }
        Ok(Self(name))
    }
}

impl FromStr for StoreName {
    type Err = Malformed;

    fn from_str(s: &str) -> Result<Self, Malformed> {
        Self::try_from(s.to_owned())
    }
}

impl From<StoreName> for String {
    fn from(name: StoreName) -> Self {
        name.0
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An object's key: 1 to 1024 bytes of UTF-8 without NUL, carriage return or newline. Anything else is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

impl Key {
    /// The longest key, in bytes. Source: S3's limit.
    pub const MAX_BYTES: usize = 1024;

    /// Returns the key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Key {
    type Error = Malformed;

    fn try_from(key: String) -> Result<Self, Malformed> {
        if key.is_empty() {
            return Err(Malformed::new("key is empty"));
        }
        if key.len() > Self::MAX_BYTES {
            return Err(Malformed::new(format!("key of {} bytes is longer than {}", key.len(), Self::MAX_BYTES)));
        }
        if key.contains(['\0', '\r', '\n']) {
            return Err(Malformed::new(format!("key {key:?} contains a NUL, carriage return or newline")));
        }
        Ok(Self(key))
    }
}

impl FromStr for Key {
    type Err = Malformed;

    fn from_str(s: &str) -> Result<Self, Malformed> {
        Self::try_from(s.to_owned())
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
