//! Text that must not be shown.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Text that no `Debug` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A secret, or the file that holds it and may be replaced while we run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// The secret itself.
    Inline(Secret),
    /// A file with the secret; white space at its ends does not count.
    File(PathBuf),
}

impl SecretSource {
    /// Returns the secret as it is now.
    ///
    /// # Errors
    /// When the file can't be read or is empty.
    pub fn read(&self) -> io::Result<Secret> {
        match self {
            Self::Inline(secret) => Ok(secret.clone()),
            Self::File(path) => {
                let text = fs::read_to_string(path)?;
                match text.trim() {
                    "" => Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty")),
                    text => Ok(Secret::new(text)),
                }
            }
        }
    }
}
