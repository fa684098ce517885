//! The objects that a command line names: addresses, prefixes, patterns, and lists of addresses.

mod lines;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::stream::{BoxStream, iter, once, unfold};
use futures_util::{StreamExt as _, TryStreamExt as _};
use globset::{GlobBuilder, GlobMatcher};

use self::lines::lines;
use super::address::{ObjectAddress, reject_path};
use super::exit::Failure;
use gantry_client::tree::Item;
use gantry_client::{Client, Code, Error, Get, Listed, Listing, WireError};
use gantry_proto::{Key, StoreName};

/// The characters that make an address a pattern.
const PATTERN: [char; 4] = ['*', '?', '[', '{'];

/// `STORE` or `STORE/REST`, where the rest is a key, a prefix or a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    store: StoreName,
    /// `None` without a slash.
    rest: Option<String>,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        reject_path(text)?;
        let (store, rest) = match text.split_once('/') {
            Some((store, rest)) => (store, Some(rest.to_owned())),
            None => (text, None),
        };
        let store = store.parse().map_err(|error| format!("{error}"))?;
        if rest.as_ref().is_some_and(|rest| rest.len() > Key::MAX_BYTES || rest.contains(['\0', '\r', '\n'])) {
            return Err(format!("it is longer than {} bytes, or contains a NUL or a line break", Key::MAX_BYTES));
        }
        Ok(Self { store, rest })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.rest {
            Some(rest) => write!(f, "{}/{rest}", self.store),
            None => write!(f, "{}", self.store),
        }
    }
}

impl Address {
    pub(super) const fn store(&self) -> &StoreName {
        &self.store
    }

    /// Returns whether the address is a pattern.
    pub(super) fn is_pattern(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| rest.contains(PATTERN))
    }

    /// Returns the address as that of one object.
    pub(super) fn object(&self) -> Result<ObjectAddress, Failure> {
        if self.rest.as_ref().is_none_or(String::is_empty) {
            let message = "has no key: must be STORE/KEY, or add -r to download all objects of the store";
            return Err(Failure::usage(message).about(self.to_string()));
        }
        self.to_string().parse().map_err(Failure::usage)
    }
}

/// What an address stands for.
#[derive(Clone, Debug)]
pub(super) enum Selection {
    /// One object.
    Object(ObjectAddress),
    /// All keys that begin with a prefix and match a pattern, if there is one.
    Keys {
        /// The store.
        store: StoreName,
        /// The prefix.
        prefix: String,
        /// The pattern as given, and its compiled form.
        pattern: Option<(String, Vec<GlobMatcher>)>,
    },
    /// The addresses in a file, or in standard input for `-`.
    Lines(PathBuf),
}

impl Selection {
    /// Creates the selection of an address. `is_literal` turns patterns off.
    pub(super) fn of(address: &Address, is_recursive: bool, is_literal: bool) -> Result<Self, Failure> {
        let store = address.store.clone();
        let rest = address.rest.clone().unwrap_or_default();
        if address.is_pattern() && !is_literal {
            let prefix = rest.split(PATTERN).next().unwrap_or_default().to_owned();
            let matchers = matchers(&rest, is_recursive).map_err(|error| {
                Failure::usage(format!(
                    "the pattern is not valid: {error}: add --no-glob to take the address literally"
                ))
                .about(address.to_string())
            })?;
            return Ok(Self::Keys { store, prefix, pattern: Some((rest, matchers)) });
        }
        if is_recursive {
            return Ok(Self::Keys { store, prefix: rest, pattern: None });
        }

        if rest.ends_with('/') {
            let message = "it ends with a slash: add -r to download all keys that begin with it";
            return Err(Failure::usage(message).about(address.to_string()));
        }
        Ok(Self::Object(address.object()?))
    }

    /// Returns what the selection's objects have in common, for messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Object(address) => address.to_string(),
            Self::Keys { store, pattern: Some((pattern, _)), .. } => format!("{store}/{pattern}"),
            Self::Keys { store, prefix, .. } => format!("{store}/{prefix}"),
            Self::Lines(path) if path.as_os_str() == "-" => "standard input".to_owned(),
            Self::Lines(path) => path.display().to_string(),
        }
    }

    /// Returns whether the objects come in ascending order of their keys.
    pub(super) const fn is_listing(&self) -> bool {
        matches!(self, Self::Keys { .. })
    }

    /// Returns the length of a key's beginning that is not part of its path, or `None` if the key is not selected.
    pub(super) fn cut_of(&self, key: &str) -> Option<usize> {
        match self {
            Self::Object(address) => (address.key.as_str() == key).then(|| cut(key)),
            Self::Keys { prefix, pattern, .. } => {
                (key.starts_with(prefix) && is_match(pattern.as_ref(), key)).then(|| cut(prefix))
            }
            Self::Lines(_) => None,
        }
    }

    /// Returns the objects. `omitted` counts the names that the relay can't list.
    fn items(self, client: &Client, omitted: &Arc<AtomicU64>) -> BoxStream<'static, Result<Item, Error>> {
        match self {
            Self::Object(ObjectAddress { store, key }) => {
                let cut = cut(key.as_str());
                once(async move { Ok(Item::new(store, key, cut)) }).boxed()
            }
            Self::Keys { store, prefix, pattern } => {
                let listing = client.list_recursive(&store, prefix.clone());
                keys(listing, store, prefix, pattern, Arc::clone(omitted))
            }
            Self::Lines(path) => lines(path)
                .and_then(async |line| {
                    let Get { store, key, .. } = Get::at(&line)?;
                    Ok(Item::new(store, key, 0))
                })
                .boxed(),
        }
    }
}

/// Returns the objects of all selections, one selection after the other.
pub(super) fn items(
    selections: Vec<Selection>,
    client: &Client,
    omitted: &Arc<AtomicU64>,
) -> BoxStream<'static, Result<Item, Error>> {
    let client = client.clone();
    let omitted = Arc::clone(omitted);
    iter(selections).flat_map(move |selection| selection.items(&client, &omitted)).boxed()
}

/// Returns the length of a key's beginning that is not part of the path: up to and including the last slash.
fn cut(key: &str) -> usize {
    key.rfind('/').map_or(0, |slash| slash + 1)
}

/// A listing that is being read.
struct Reading {
    listing: Listing,
    store: StoreName,
    prefix: String,
    pattern: Option<(String, Vec<GlobMatcher>)>,
    omitted: Arc<AtomicU64>,
    count: u64,
}

/// Returns the objects of a listing. An empty listing is an error.
fn keys(
    listing: Listing,
    store: StoreName,
    prefix: String,
    pattern: Option<(String, Vec<GlobMatcher>)>,
    omitted: Arc<AtomicU64>,
) -> BoxStream<'static, Result<Item, Error>> {
    let reading = Reading { listing, store, prefix, pattern, omitted, count: 0 };
    unfold(Some(reading), async |reading| {
        let mut reading = reading?;
        match reading.next().await {
            Ok(Some(item)) => Some((Ok(item), Some(reading))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Item>, Error> {
        while let Some(name) = self.listing.try_next().await? {
            let Listed::Object(entry) = name else { continue };
            if !is_match(self.pattern.as_ref(), &entry.key) {
                continue;
            }

            let cut = cut(&self.prefix);
            let Ok(item) = Item::listed(self.store.clone(), entry, cut) else {
                self.omitted.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            self.count += 1;
            return Ok(Some(item));
        }

        self.omitted.fetch_add(self.listing.omitted(), Ordering::Relaxed);
        let is_found = self.count > 0 || (self.pattern.is_none() && self.prefix.is_empty());
        if is_found {
            return Ok(None);
        }
        let message = match &self.pattern {
            Some((pattern, _)) => format!("no key in store {} matches {pattern:?}", self.store),
            None => format!("no key in store {} begins with {:?}", self.store, self.prefix),
        };
        Err(Error::Refused(WireError::new(Code::NotFound, message)))
    }
}

/// Returns whether a key matches the pattern, if there is one.
fn is_match(pattern: Option<&(String, Vec<GlobMatcher>)>, key: &str) -> bool {
    pattern.is_none_or(|(_, matchers)| matchers.iter().any(|matcher| matcher.is_match(key)))
}

/// Compiles a pattern. With `is_recursive` it also matches the keys below those that it matches.
fn matchers(pattern: &str, is_recursive: bool) -> Result<Vec<GlobMatcher>, globset::Error> {
    let compile = |pattern: &str| {
        let mut builder = GlobBuilder::new(pattern);
        builder.literal_separator(true).backslash_escape(true).empty_alternates(true);
        builder.build().map(|glob| glob.compile_matcher())
    };

    let pattern = spread(pattern);
    let mut matchers = vec![compile(&pattern)?];
    if is_recursive {
        matchers.push(compile(&format!("{}/**", pattern.trim_end_matches('/')))?);
    }
    Ok(matchers)
}

/// Makes `**` in the middle of a part match any number of parts, as in `a/**.bin` and `a**`. The library supports it
/// only as a whole part.
fn spread(pattern: &str) -> String {
    let parts = pattern.split('/').map(|part| match part.split_once("**") {
        None | Some(("", "")) => part.to_owned(),
        Some(("", rest)) => format!("**/*{}", rest.trim_start_matches('*')),
        Some((start, "")) => format!("{start}{{*,*/**}}"),
        Some((start, rest)) => format!("{start}{{*,*/**/*}}{}", rest.trim_start_matches('*')),
    });
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_keys() {
        for (pattern, matching, other) in [
            ("a/*.bin", &["a/x.bin", "a/.bin"][..], &["a/b/x.bin", "a/x.bin.old", "b/x.bin"][..]),
            ("a/**/*.bin", &["a/x.bin", "a/b/c/x.bin"], &["x.bin"]),
            ("a/**.bin", &["a/x.bin", "a/b/c/x.bin"], &["x.bin", "a/x.binary"]),
            ("2026-*/**.bin", &["2026-11/x.bin", "2026-11/b/x.bin"], &["2025/x.bin"]),
            ("a**", &["a", "ab", "ab/c", "ab/c/d"], &["b/a"]),
            ("a**z", &["az", "abz", "ab/c/dz"], &["ab/c/d"]),
            ("**", &["a", "a/b"], &[]),
            ("a/?", &["a/b"], &["a/bc", "a//"]),
            ("a/[bc]", &["a/b", "a/c"], &["a/d"]),
            ("{a,b}/c", &["a/c", "b/c"], &["c/c"]),
            ("a\\*", &["a*"], &["ab"]),
        ] {
            let matchers = matchers(pattern, false).unwrap();
            let is_match = |key: &str| matchers.iter().any(|matcher| matcher.is_match(key));
            for key in matching {
                assert!(is_match(key), "{pattern} does not match {key}");
            }
            for key in other {
                assert!(!is_match(key), "{pattern} matches {key}");
            }
        }
        assert!(matchers("a/*", true).unwrap().iter().any(|matcher| matcher.is_match("a/b/c/d")));
        assert!(matchers("a[", false).is_err());
    }

    #[test]
    fn an_address_is_an_object_a_prefix_or_a_pattern() {
        let of = |text: &str, is_recursive| Selection::of(&text.parse().unwrap(), is_recursive, false);
        assert!(matches!(of("s/a", false), Ok(Selection::Object(_))));
        assert!(matches!(of("s/a", true), Ok(Selection::Keys { pattern: None, .. })));
        assert!(matches!(of("s", true), Ok(Selection::Keys { pattern: None, .. })));
        assert!(of("s/a/", false).unwrap_err().message.contains("-r"));
        assert!(of("s", false).is_err());

        let Ok(Selection::Keys { prefix, pattern: Some(_), .. }) = of("s/a/b*/c", false) else { panic!("no pattern") };
        assert_eq!(prefix, "a/b");
    }

    #[test]
    fn paths_begin_after_the_last_slash_before_the_pattern() {
        assert_eq!([cut("a/b"), cut("a/"), cut("a"), cut("")], [2, 2, 0, 0]);
    }
}
