//! Trees through the library: a relay over an in-memory store and an in-memory bus, into real folders.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt as _, stream};
use gantry_bus::Bus;
use gantry_client::tree::{Compare, Event, Item, Names, TreeOptions, TreeProgress, TreeReport};
use gantry_client::{Client, Error, Listed};
use gantry_relay::metrics::RelayMetrics;
use gantry_relay::shutdown::Shutdown;
use gantry_relay::{self as relay, Relay};
use gantry_store::Store;
use gantry_testing::bus::MemoryNetwork;
use gantry_testing::store::MemoryStore;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::support::data::{folder, random_bytes};

/// A relay, a client, and a target folder inside of a larger one.
struct World {
    store: Arc<MemoryStore>,
    client: Client,
    _relay: Relay,
    outside: TempDir,
}

impl World {
    async fn start() -> Self {
        let network = MemoryNetwork::new(1);
        let store = Arc::new(MemoryStore::new(100_000));
        let stores = BTreeMap::from([("s".parse().unwrap(), Arc::clone(&store) as Arc<dyn Store>)]);
        let bus = network.connect() as Arc<dyn Bus>;
        let metrics = Arc::new(RelayMetrics::default());
        let relay = Relay::start(bus, stores, relay::Options::default(), metrics, Shutdown::default()).await.unwrap();

        let outside = folder();
        fs::write(outside.path().join("neighbour"), "neighbour").unwrap();
        fs::create_dir(outside.path().join("target")).unwrap();
        let client = Client::new(network.connect(), gantry_client::Options::default());
        Self { store, client, _relay: relay, outside }
    }

    fn put(&self, key: &str, body: impl Into<Vec<u8>>) {
        self.store.put(key.parse().unwrap(), body.into());
    }

    fn target(&self) -> PathBuf {
        self.outside.path().join("target")
    }

    async fn download(&self, options: TreeOptions) -> (Result<TreeReport, Error>, Vec<String>) {
        self.download_prefix("", options).await
    }

    /// Downloads all keys with a prefix. Returns the events as text, in sorted order.
    async fn download_prefix(&self, prefix: &str, options: TreeOptions) -> (Result<TreeReport, Error>, Vec<String>) {
        let store = "s".parse().unwrap();
        let cut = prefix.rfind('/').map_or(0, |slash| slash + 1);
        let listing = self.client.list_recursive(&store, prefix);
        let items = listing.filter_map(move |name| {
            let store = store.clone();
            async move {
                match name {
                    Ok(Listed::Object(entry)) => Some(Ok(Item::listed(store, entry, cut).unwrap())),
                    Ok(_) => None,
                    Err(error) => Some(Err(error)),
                }
            }
        });
        self.download_items(items, options).await
    }

    async fn download_items(
        &self,
        items: impl futures_util::Stream<Item = Result<Item, Error>> + Send,
        options: TreeOptions,
    ) -> (Result<TreeReport, Error>, Vec<String>) {
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&events);
        let note = move |event: Event| seen.lock().unwrap().push(text(&event));
        let report = Box::pin(self.client.download_tree(items, &self.target(), options, note)).await;
        let mut events = events.lock().unwrap().clone();
        events.sort();
        (report, events)
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.target().join(path)).unwrap()
    }
}

fn text(event: &Event) -> String {
    match event {
        Event::Fetched { key, path, replaced: false, .. } => format!("fetched {key} {path}"),
        Event::Fetched { key, path, .. } => format!("replaced {key} {path}"),
        Event::WouldFetch { key, path, .. } => format!("would fetch {key} {path}"),
        Event::Unchanged { key, .. } => format!("unchanged {key}"),
        Event::Renamed { key, path, .. } => format!("renamed {key} {path}"),
        Event::Changed { key, .. } => format!("changed {key}"),
        Event::LeftOut { key, why, .. } => format!("left out {key}: {why}"),
        Event::Failed { key, error, .. } => format!("failed {key}: {error}"),
        Event::Deleted { path } => format!("deleted {path}"),
        Event::WouldDelete { path } => format!("would delete {path}"),
        other => format!("{other:?}"),
    }
}

/// Returns all paths below a folder, hidden ones included. Folders end with a slash.
fn walk(folder: &Path) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                paths.insert(format!("{name}/"));
                folders.push(path);
            } else {
                paths.insert(name);
            }
        }
    }
    paths
}

fn paths<const N: usize>(paths: [&str; N]) -> BTreeSet<String> {
    paths.into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_tree_is_complete_with_times_and_leaves_nothing_else() {
    let world = World::start().await;
    let large = random_bytes(1, 3_000_000);
    world.put("a/b/small", "small");
    world.put("a/empty", "");
    world.put("a/large", large.to_vec());
    world.put("top", "top");
    world.put("folder/", "");

    let (report, _) = world.download(TreeOptions::default()).await;

    let report = report.unwrap();
    assert_eq!((report.objects, report.fetched, report.proved, report.is_complete()), (5, 4, 4, true));
    assert_eq!(walk(&world.target()), paths(["a/", "a/b/", "a/b/small", "a/empty", "a/large", "folder/", "top"]));
    assert!(world.read("a/large") == large);
    assert_eq!(world.read("a/b/small"), b"small");
    let metadata = fs::metadata(world.target().join("a/large")).unwrap();
    assert_eq!(metadata.mtime(), 1_735_689_600, "2025-01-01T00:00:00Z");
    let new_file = world.outside.path().join("new");
    fs::write(&new_file, "").unwrap();
    assert_eq!(metadata.permissions().mode(), fs::metadata(new_file).unwrap().permissions().mode());
}

#[tokio::test]
async fn a_prefix_is_cut_after_its_last_slash() {
    let world = World::start().await;
    for key in ["a/b/c", "a/bc/d", "a/x"] {
        world.put(key, key);
    }
    world.download_prefix("a/b", TreeOptions::default()).await.0.unwrap();
    assert_eq!(walk(&world.target()), paths(["b/", "b/c", "bc/", "bc/d"]));
}

#[tokio::test]
async fn only_changed_objects_are_fetched_again() {
    let world = World::start().await;
    for key in ["changed", "edited", "same", "touched"] {
        world.put(key, "1234");
    }
    world.download(TreeOptions::default()).await.0.unwrap();
    let opens = world.store.opens();

    world.put("changed", "12345");
    fs::write(world.target().join("edited"), "abcd").unwrap();
    let (report, events) = world.download(TreeOptions::default()).await;

    assert_eq!(events, ["replaced changed changed", "replaced edited edited", "unchanged same", "unchanged touched"]);
    assert_eq!(report.unwrap().unchanged, 2);
    assert_eq!(world.store.opens(), opens + 2);
    assert_eq!((world.read("edited"), world.read("changed")), (b"1234".to_vec(), b"12345".to_vec()));

    // Its size and time are those of the object, its bytes are not.
    let wrong = fs::File::options().write(true).open(world.target().join("same")).unwrap();
    let time = wrong.metadata().unwrap().modified().unwrap();
    fs::write(world.target().join("same"), "abcd").unwrap();
    wrong.set_modified(time).unwrap();
    fs::File::options()
        .write(true)
        .open(world.target().join("touched"))
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    let (_, events) = world.download(TreeOptions::default().compare(Compare::Checksums)).await;
    assert_eq!(events, ["replaced same same", "unchanged changed", "unchanged edited", "unchanged touched"]);
    assert_eq!(world.read("same"), b"1234");
    assert_eq!(fs::metadata(world.target().join("touched")).unwrap().mtime(), 1_735_689_600);
}

#[tokio::test]
async fn without_times_a_newer_file_of_the_same_size_is_kept() {
    let world = World::start().await;
    world.put("a", "1234");
    let options = || TreeOptions::default().keep_times(false);
    world.download(options()).await.0.unwrap();
    assert!(fs::metadata(world.target().join("a")).unwrap().mtime() > 1_735_689_600);

    assert_eq!(world.download(options()).await.1, ["unchanged a"]);
    assert_eq!(world.download(TreeOptions::default()).await.1, ["replaced a a"]);
}

#[tokio::test]
async fn a_replaced_file_keeps_its_permissions() {
    let world = World::start().await;
    world.put("a", "1234");
    fs::write(world.target().join("a"), "").unwrap();
    fs::set_permissions(world.target().join("a"), fs::Permissions::from_mode(0o640)).unwrap();

    world.download(TreeOptions::default()).await.0.unwrap();

    assert_eq!(fs::metadata(world.target().join("a")).unwrap().permissions().mode() & 0o7777, 0o640);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let world = World::start().await;
    world.put("a/b", "1");
    world.put("c", "22");
    fs::write(world.target().join("c"), "").unwrap();
    fs::write(world.target().join("old"), "").unwrap();

    let (report, events) = world.download(TreeOptions::default().dry_run(true).delete(true).ordered(true)).await;

    assert_eq!(events, ["would delete old", "would fetch a/b a/b", "would fetch c c"]);
    let report = report.unwrap();
    assert_eq!((report.fetched, report.fetched_bytes, report.deleted), (2, 3, 1));
    assert_eq!(walk(&world.target()), paths(["c", "old"]));
    assert_eq!(world.store.opens(), 0);

    fs::remove_dir_all(world.target()).unwrap();
    assert_eq!(world.download(TreeOptions::default().dry_run(true)).await.1.len(), 2);
    assert!(!world.target().exists());
}

/// Keys that are renamed on every system, because some systems give these names a special meaning.
const RENAMED: [&str; 11] =
    ["..\\neighbour", "C:\\x", "C:/x", "e:stream", "con", "z/NUL.txt", "lpt1", "f.", "g ", "h\tb", "i\u{1b}[2J"];

/// Downloads every kind of hostile key to an empty folder inside a larger one.
#[tokio::test]
async fn hostile_keys_reach_nothing_outside_and_each_is_reported() {
    let world = World::start().await;
    let before = walk(world.outside.path());
    let long = "x".repeat(256);
    let absolute = format!("{}/neighbour", world.outside.path().to_str().unwrap());
    let rejected = [
        "../neighbour",
        "a/../../neighbour",
        "a/..",
        "..",
        "../",
        ".",
        "./neighbour",
        "/neighbour",
        "//neighbour",
        "/",
        "b//c",
        "b/",
        "d",
        "d/e",
        "d/f/g",
        ".x.gantry-part",
        "y/.x.gantry-part.json",
        ".gantry-tree/lock",
        ".GANTRY-TREE/x",
        &long,
        &absolute,
    ];
    let renamed = RENAMED;
    for key in rejected.iter().chain(&renamed).chain(&["good", "z/good"]) {
        world.put(key, "hostile");
    }

    for _ in 0..2 {
        let (report, events) = world.download(TreeOptions::default()).await;

        let report = report.unwrap();
        assert!(!report.is_complete());
        // "d" is a file, so that "d/e" and "d/f/g" are left out.
        assert_eq!(report.left_out, rejected.len() as u64 - 1, "{events:#?}");
        for key in rejected.iter().filter(|key| **key != "d") {
            assert!(events.iter().any(|event| event.starts_with(&format!("left out {key}: "))), "{key:?}: {events:#?}");
        }
        if report.fetched > 0 {
            for key in renamed {
                assert!(
                    events.iter().any(|event| event.starts_with(&format!("renamed {key} "))),
                    "{key:?}: {events:#?}"
                );
            }
        }

        let expected = [
            "..＼neighbour",
            "C：/",
            "C：/x",
            "C：＼x",
            "d",
            "e：stream",
            "f．",
            "g␠",
            "good",
            "h␉b",
            "i␛[2J",
            "z/",
            "z/good",
            "z/ＮUL.txt",
            "ｃon",
            "ｌpt1",
        ];
        assert_eq!(walk(&world.target()), paths(expected));
    }
    assert_eq!(fs::read(world.outside.path().join("neighbour")).unwrap(), b"neighbour");
    let after = walk(world.outside.path()).into_iter().filter(|path| !path.starts_with("target/"));
    assert_eq!(after.collect::<BTreeSet<_>>(), before.into_iter().filter(|path| path != "target/").collect());
}

#[tokio::test]
async fn native_names_are_kept() {
    let world = World::start().await;
    for key in ["a:b", "con", "c\\d", "e "] {
        world.put(key, key);
    }
    world.download(TreeOptions::default().names(Names::Native)).await.0.unwrap();
    assert_eq!(walk(&world.target()), paths(["a:b", "con", "c\\d", "e "]));
}

#[tokio::test]
async fn links_and_special_files_in_the_target_are_neither_followed_nor_replaced() {
    let world = World::start().await;
    let target = world.target();
    fs::create_dir(world.outside.path().join("elsewhere")).unwrap();
    symlink("../elsewhere", target.join("folder")).unwrap();
    symlink("../neighbour", target.join("file")).unwrap();
    symlink("../missing", target.join("dangling")).unwrap();
    symlink(".", target.join("here")).unwrap();
    fs::create_dir(target.join("taken")).unwrap();
    fs::write(target.join("blocked"), "blocked").unwrap();
    for key in ["folder/a", "folder/b/c", "file", "dangling", "here/x", "taken", "blocked/x", "good"] {
        world.put(key, "new");
    }

    let (report, events) = world.download(TreeOptions::default()).await;

    let report = report.unwrap();
    assert_eq!((report.fetched, report.left_out), (1, 7), "{events:#?}");
    assert_eq!(walk(&world.outside.path().join("elsewhere")), paths([]));
    assert_eq!(fs::read(world.outside.path().join("neighbour")).unwrap(), b"neighbour");
    assert!(!world.outside.path().join("missing").exists());
    let expected = paths(["blocked", "dangling", "file", "folder", "good", "here", "taken/"]);
    assert_eq!(walk(&target), expected);
    assert_eq!(world.read("blocked"), b"blocked");
}

#[tokio::test]
async fn deletion_stays_in_the_folder_and_spares_links() {
    let world = World::start().await;
    let target = world.target();
    for key in ["a/keep", "b:c/keep", "keep", "m/n/o"] {
        world.put(key, "1");
    }
    world.download(TreeOptions::default()).await.0.unwrap();
    fs::create_dir(world.outside.path().join("elsewhere")).unwrap();
    fs::write(world.outside.path().join("elsewhere/file"), "1").unwrap();
    symlink("../elsewhere", target.join("link")).unwrap();
    symlink("../neighbour", target.join("a/link")).unwrap();
    fs::create_dir_all(target.join("old/deep")).unwrap();
    for path in ["a/ant", "a/zebra", "b:d", "old/deep/x", "old/y", "0first", "zlast", "m/n.txt", "m/n/oo"] {
        fs::write(target.join(path), "1").unwrap();
    }

    let (report, events) = world.download(TreeOptions::default().ordered(true).delete(true)).await;

    let deleted: BTreeSet<_> = events.iter().filter_map(|event| event.strip_prefix("deleted ")).collect();
    let expected = ["0first", "a/ant", "a/zebra", "b:d", "m/n.txt", "m/n/oo", "old/deep/x", "old/y", "zlast"];
    assert_eq!(deleted, expected.into());
    assert_eq!(report.unwrap().deleted, 9);
    let expected = ["a/", "a/keep", "a/link", "b：c/", "b：c/keep", "keep", "link", "m/", "m/n/", "m/n/o"];
    assert_eq!(walk(&target), paths(expected));
    assert_eq!(walk(&world.outside.path().join("elsewhere")), paths(["file"]));
    assert_eq!(fs::read(world.outside.path().join("neighbour")).unwrap(), b"neighbour");
}

#[tokio::test]
async fn nothing_is_deleted_without_a_complete_listing() {
    let world = World::start().await;
    world.put("b", "1");
    fs::write(world.target().join("a"), "1").unwrap();
    fs::write(world.target().join("z"), "1").unwrap();
    let item = |key: &str| Ok(Item::new("s".parse().unwrap(), key.parse().unwrap(), 0));
    let delete = || TreeOptions::default().ordered(true).delete(true);

    let cut_off = stream::iter([item("b"), Err(Error::StoreLeft("s".parse().unwrap()))]);
    assert!(matches!(world.download_items(cut_off, delete()).await.0, Err(Error::StoreLeft(_))));
    world.put("c", "1");
    let disordered = stream::iter([item("c"), item("b")]);
    assert!(matches!(world.download_items(disordered, delete()).await.0, Err(Error::Malformed(_))));
    let nothing = stream::iter([]);
    world.download_items(nothing, delete()).await.0.unwrap();
    let failing = stream::iter([item("b"), item("missing")]);
    assert_eq!(world.download_items(failing, delete()).await.0.unwrap().failed, 1);

    assert_eq!(walk(&world.target()), paths(["a", "b", "c", "z"]));
}

#[tokio::test]
async fn one_failed_object_does_not_stop_the_others() {
    let world = World::start().await;
    for key in ["a", "b", "c"] {
        world.put(key, key);
    }
    let item = |key: &str| Ok(Item::new("s".parse().unwrap(), key.parse().unwrap(), 0));
    let items = stream::iter(["a", "missing", "b", "c"].map(item));

    let (report, events) = world.download_items(items, TreeOptions::default()).await;

    let report = report.unwrap();
    assert_eq!((report.fetched, report.failed), (3, 1), "{events:#?}");
    assert_eq!(walk(&world.target()), paths(["a", "b", "c"]));
}

#[tokio::test]
async fn the_end_of_a_short_listing_is_known_before_its_objects_are_fetched() {
    const OBJECTS: u64 = 200;
    let world = World::start().await;
    for number in 0..OBJECTS {
        world.put(&format!("{number:03}"), "body");
    }
    let (progress, mut seen) = watch::channel(TreeProgress::default());
    let options = TreeOptions::default().jobs(1).progress(Some(progress));
    let listed = async { *seen.wait_for(|progress| progress.is_listed).await.unwrap() };

    let ((report, _), listed) = tokio::join!(world.download(options), listed);

    assert_eq!(report.unwrap().fetched, OBJECTS);
    assert_eq!(listed.found, OBJECTS);
    assert!(listed.done < OBJECTS / 2, "{listed:?}");
}

#[tokio::test]
async fn two_objects_with_one_path_are_not_mixed() {
    let world = World::start().await;
    world.put("a/x", "from a");
    world.put("b/x", "from b");
    let item = |key: &str| Ok(Item::new("s".parse().unwrap(), key.parse().unwrap(), 2));
    let (report, events) = world.download_items(stream::iter(["a/x", "b/x"].map(item)), TreeOptions::default()).await;

    assert_eq!(events, ["fetched a/x x", "left out b/x: another object has the same path"]);
    assert_eq!(report.unwrap().left_out, 1);
    assert_eq!(world.read("x"), b"from a");
}

#[tokio::test]
async fn one_folder_serves_one_download_at_a_time() {
    let world = World::start().await;
    world.put("a", "1");
    let stage = world.target().join(".gantry-tree");
    fs::create_dir(&stage).unwrap();
    let lock = fs::File::create(stage.join("lock")).unwrap();
    lock.lock().unwrap();

    let (report, _) = world.download(TreeOptions::default()).await;
    assert!(matches!(&report, Err(Error::Part(gantry_client::part::Error::InUse(_)))), "{report:?}");
    assert!(report.unwrap_err().is_retryable());

    lock.unlock().unwrap();
    world.download(TreeOptions::default()).await.0.unwrap();
    assert_eq!(walk(&world.target()), paths(["a"]));
}

#[tokio::test]
async fn a_stage_of_another_user_is_refused() {
    let world = World::start().await;
    world.put("a", "1");
    let stage = world.target().join(".gantry-tree");
    symlink("..", &stage).unwrap();
    assert!(world.download(TreeOptions::default()).await.0.is_err());
    fs::remove_file(&stage).unwrap();

    fs::create_dir(&stage).unwrap();
    // Without root, the folder can only be our own.
    if std::os::unix::fs::chown(&stage, Some(65_534), None).is_ok() {
        assert!(world.download(TreeOptions::default()).await.0.is_err());
        assert_eq!(walk(&stage), paths(["lock"]));
    }
}
