//! The tests that every store must pass.

use bytes::Bytes;
use gantry_proto::{Key, Pin, Span};
use gantry_store::{Error, Store};

use super::{key, list_all, read};
use crate::support::data::random_bytes;

/// The approximate size of the test objects.
pub(crate) const RANGE_BYTES: usize = 64 * 1024;

/// The properties in which stores may differ.
pub(crate) struct Ways<'a> {
    /// Keys that this store accepts in addition to the common ones. The tests do not check how a listing shows them.
    pub(crate) awkward: &'a [&'a str],
    /// The longest key, in bytes.
    pub(crate) key_max: usize,
    /// Whether listings are in the byte order of the keys.
    pub(crate) is_ordered: bool,
}

/// Runs all tests on one store. `put` creates an object in it.
pub(crate) async fn conforms(store: &dyn Store, put: impl AsyncFn(&str, Bytes), ways: Ways<'_>) {
    yields_every_byte_of_every_span(store, &put).await;
    pins_one_version(store, &put).await;
    reports_what_is_missing(store).await;
    finds_awkward_keys(store, &put, &ways).await;
    lists_in_pages(store, &put, ways.is_ordered).await;
    store.probe().await.unwrap();
}

async fn yields_every_byte_of_every_span(store: &dyn Store, put: &impl AsyncFn(&str, Bytes)) {
    let sizes = [0, 1, RANGE_BYTES - 1, RANGE_BYTES, RANGE_BYTES + 1, 2 * RANGE_BYTES, 7 * RANGE_BYTES + 13];
    for (seed, size) in sizes.into_iter().enumerate() {
        let name = format!("sizes/{size}");
        let bytes = random_bytes(seed as u64, size);
        put(&name, bytes.clone()).await;
        let size = size as u64;
        let object = store.stat(&key(&name), &Pin::default()).await.unwrap();
        assert_eq!((object.key.as_str(), object.size), (name.as_str(), size));
        assert!(object.etag.len() > 2 && object.last_modified.as_ref().unwrap().ends_with('Z'), "{object:?}");
        let middle = size / 2;
        for (start, end) in [
            (0, None),
            (0, Some(size)),
            (0, Some(size + 1000)),
            (0, Some(0)),
            (0, Some(1)),
            (middle, None),
            (middle, Some(middle)),
            (middle / 2, Some(middle)),
            (size.saturating_sub(1), None),
            (size, None),
            (size, Some(size + 1)),
        ] {
            let opened = store.open(&key(&name), &Pin::default(), Span { start, end }).await.unwrap();
            assert_eq!(opened.object, object, "{name} {start} {end:?}");
            let got = super::collect(opened).await.unwrap();
            let range = start..end.unwrap_or(size).clamp(start, size);
            let at = |offset| usize::try_from(offset).unwrap();
            let expected = bytes.slice(at(range.start)..at(range.end));
            assert!(got == expected, "{name} {start} {end:?}: {} bytes, expected {}", got.len(), expected.len());
        }
        for end in [None, Some(size + 1), Some(size + 2)] {
            let error = read(store, &name, &Pin::default(), size + 1, end).await.unwrap_err();
            assert!(matches!(error, Error::Range { start, size: s } if start == size + 1 && s == size), "{error:?}");
        }
    }
}

async fn pins_one_version(store: &dyn Store, put: &impl AsyncFn(&str, Bytes)) {
    let size = 3 * RANGE_BYTES;
    put("pinned", random_bytes(1, size)).await;
    let pin = store.stat(&key("pinned"), &Pin::default()).await.unwrap().pin();
    assert_eq!(read(store, "pinned", &pin, 0, None).await.unwrap(), random_bytes(1, size));
    assert_eq!(read(store, "pinned", &pin, 10, Some(20)).await.unwrap(), random_bytes(1, size).slice(10..20));

    put("pinned", random_bytes(2, size)).await;

    let pin = Pin { if_match: pin.if_match, version_id: None };
    for (start, end) in [(0, None), (10, None), (0, Some(0)), (10, Some(20)), (size as u64, None)] {
        let error = read(store, "pinned", &pin, start, end).await.unwrap_err();
        assert!(matches!(error, Error::Changed(_)), "{start} {end:?}: {error:?}");
    }
    let error = store.stat(&key("pinned"), &pin).await.unwrap_err();
    assert!(matches!(error, Error::Changed(_)), "{error:?}");
    let pin = Pin { if_match: None, version_id: Some("0123456789abcdef".to_owned()) };
    let error = read(store, "pinned", &pin, 0, None).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
}

async fn reports_what_is_missing(store: &dyn Store) {
    for (start, end) in [(0, None), (0, Some(0)), (5, None), (5, Some(7))] {
        let error = read(store, "no/such key", &Pin::default(), start, end).await.unwrap_err();
        assert!(matches!(error, Error::NotFound(_)), "{error:?}");
        let message = error.to_string();
        assert!(message.contains("no/such key") && !message.contains('\n'), "{message}");
    }
    let error = store.stat(&key("no/such key"), &Pin::default()).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
}

async fn finds_awkward_keys(store: &dyn Store, put: &impl AsyncFn(&str, Bytes), ways: &Ways<'_>) {
    let long = ["p".repeat(200), "q".repeat(200), "r".repeat(200), "s".repeat(200), "t".repeat(220)].join("/");
    assert_eq!(long.len(), Key::MAX_BYTES);
    let long = &long[..ways.key_max];
    let keys = ["a b  c.txt", "grüße/日本語/🚀", "100%/%20?x=1#frag", "a+b&c=d;e", "\"quoted\" 'too'", long];
    for (seed, name) in keys.iter().chain(ways.awkward).enumerate() {
        let bytes = random_bytes(seed as u64, 1000);
        put(name, bytes.clone()).await;
        assert_eq!(read(store, name, &Pin::default(), 0, None).await.unwrap(), bytes, "{name}");
        assert_eq!(read(store, name, &Pin::default(), 500, None).await.unwrap(), bytes.slice(500..), "{name}");
        if seed < keys.len() {
            assert_eq!(list_all(store, name, true, 10).await.0, [*name]);
        }
    }
}

async fn lists_in_pages(store: &dyn Store, put: &impl AsyncFn(&str, Bytes), is_ordered: bool) {
    let list_all = async |prefix, recursive, limit| {
        let (mut keys, mut prefixes) = list_all(store, prefix, recursive, limit).await;
        if !is_ordered {
            keys.sort();
            prefixes.sort();
        }
        (keys, prefixes)
    };
    // In the order of bytes: `-` and `.` come before `/`, digits after it.
    let all =
        ["list/a", "list/d-1", "list/d.txt", "list/d/1", "list/d/2/x", "list/d/3", "list/d0", "list/e/f/g", "list/z"];
    for name in all.iter().rev() {
        put(name, Bytes::from_static(b"x")).await;
    }
    for limit in [1, 2, 3, 100] {
        let (keys, prefixes) = list_all("list/", true, limit).await;
        assert_eq!(keys, all, "limit {limit}");
        assert!(prefixes.is_empty());
        let (keys, prefixes) = list_all("list/", false, limit).await;
        assert_eq!(keys, ["list/a", "list/d-1", "list/d.txt", "list/d0", "list/z"], "limit {limit}");
        assert_eq!(prefixes, ["list/d/", "list/e/"], "limit {limit}");
        let (keys, prefixes) = list_all("list/d", false, limit).await;
        assert_eq!(keys, ["list/d-1", "list/d.txt", "list/d0"], "limit {limit}");
        assert_eq!(prefixes, ["list/d/"], "limit {limit}");
        assert_eq!(list_all("list/d/2", true, limit).await.0, ["list/d/2/x"]);
        assert!(list_all("list/nothing/", true, limit).await.0.is_empty());
    }
}
