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
    // A new file each time, as those do it who want readers to see all or nothing.
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

/// `with_extension` would lengthen the longest names too far.
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

/// Writes other bytes of the same length into the file and sets its time back, until the file system's clock has gone
/// on.
async fn rewrite_in_place(path: &Path, bytes: &[u8]) {
    let before = std::fs::metadata(path).unwrap();
    until("another time of change", async || {
        let mut file = std::fs::File::options().write(true).open(path).unwrap();
        file.write_all(bytes).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
        let now = file.metadata().unwrap();
        assert_eq!((now.modified().unwrap(), now.len()), (before.modified().unwrap(), before.len()));
        ((now.ctime(), now.ctime_nsec()) != (before.ctime(), before.ctime_nsec())).then_some(())
    })
    .await;
}

/// With another time the version would be another one, and so seen by any relay; this is the case that only shows in the
/// file's identity.
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
async fn copies_are_one_version_where_size_and_time_of_writing_agree() {
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

/// Run as root, when a folder's mode denies nothing, this has one omitted name less.
#[tokio::test]
async fn names_that_cannot_be_shown_are_counted_and_hide_no_other() {
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
