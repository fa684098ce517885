//! The names of files in a cache folder. They identify their content without being opened, and reveal no key.

use std::fmt;

use sha2::{Digest as _, Sha256};

use gantry_proto::{Key, ObjectInfo};

/// Identifies a key of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct KeyName(u128);

/// Identifies a version of an object by its `ETag`, version id and size. Other parts of a description may differ among
/// relays that serve the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct VersionName {
    pub(super) key: KeyName,
    version: u128,
}

/// Identifies a block of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct BlockName {
    pub(super) version: VersionName,
    pub(super) number: u64,
}

/// A file of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum FileName {
    /// A block.
    Block(BlockName),
    /// The description of the version that was current last.
    Current(KeyName),
}

impl KeyName {
    pub(super) fn of(store: &str, key: &Key) -> Self {
        Self(hash(&["key", store, key.as_str()]))
    }
}

impl VersionName {
    pub(super) fn of(key: KeyName, object: &ObjectInfo) -> Self {
        let version_id = object.version_id.as_deref().map_or_else(String::new, |id| format!("={id}"));
        let version = hash(&["version", &object.etag, &version_id, &object.size.to_string()]);
        Self { key, version }
    }

    pub(super) const fn block(self, number: u64) -> BlockName {
        BlockName { version: self, number }
    }
}

impl KeyName {
    /// Returns the names that all blocks of the key are between, both inclusive.
    pub(super) const fn blocks(self) -> (FileName, FileName) {
        let first = VersionName { key: self, version: 0 }.block(0);
        let last = VersionName { key: self, version: u128::MAX }.block(u64::MAX);
        (FileName::Block(first), FileName::Block(last))
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(BlockName { version: VersionName { key, version }, number }) => {
                write!(f, "{:032x}-{version:032x}-{number:x}.block", key.0)
            }
            Self::Current(key) => write!(f, "{:032x}.current", key.0),
        }
    }
}

impl FileName {
    /// Returns the key that the file belongs to.
    pub(super) const fn key(self) -> KeyName {
        match self {
            Self::Block(block) => block.version.key,
            Self::Current(key) => key,
        }
    }

    /// Parses exactly what [`Self::fmt`] writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let name = if let Some(name) = text.strip_suffix(".block") {
            let mut fields = name.splitn(3, '-');
            let mut field = || u128::from_str_radix(fields.next()?, 16).ok();
            let version = VersionName { key: KeyName(field()?), version: field()? };
            Self::Block(version.block(u64::try_from(field()?).ok()?))
        } else {
            Self::Current(KeyName(u128::from_str_radix(text.strip_suffix(".current")?, 16).ok()?))
        };

        (name.to_string() == text).then_some(name)
    }
}

/// Returns a hash of texts, each with its length.
fn hash(texts: &[&str]) -> u128 {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }

    let mut first = [0; 16];
    first.copy_from_slice(&hash.finalize()[..16]);
    u128::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_exactly() {
        let key = KeyName::of("s", &"a/b".parse().unwrap());
        let version = VersionName::of(key, &ObjectInfo::new("a/b".parse().unwrap(), 5, "\"e\"".to_owned()));

        for name in [FileName::Block(version.block(0)), FileName::Block(version.block(0xabc)), FileName::Current(key)] {
            let text = name.to_string();
            assert_eq!(FileName::parse(&text), Some(name));
            assert_eq!(FileName::parse(&text.to_uppercase()), None);
            assert_eq!(FileName::parse(&format!("+{}", &text[1..])), None);
            assert_eq!(FileName::parse(&format!("0{text}")), None);
        }
        assert_eq!(FileName::parse("lost+found"), None);
    }

    #[test]
    fn versions_differ_in_any_part_of_their_identity() {
        let name: Key = "k".parse().unwrap();
        let one = ObjectInfo::new(name.clone(), 5, "\"e\"".to_owned());
        let mut versioned = one.clone();
        versioned.version_id = Some(String::new());
        let others = [
            ObjectInfo::new(name.clone(), 6, "\"e\"".to_owned()),
            ObjectInfo::new(name.clone(), 5, "\"f\"".to_owned()),
            versioned,
        ];

        let of = |object: &ObjectInfo| VersionName::of(KeyName::of("s", &name), object);
        assert!(others.iter().all(|other| of(other) != of(&one)));
        assert_ne!(KeyName::of("s", &name), KeyName::of("t", &name));
    }
}
