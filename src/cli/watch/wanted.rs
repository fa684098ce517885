//! Which announced objects the user wants, and what their addresses are.

use gantry_proto::{Key, StoreName};

use super::super::select::Selection;
use super::event::Announced;
use super::object::Object;

/// The part of a store that is watched.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) store: StoreName,
    pub(super) selection: Selection,
    /// The bucket whose events count. All, if `None`.
    pub(super) bucket: Option<String>,
    /// The beginning of the bucket's keys that the store's keys do not have.
    pub(super) strip: String,
    /// Whether keys of folders, which end with a slash, are left out.
    pub(super) skips_folders: bool,
}

impl Wanted {
    /// Returns the object, or `None` if it is not wanted.
    pub(super) fn object(&self, announced: Announced) -> Option<Result<Object, String>> {
        let Announced { bucket, key, size, etag, event } = announced;
        if self.bucket.as_ref().is_some_and(|wanted| *wanted != bucket) {
            return None;
        }
        let key = key.strip_prefix(&self.strip)?;
        if key.is_empty() || (self.skips_folders && key.ends_with('/')) {
            return None;
        }
        let cut = self.selection.cut_of(key)?;

        // A key that no store of Gantry's can hold can't be requested.
        let key = Key::try_from(key.to_owned()).map_err(|error| error.to_string());
        Some(key.map(|key| Object { store: self.store.clone(), key, cut, size, etag, event, file: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(address: &str, bucket: Option<&str>, strip: &str) -> Wanted {
        let address: super::super::super::select::Address = address.parse().unwrap();
        Wanted {
            store: address.store().clone(),
            selection: Selection::of(&address, true, false).unwrap(),
            bucket: bucket.map(str::to_owned),
            strip: strip.to_owned(),
            skips_folders: true,
        }
    }

    fn announced(key: &str) -> Announced {
        Announced { bucket: "b".to_owned(), key: key.to_owned(), size: None, etag: None, event: String::new() }
    }

    fn address(wanted: &Wanted, key: &str) -> Option<(String, usize)> {
        let object = wanted.object(announced(key))?.unwrap();
        Some((object.address(), object.cut))
    }

    #[test]
    fn only_keys_of_the_address_and_the_bucket_are_wanted() {
        let all = wanted("s", None, "");
        assert_eq!(address(&all, "a/b"), Some(("s/a/b".to_owned(), 0)));
        assert_eq!(address(&all, "a/"), None);

        let part = wanted("s/x/", Some("b"), "in/");
        assert_eq!(address(&part, "in/x/y"), Some(("s/x/y".to_owned(), 2)));
        assert_eq!(address(&part, "x/y"), None);
        assert_eq!(address(&part, "in/z"), None);
        assert!(wanted("s", Some("other"), "").object(announced("a")).is_none());

        let pattern = wanted("s/**.bin", None, "");
        assert_eq!(address(&pattern, "a/b.bin"), Some(("s/a/b.bin".to_owned(), 0)));
        assert_eq!(address(&pattern, "a/b.txt"), None);
    }

    #[test]
    fn impossible_keys_are_errors() {
        for key in ["a\nb".to_owned(), "x".repeat(2000)] {
            assert!(wanted("s", None, "").object(announced(&key)).unwrap().is_err());
        }
    }
}
