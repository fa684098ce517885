//! What the store in Azure does with a container that answers: the double's, or a real one that the environment names.

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use gantry_proto::{ChecksumAlgorithm, ChecksumKind, Key, ListRequest, Pin, Span};
use gantry_store::azure::{AzureStore, Credentials, Limits, Options};
use gantry_store::{Budget, Error, Store};

use super::azure::{self, SecretFile};
use super::conformance::{self, Ways};
use super::written::Written;
use super::{collect, key, list_all, read};
use crate::support::azure_double::{AzureDouble, KEY};
use crate::support::cloud_writers::AzureWriter;
use crate::support::data::random_bytes;

/// A container for the tests, of which they use the blobs below a prefix.
struct Place {
    options: Options,
    writer: AzureWriter,
    written: Written,
    large_bytes: usize,
    double: Option<(AzureDouble, SecretFile)>,
}

impl Place {
    /// The double checks the signature of every request, so that every key is signed as it is sent.
    async fn of_double() -> Self {
        let (double, file) = (AzureDouble::start().await, SecretFile::new(KEY));
        let options = azure::options(&double, Credentials::AccountKey(file.path()));
        let (writer, written) = (double.writer(), Written::default());
        Self { options, writer, written, large_bytes: 1 << 30, double: Some((double, file)) }
    }

    /// The container `GANTRY_TEST_AZURE_CONTAINER` of `AZURE_STORAGE_ACCOUNT`. The store uses the credentials of the
    /// environment, and the tests write with the SAS in `GANTRY_TEST_AZURE_SAS`, which needs the permissions `racwdl`.
    fn real() -> Self {
        let set = |variable| std::env::var(variable).unwrap_or_else(|_| panic!("set {variable}"));
        let (account, container) = (set("AZURE_STORAGE_ACCOUNT"), set("GANTRY_TEST_AZURE_CONTAINER"));
        let endpoint = format!("https://{account}.blob.core.windows.net");
        let writer = AzureWriter { endpoint, container: container.clone(), sas: set("GANTRY_TEST_AZURE_SAS") };
        let prefix = format!("gantry-test-{}/", fastrand::u64(..));
        let options = Options { prefix, ..Options::new(account, container) };
        Self { options, writer, written: Written::default(), large_bytes: 1 << 30, double: None }
    }

    fn store(&self, folder: &str) -> AzureStore {
        self.store_with(folder, Limits::default(), 64 << 20)
    }

    fn store_with(&self, folder: &str, limits: Limits, budget_bytes: u64) -> AzureStore {
        let prefix = format!("{}{folder}", self.options.prefix);
        AzureStore::connect(Options { prefix, limits, ..self.options.clone() }, Budget::new(budget_bytes)).unwrap()
    }

    /// Returns the whole name of a blob that is about to be put.
    fn named(&self, name: &str) -> String {
        let name = format!("{}{name}", self.options.prefix);
        self.written.add(&name);
        name
    }

    async fn put(&self, name: &str, bytes: impl Into<Bytes>) {
        self.writer.put(&self.named(name), bytes.into()).await;
    }

    async fn put_without_md5(&self, name: &str, bytes: impl Into<Bytes>) {
        self.writer.put_without_md5(&self.named(name), bytes.into()).await;
    }

    async fn put_folder(&self, name: &str) {
        self.writer.put_folder(&self.named(name)).await;
    }

    async fn delete(&self, name: &str) {
        let name = self.named(name);
        self.writer.delete(&name).await;
        self.written.remove(&name);
    }
}

#[tokio::test]
async fn a_container_conforms() {
    conforms(&Place::of_double().await).await;
}

async fn conforms(place: &Place) {
    for (prefix, concurrency_max, budget_bytes) in [("", 1, 0), ("some/prefix-", 4, 64 << 20), ("x/", 3, 200_000)] {
        let prefix = format!("conforms-{concurrency_max}/{prefix}");
        let limits = Limits { range_bytes: conformance::RANGE_BYTES as u64, concurrency_max, ..Limits::default() };
        let store = place.store_with(&prefix, limits, budget_bytes);

        let put = async |name: &str, bytes: Bytes| place.put(&format!("{prefix}{name}"), bytes).await;
        let ways = Ways {
            awkward: &["/leading", "a//b", "trailing/", "a/../b", "./c", "tab\there", "a\u{1}b", "a\u{fffd}b"],
            key_max: Key::MAX_BYTES - place.options.prefix.len() - prefix.len(),
            is_ordered: true,
        };
        conformance::conforms(&store, put, ways).await;
        assert!(store.token_after("a").is_none());
    }
}

#[tokio::test]
async fn a_blob_has_a_version_and_an_md5_if_one_is_stored() {
    describes_versions_and_checksums(&Place::of_double().await).await;
}

async fn describes_versions_and_checksums(place: &Place) {
    place.put("described/key", random_bytes(1, 100_000)).await;
    place.put_without_md5("described/blocks", random_bytes(2, 100)).await;
    let store = place.store("described/");

    let object = store.stat(&key("key"), &Pin::default()).await.unwrap();
    let checksum = object.other_checksum.clone().unwrap();
    assert_eq!((checksum.algorithm, checksum.kind), (ChecksumAlgorithm::Md5, ChecksumKind::FullObject));
    assert!(store.stat(&key("blocks"), &Pin::default()).await.unwrap().stated_checksum().is_none());
    assert_eq!(read(&store, "blocks", &Pin::default(), 0, None).await.unwrap(), random_bytes(2, 100));

    place.put("described/key", random_bytes(3, 100_000)).await;
    assert_eq!(read(&store, "key", &Pin::default(), 0, None).await.unwrap(), random_bytes(3, 100_000));
    // The old version remains readable if the account keeps versions.
    let old = read(&store, "key", &object.pin(), 0, None).await;
    assert!(object.version_id.is_some() || place.double.is_none(), "the double keeps versions");
    match object.version_id {
        Some(_) => assert_eq!(old.unwrap(), random_bytes(1, 100_000)),
        None => assert!(matches!(old, Err(Error::Changed(_))), "{old:?}"),
    }
}

#[tokio::test]
async fn names_that_xml_excludes_are_listed() {
    lists_names_that_xml_excludes(&Place::of_double().await).await;
}

async fn lists_names_that_xml_excludes(place: &Place) {
    for name in ["odd/tab\there", "odd/a\u{1}b", "odd/a\u{fffd}b", "odd/a%20b+c"] {
        place.put(name, "x").await;
    }
    let (keys, _) = list_all(&place.store("odd/"), "", true, 2).await;
    assert_eq!(keys, ["a\u{1}b", "a%20b+c", "a\u{fffd}b", "tab\there"]);
}

#[tokio::test]
async fn a_blob_that_marks_a_folder_is_not_listed() {
    leaves_out_folders(&Place::of_double().await).await;
}

async fn leaves_out_folders(place: &Place) {
    for folder in ["marks/a", "marks/a/b", "marks/empty"] {
        place.put_folder(folder).await;
    }
    place.put("marks/a/b/c", "x").await;
    place.put("marks/d", "x").await;
    let store = place.store("marks/");

    for limit in [1, 2, 1000] {
        assert_eq!(list_all(&store, "", true, limit).await, (vec!["a/b/c".to_owned(), "d".to_owned()], vec![]));
        assert_eq!(list_all(&store, "", false, limit).await, (vec!["d".to_owned()], vec!["a/".to_owned()]));
    }
    let error = store.stat(&key("a"), &Pin::default()).await.unwrap_err();
    assert!(matches!(&error, Error::NotFound(text) if text.contains("is a folder")), "{error:?}");
}

#[tokio::test]
async fn blobs_that_are_deleted_or_replaced_during_a_listing_do_no_harm() {
    survives_changes_during_a_listing(&Place::of_double().await).await;
}

async fn survives_changes_during_a_listing(place: &Place) {
    for name in ["a", "b", "c", "d"] {
        place.put(&format!("changing/{name}"), name).await;
    }
    let store = place.store("changing/");
    let page = |token| ListRequest { recursive: true, limit: Some(2), token, ..ListRequest::default() };

    let first = store.list(&page(None)).await.unwrap();
    place.delete("changing/a").await;
    place.delete("changing/c").await;
    place.put("changing/b", "replaced").await;
    place.put("changing/d", "replaced").await;
    let second = store.list(&page(first.next.clone())).await.unwrap();
    let sizes: Vec<_> = second.entries.iter().map(|entry| (entry.key.as_str(), entry.size)).collect();
    assert_eq!((sizes, second.next), (vec![("d", 8)], None));

    for (entry, expected) in
        first.entries.iter().zip(["the pinned version was deleted", "no longer the pinned version"])
    {
        let pin = Pin { if_match: entry.etag.clone(), version_id: None };
        let error = read(&store, &entry.key, &pin, 0, None).await.unwrap_err();
        assert!(matches!(&error, Error::Changed(text) if text.contains(expected)), "{error:?}");
    }
}

#[tokio::test]
async fn a_blob_that_is_replaced_midway_is_read_by_its_version() {
    reads_what_is_replaced_midway(&Place::of_double().await).await;
}

async fn reads_what_is_replaced_midway(place: &Place) {
    const SIZE: usize = 64 << 20;
    place.put("replaced", random_bytes(1, SIZE)).await;
    let opened = place.store("").open(&key("replaced"), &Pin::default(), Span::default()).await.unwrap();
    let (has_version, mut body) = (opened.object.version_id.is_some(), opened.body);
    let mut got = body.try_next().await.unwrap().unwrap().to_vec();

    place.put("replaced", random_bytes(2, SIZE)).await;
    let rest: Result<Vec<_>, _> = body.try_collect().await;
    if has_version {
        got.extend(rest.unwrap().into_iter().flatten());
        assert!(got == random_bytes(1, SIZE), "{} bytes", got.len());
    } else {
        assert!(matches!(rest, Err(Error::Changed(_))), "{:?}", rest.map(|pieces| pieces.len()));
    }
}

#[tokio::test]
async fn a_gibibyte_and_fifty_blobs_arrive_unchanged() {
    reads_large_and_many(&Place::of_double().await).await;
}

async fn reads_large_and_many(place: &Place) {
    let large = random_bytes(3, place.large_bytes);
    place.put_without_md5("large", large.clone()).await;
    for seed in 0..50 {
        place.put(&format!("many/{seed}"), random_bytes(seed, 3_000_000)).await;
    }

    let store = place.store("");
    let reads = stream::iter(0..50).map(|seed| {
        let store = &store;
        async move { (seed, read(store, &format!("many/{seed}"), &Pin::default(), 0, None).await.unwrap()) }
    });
    let all: Vec<_> = reads.buffer_unordered(50).collect().await;
    assert!(all.into_iter().all(|(seed, bytes)| bytes == random_bytes(seed, 3_000_000)));

    let opened = store.open(&key("large"), &Pin::default(), Span::default()).await.unwrap();
    assert_eq!(opened.object.size, place.large_bytes as u64);
    assert!(collect(opened).await.unwrap() == large);
}

/// Runs everything in one container, and leaves it as it was.
async fn passes_all(place: &Place) {
    let all = async {
        conforms(place).await;
        describes_versions_and_checksums(place).await;
        lists_names_that_xml_excludes(place).await;
        leaves_out_folders(place).await;
        survives_changes_during_a_listing(place).await;
        reads_what_is_replaced_midway(place).await;
        reads_large_and_many(place).await;
    };
    leaves_nothing(place, all.boxed_local()).await;
}

/// Runs tests, and deletes what they have put.
async fn leaves_nothing(place: &Place, tests: LocalBoxFuture<'_, ()>) {
    place.written.deleted_after(tests, async |name: &str| place.writer.delete_if_present(name).await).await;
    assert_eq!(list_all(&place.store(""), "", true, 1000).await, (vec![], vec![]));
}

#[tokio::test]
async fn the_tests_of_a_real_container_leave_it_empty() {
    let mut place = Place::of_double().await;
    place.options.prefix = "gantry-test/".to_owned();
    place.large_bytes = 200_000_000;
    passes_all(&place).await;
}

/// A request that failed once ended the deletion, and the rest stayed in the account.
#[tokio::test]
async fn blobs_are_deleted_although_one_was_not_put() {
    let place = Place::of_double().await;
    let tests = async {
        place.named("a");
        place.put("b", "x").await;
    };
    leaves_nothing(&place, tests.boxed_local()).await;
}

#[tokio::test]
#[ignore = "needs a container of Azure's: AZURE_STORAGE_ACCOUNT, GANTRY_TEST_AZURE_CONTAINER and GANTRY_TEST_AZURE_SAS"]
async fn a_real_container_passes_the_same_tests() {
    passes_all(&Place::real()).await;
}
