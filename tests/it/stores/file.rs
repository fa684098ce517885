//! The file store.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use bytes::Bytes;
use futures_util::TryStreamExt;
use gantry_proto::{Key, Pin, Span};
use gantry_store::file::{FileStore, Options};
use gantry_store::{Budget, Error, Store};

use super::conformance::Ways;
use super::{collect, conformance, key, list_all, read};
use crate::support::data::{folder, random_bytes};
use crate::support::until;

fn store(root: &Path, budget_bytes: u64) -> FileStore {
    let options = Options { block_bytes: conformance::RANGE_BYTES, ..Options::new(root) };
    FileStore::new(&options, Budget::new(budget_bytes)).unwrap()
}

fn put(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    // A new file that is renamed into place, so that readers never see a partial one.
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn a_directory_conforms() {
    for budget_bytes in [0, 1 << 20] {
        let root = folder();
        let store = store(root.path(), budget_bytes);
        let put = async |name: &str, bytes: Bytes| put_any(root.path(), name, &bytes);
        conformance::conforms(&store, put, Ways { awkward: &[], key_max: Key::MAX_BYTES, is_ordered: true }).await;
    }
}

/// Takes the longest names too, which `with_extension` would make too long.
fn put_any(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let new = root.join(".new");
    std::fs::write(&new, bytes).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn nothing_outside_is_read() {
    let outside = folder();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let root = folder();
    let inside = root.path();
    put(inside, "dir/file", b"inside");
    symlink(outside.path().join("secret"), inside.join("absolute")).unwrap();
    symlink(outside.path(), inside.join("away")).unwrap();
    symlink("../dir/../../", inside.join("dir/up")).unwrap();
    symlink("/etc/passwd", inside.join("passwd")).unwrap();
    symlink("dir/file", inside.join("link")).unwrap();
    symlink("loop", inside.join("loop")).unwrap();
    let store = store(inside, 0);
    let name = outside.path().file_name().unwrap().to_str().unwrap();

    for refused in [
        "..",
        "../x",
        &format!("../{name}/secret"),
        "dir/../dir/file",
        "/etc/passwd",
        "//etc/passwd",
        "dir//file",
        "./dir/file",
        "dir/file/",
        ".",
        "absolute",
        "away/secret",
        "dir/up/x",
        "passwd",
        "loop",
        "dir/file/x",
    ] {
        let error = read(&store, refused, &Pin::default(), 0, None).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_) | Error::Denied(_) | Error::NotFound(_)), "{refused}: {error:?}");
    }
    assert_eq!(read(&store, "link", &Pin::default(), 0, None).await.unwrap(), "inside");
    assert_eq!(list_all(&store, "", true, 10).await.0, ["dir/file", "link"]);
    for prefix in ["../", "/", "dir/../", "away/", "dir/up/"] {
        let request = gantry_proto::ListRequest { prefix: prefix.into(), ..Default::default() };
        if let Ok(page) = store.list(&request).await {
            assert!(page.entries.is_empty() && page.prefixes.is_empty(), "{prefix}: {page:?}");
        }
    }
}

#[tokio::test]
async fn only_regular_files_are_objects() {
    let root = folder();
    std::fs::create_dir(root.path().join("dir")).unwrap();
    let fifo = root.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(root.path().join("socket")).unwrap();
    let store = store(root.path(), 0);

    for name in ["dir", "fifo", "socket"] {
        let error = read(&store, name, &Pin::default(), 0, None).await.unwrap_err();
        assert!(matches!(error, Error::NotFound(_)), "{name}: {error:?}");
    }
    assert!(list_all(&store, "", true, 10).await.0.is_empty());
}

#[tokio::test]
async fn a_write_while_reading_is_detected() {
    let bytes = random_bytes(1, 8 * conformance::RANGE_BYTES);
    for size in [bytes.len() / 2, bytes.len() - 1, bytes.len(), bytes.len() + 1] {
        let root = folder();
        put(root.path(), "file", &bytes);
        let store = store(root.path(), 1 << 20);
        let mut opened = store.open(&key("file"), &Pin::default(), Span::default()).await.unwrap();
        opened.body.try_next().await.unwrap().unwrap();

        let file = std::fs::File::options().write(true).open(root.path().join("file")).unwrap();
        file.set_len(size as u64).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();

        let error = collect(opened).await.unwrap_err();
        assert!(matches!(error, Error::Changed(_)), "{error:?}");
    }
}

/// Writes other bytes of the same length into the file and resets its modification time, until the file system's clock
/// has advanced.
async fn rewrite_in_place(path: &Path, bytes: &[u8]) {
    let before = std::fs::metadata(path).unwrap();
    until("another change time", async || {
        let mut file = std::fs::File::options().write(true).open(path).unwrap();
        file.write_all(bytes).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
        let now = file.metadata().unwrap();
        assert_eq!((now.modified().unwrap(), now.len()), (before.modified().unwrap(), before.len()));
        ((now.ctime(), now.ctime_nsec()) != (before.ctime(), before.ctime_nsec())).then_some(())
    })
    .await;
}

/// With another modification time, any relay would see another version. This change shows only in the identity of the
/// open file.
#[tokio::test]
async fn a_rewrite_in_place_that_sets_the_time_back_ends_the_transfer() {
    let root = folder();
    put(root.path(), "file", &random_bytes(1, 4 * conformance::RANGE_BYTES));
    let store = store(root.path(), 0);
    let pin = store.stat(&key("file"), &Pin::default()).await.unwrap().pin();
    let mut opened = store.open(&key("file"), &pin, Span::default()).await.unwrap();
    opened.body.try_next().await.unwrap().unwrap();

    rewrite_in_place(&root.path().join("file"), &random_bytes(2, 4 * conformance::RANGE_BYTES)).await;

    let error = collect(opened).await.unwrap_err();
    assert!(matches!(error, Error::Changed(_)), "{error:?}");
    let listed = store.list(&gantry_proto::ListRequest::default()).await.unwrap();
    let object = store.stat(&key("file"), &Pin::default()).await.unwrap();
    assert_eq!(listed.entries[0].etag, Some(object.etag));
}

#[tokio::test]
async fn copies_are_one_version_if_size_and_modification_time_agree() {
    let (one, other) = (folder(), folder());
    let bytes = random_bytes(1, 4 * conformance::RANGE_BYTES);
    put(one.path(), "file", &bytes);
    put(other.path(), "file", &bytes);
    let written = std::fs::metadata(one.path().join("file")).unwrap().modified().unwrap();
    let copy = std::fs::File::options().write(true).open(other.path().join("file")).unwrap();
    let (one, other) = (store(one.path(), 0), store(other.path(), 0));
    let pin = one.stat(&key("file"), &Pin::default()).await.unwrap().pin();

    copy.set_modified(written).unwrap();
    assert!(read(&other, "file", &pin, 7, None).await.unwrap() == bytes[7..]);

    copy.set_modified(written + std::time::Duration::from_nanos(1)).unwrap();
    assert!(matches!(read(&other, "file", &pin, 7, None).await.unwrap_err(), Error::Changed(_)));
    copy.set_len(5).unwrap();
    copy.set_modified(written).unwrap();
    assert!(matches!(read(&other, "file", &pin, 0, None).await.unwrap_err(), Error::Changed(_)));
}

/// As root, no folder is unreadable, so one name less is omitted.
#[tokio::test]
async fn names_that_cannot_be_listed_are_counted_and_hide_no_other() {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    let root = folder();
    for name in ["a", "m/n", "z"] {
        put(root.path(), name, b"x");
    }
    std::fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"b\xff")), "").unwrap();
    std::fs::write(root.path().join("m/line\nbreak"), "").unwrap();
    std::fs::create_dir(root.path().join("lost+found")).unwrap();
    std::fs::set_permissions(root.path().join("lost+found"), std::fs::Permissions::from_mode(0o000)).unwrap();
    symlink("loop", root.path().join("loop")).unwrap();
    symlink(".", root.path().join("m/self")).unwrap();
    let is_denied = std::fs::read_dir(root.path().join("lost+found")).is_err();
    let store = store(root.path(), 0);

    for limit in [1, 2, 1000] {
        let mut request = gantry_proto::ListRequest { recursive: true, limit: Some(limit), ..Default::default() };
        let (mut keys, mut omitted) = (Vec::new(), 0);
        loop {
            let page = store.list(&request).await.unwrap();
            keys.extend(page.entries.into_iter().map(|entry| entry.key));
            omitted += page.omitted;
            match page.next {
                Some(next) => request.token = Some(next),
                None => break,
            }
        }
        assert_eq!(keys, ["a", "m/n", "z"], "{limit}");
        assert_eq!(omitted, 2 + u64::from(is_denied), "{limit}");
    }
    store.probe().await.unwrap();
}

#[tokio::test]
async fn a_file_replaced_while_reading_is_read_to_its_end() {
    let root = folder();
    let bytes = random_bytes(1, 4 * conformance::RANGE_BYTES);
    put(root.path(), "file", &bytes);
    let store = store(root.path(), 0);
    let opened = store.open(&key("file"), &Pin::default(), Span::default()).await.unwrap();

    put(root.path(), "file", b"another");

    assert!(collect(opened).await.unwrap() == bytes);
}

#[test]
fn a_root_that_is_not_a_directory_is_rejected() {
    let root = folder();
    put(root.path(), "file", b"x");
    for path in ["none", "file"] {
        let error = FileStore::new(&Options::new(root.path().join(path)), Budget::new(0)).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    }
}

/// The relay once served the deleted directory, which is empty, and reported that it was ready.
#[tokio::test]
async fn a_directory_that_is_deleted_is_unavailable_until_it_exists_again() {
    let parent = folder();
    let root = parent.path().join("served");
    put(&root, "file", b"old");
    let store = store(&root, 0);
    let get = async || read(&store, "file", &Pin::default(), 0, None).await;
    assert_eq!(get().await.unwrap(), "old");

    std::fs::remove_dir_all(&root).unwrap();
    assert!(matches!(get().await.unwrap_err(), Error::Unavailable { .. }));
    assert!(matches!(store.list(&gantry_proto::ListRequest::default()).await.unwrap_err(), Error::Unavailable { .. }));
    assert!(matches!(store.probe().await.unwrap_err(), Error::Unavailable { .. }));

    put(&root, "file", b"new");
    store.probe().await.unwrap();
    assert_eq!(get().await.unwrap(), "new");
    assert_eq!(list_all(&store, "", true, 10).await.0, ["file"]);
}

#[tokio::test]
async fn a_directory_that_replaces_another_one_is_served() {
    let parent = folder();
    let (root, link) = (parent.path().join("served"), parent.path().join("current"));
    put(&parent.path().join("one"), "file", b"one");
    put(&parent.path().join("two"), "file", b"two");
    symlink("one", &link).unwrap();
    std::fs::rename(parent.path().join("one"), &root).unwrap();
    symlink("served", parent.path().join("new")).unwrap();
    std::fs::rename(parent.path().join("new"), &link).unwrap();
    let (by_path, by_link) = (store(&root, 0), store(&link, 0));

    std::fs::rename(&root, parent.path().join("one")).unwrap();
    std::fs::rename(parent.path().join("two"), &root).unwrap();

    for store in [&by_path, &by_link] {
        assert_eq!(read(store, "file", &Pin::default(), 0, None).await.unwrap(), "two");
    }
}

#[tokio::test]
async fn read_ahead_is_released_while_nobody_takes_bytes() {
    let root = folder();
    let bytes = random_bytes(1, 4 * conformance::RANGE_BYTES);
    put(root.path(), "file", &bytes);
    let budget = Budget::new(1 << 20);
    let options = Options { block_bytes: conformance::RANGE_BYTES, ..Options::new(root.path()) };
    let store = FileStore::new(&options, budget.clone()).unwrap();
    let mut opened = store.open(&key("file"), &Pin::default(), Span::default()).await.unwrap();
    let first = opened.body.try_next().await.unwrap().unwrap();
    assert_eq!(budget.reserved_bytes(), conformance::RANGE_BYTES as u64);

    until("the release", async || (budget.reserved_bytes() == 0).then_some(())).await;

    let rest = collect(opened).await.unwrap();
    assert!([first, rest].concat() == bytes);
}

#[tokio::test]
async fn a_large_directory_is_listed_completely_in_little_memory() {
    let root = folder();
    let names: Vec<_> = (0..3000).map(|number| format!("d{}/{number:04}{}", number / 1000, "x".repeat(99))).collect();
    for name in &names {
        put(root.path(), name, b"");
    }

    for (budget_bytes, limit) in [(0, 1000), (0, 999), (1 << 20, 1000), (64 << 20, 7)] {
        let budget = Budget::new(budget_bytes);
        let store = FileStore::new(&Options::new(root.path()), budget.clone()).unwrap();
        assert!(list_all(&store, "", true, limit).await.0 == names, "{budget_bytes} bytes, {limit} keys");
        assert!(list_all(&store, "d1/", false, limit).await.0 == names[1000..2000], "{budget_bytes} bytes");
        assert!(list_all(&store, "d2/29", false, limit).await.0 == names[2900..], "{budget_bytes} bytes");
        assert_eq!(list_all(&store, "", false, limit).await.1, ["d0/", "d1/", "d2/"]);

        store.probe().await.unwrap();
        assert!(budget.reserved_bytes() <= budget_bytes);
    }
}

#[tokio::test]
async fn a_new_listing_shows_new_files_and_later_pages_skip_deleted_ones() {
    let root = folder();
    for name in ["a", "b", "c", "d"] {
        put(root.path(), name, b"x");
    }
    let store = store(root.path(), 1 << 20);
    let list = async |token: Option<String>| {
        let request = gantry_proto::ListRequest { limit: Some(2), token, ..Default::default() };
        let page = store.list(&request).await.unwrap();
        (page.entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>(), page.next)
    };
    let (keys, next) = list(None).await;
    assert_eq!(keys, ["a", "b"]);

    std::fs::remove_file(root.path().join("c")).unwrap();
    put(root.path(), "aa", b"x");

    assert_eq!(list(next).await, (vec!["d".to_owned()], None));
    assert_eq!(list(None).await.0, ["a", "aa"]);
}
