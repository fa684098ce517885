//! What the store in Google Cloud Storage does with a bucket that answers: fake-gcs-server's, or a real one that the
//! environment names.

use std::io::Write as _;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use gantry_proto::{ChecksumAlgorithm, ChecksumKind, Key, ListRequest, Pin, Span};
use gantry_store::gcs::{GcsStore, Limits, Options};
use gantry_store::{Budget, Error, Store};

use super::conformance::{self, Ways};
use super::written::Written;
use super::{gcs, key, list_all, read};
use crate::support::cloud_writers::GcsWriter;
use crate::support::data::random_bytes;
use crate::support::gcs::Gcs;

/// A bucket for the tests, of which they use the objects below a prefix.
struct Place {
    options: Options,
    writer: GcsWriter,
    written: Written,
    large_bytes: usize,
    emulator: Option<Gcs>,
}

impl Place {
    async fn emulated() -> Self {
        Self::of(Gcs::start().await)
    }

    fn of(emulator: Gcs) -> Self {
        let (options, writer) = (gcs::options(&emulator), emulator.writer());
        Self { options, writer, written: Written::default(), large_bytes: 1 << 30, emulator: Some(emulator) }
    }

    /// The bucket `GANTRY_TEST_GCS_BUCKET`. The store uses application default credentials, and the tests write with the
    /// access token in `GANTRY_TEST_GCS_TOKEN`, which `gcloud auth print-access-token` prints.
    fn real() -> Self {
        let set = |variable| std::env::var(variable).unwrap_or_else(|_| panic!("set {variable}"));
        let bucket = set("GANTRY_TEST_GCS_BUCKET");
        let endpoint = "https://storage.googleapis.com".to_owned();
        let writer = GcsWriter { endpoint, bucket: bucket.clone(), token: Some(set("GANTRY_TEST_GCS_TOKEN")) };
        let prefix = format!("gantry-test-{}/", fastrand::u64(..));
        let options = Options { prefix, ..Options::new(bucket) };
        Self { options, writer, written: Written::default(), large_bytes: 1 << 30, emulator: None }
    }

    fn store(&self, folder: &str) -> GcsStore {
        self.store_with(folder, Limits::default(), 64 << 20)
    }

    fn store_with(&self, folder: &str, limits: Limits, budget_bytes: u64) -> GcsStore {
        let prefix = format!("{}{folder}", self.options.prefix);
        GcsStore::connect(Options { prefix, limits, ..self.options.clone() }, Budget::new(budget_bytes)).unwrap()
    }

    async fn put(&self, name: &str, bytes: impl Into<Bytes>) {
        self.put_encoded(name, bytes, "").await;
    }

    async fn put_encoded(&self, name: &str, bytes: impl Into<Bytes>, coding: &str) {
        let name = format!("{}{name}", self.options.prefix);
        self.written.add(&name);
        self.writer.put(&name, bytes.into(), coding).await;
    }

    async fn delete(&self, name: &str) {
        let name = format!("{}{name}", self.options.prefix);
        self.writer.delete(&name).await;
        self.written.remove(&name);
    }
}

#[tokio::test]
async fn a_bucket_conforms() {
    conforms(&Place::emulated().await).await;
}

async fn conforms(place: &Place) {
    for (prefix, concurrency_max, budget_bytes) in [("", 1, 0), ("some/prefix-", 4, 64 << 20), ("x/", 3, 200_000)] {
        let prefix = format!("conforms-{concurrency_max}/{prefix}");
        let limits = Limits { range_bytes: conformance::RANGE_BYTES as u64, concurrency_max, ..Limits::default() };
        let store = place.store_with(&prefix, limits, budget_bytes);

        let put = async |name: &str, bytes: Bytes| place.put(&format!("{prefix}{name}"), bytes).await;
        let ways = Ways {
            awkward: &["/leading", "a//b", "trailing/", "a/../b", "./c", "tab\there", "a\u{fffd}b"],
            key_max: Key::MAX_BYTES - place.options.prefix.len() - prefix.len(),
            is_ordered: true,
        };
        conformance::conforms(&store, put, ways).await;
    }
}

#[tokio::test]
async fn an_object_has_a_generation_and_a_crc() {
    describes_generations_and_checksums(&Place::emulated().await).await;
}

async fn describes_generations_and_checksums(place: &Place) {
    place.put("described", random_bytes(1, 100_000)).await;
    let store = place.store("");

    let object = store.stat(&key("described"), &Pin::default()).await.unwrap();

    let checksum = object.checksum.clone().unwrap();
    assert_eq!((checksum.algorithm, checksum.kind), (ChecksumAlgorithm::Crc32c, ChecksumKind::FullObject));
    assert!(object.version_id.as_ref().unwrap().parse::<u64>().is_ok() && object.other_checksum.is_none());
    let by_version = Pin { if_match: None, version_id: object.version_id.clone() };
    assert_eq!(read(&store, "described", &by_version, 0, None).await.unwrap(), random_bytes(1, 100_000));
}

#[tokio::test]
async fn a_compressed_object_is_read_as_it_is_stored() {
    reads_what_is_compressed(&Place::emulated().await).await;
}

async fn reads_what_is_compressed(place: &Place) {
    // A gzip member with one stored block.
    let mut stored = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 5, 0, 0xfa, 0xff];
    stored.write_all(b"hello").unwrap();
    stored.extend([0x86, 0xa6, 0x10, 0x36, 5, 0, 0, 0]);
    place.put_encoded("compressed", stored.clone(), "gzip").await;

    let store = place.store("");
    let object = store.stat(&key("compressed"), &Pin::default()).await.unwrap();
    assert_eq!(object.size, stored.len() as u64);
    assert_eq!(read(&store, "compressed", &Pin::default(), 0, None).await.unwrap(), stored);
    assert_eq!(read(&store, "compressed", &Pin::default(), 3, Some(9)).await.unwrap(), stored[3..9]);
}

#[tokio::test]
async fn an_object_that_is_replaced_midway_has_changed() {
    notices_what_is_replaced_midway(&Place::emulated().await).await;
}

async fn notices_what_is_replaced_midway(place: &Place) {
    const SIZE: usize = 64 << 20;
    place.put("replaced", random_bytes(1, SIZE)).await;

    let mut opened = place.store("").open(&key("replaced"), &Pin::default(), Span::default()).await.unwrap();
    let mut got = opened.body.try_next().await.unwrap().unwrap().to_vec();
    place.put("replaced", random_bytes(2, SIZE)).await;
    let rest: Result<Vec<_>, _> = opened.body.try_collect().await;

    match rest {
        Err(Error::Changed(_)) => {}
        // A real bucket may keep old generations.
        Ok(pieces) if place.emulator.is_none() => {
            got.extend(pieces.into_iter().flatten());
            assert!(got == random_bytes(1, SIZE), "{} bytes", got.len());
        }
        rest => panic!("{:?}", rest.map(|pieces| pieces.len())),
    }
}

#[tokio::test]
async fn a_gibibyte_arrives_unchanged() {
    reads_a_large_object(&Place::of(Gcs::start_on_disk().await)).await;
}

async fn reads_a_large_object(place: &Place) {
    let bytes = random_bytes(3, place.large_bytes);
    place.put("large", bytes.clone()).await;

    let mut opened = place.store("").open(&key("large"), &Pin::default(), Span::default()).await.unwrap();
    assert_eq!(opened.object.size, bytes.len() as u64);
    let mut offset = 0;
    while let Some(piece) = opened.body.try_next().await.unwrap() {
        assert!(bytes[offset..offset + piece.len()] == piece, "bytes at {offset} differ");
        offset += piece.len();
    }
    assert_eq!(offset, bytes.len());
}

#[tokio::test]
async fn fifty_objects_are_read_at_once() {
    reads_many_at_once(&Place::emulated().await).await;
}

async fn reads_many_at_once(place: &Place) {
    for seed in 0..50 {
        place.put(&format!("many/{seed}"), random_bytes(seed, 3_000_000)).await;
    }

    let store = place.store("many/");
    let reads = stream::iter(0..50).map(|seed| {
        let store = &store;
        async move { (seed, read(store, &seed.to_string(), &Pin::default(), 0, None).await.unwrap()) }
    });
    let all: Vec<_> = reads.buffer_unordered(50).collect().await;

    assert_eq!(all.len(), 50);
    assert!(all.into_iter().all(|(seed, bytes)| bytes == random_bytes(seed, 3_000_000)));
}

#[tokio::test]
async fn objects_that_are_deleted_or_replaced_after_a_listing_have_changed() {
    notices_changes_after_a_listing(&Place::emulated().await).await;
}

async fn notices_changes_after_a_listing(place: &Place) {
    place.put("changing/a", "x").await;
    place.put("changing/b", "x").await;
    let store = place.store("changing/");
    let listed = store.list(&ListRequest { recursive: true, ..ListRequest::default() }).await.unwrap();
    assert_eq!(listed.entries.len(), 2);

    place.put("changing/a", "replaced").await;
    place.delete("changing/b").await;
    for entry in &listed.entries {
        let pin = Pin { if_match: entry.etag.clone(), version_id: None };
        let error = read(&store, &entry.key, &pin, 0, None).await.unwrap_err();
        assert!(matches!(error, Error::Changed(_)), "{}: {error:?}", entry.key);
    }
}

/// Runs everything in one bucket, and leaves it as it was.
async fn passes_all(place: &Place) {
    let all = async {
        conforms(place).await;
        describes_generations_and_checksums(place).await;
        reads_what_is_compressed(place).await;
        notices_what_is_replaced_midway(place).await;
        reads_a_large_object(place).await;
        reads_many_at_once(place).await;
        notices_changes_after_a_listing(place).await;
    };
    leaves_nothing(place, all.boxed_local()).await;
}

/// Runs tests, and deletes what they have put.
async fn leaves_nothing(place: &Place, tests: LocalBoxFuture<'_, ()>) {
    place.written.deleted_after(tests, async |name: &str| place.writer.delete_if_present(name).await).await;
    assert_eq!(list_all(&place.store(""), "", true, 1000).await, (vec![], vec![]));
}

#[tokio::test]
async fn the_tests_of_a_real_bucket_leave_it_empty() {
    let mut place = Place::emulated().await;
    place.options.prefix = "gantry-test/".to_owned();
    place.large_bytes = 64 << 20;
    passes_all(&place).await;
}

/// A request that failed once ended the deletion, and the rest stayed in the bucket.
#[tokio::test]
async fn objects_are_deleted_although_one_was_not_put() {
    let place = Place::emulated().await;
    let tests = async {
        place.written.add("a");
        place.put("b", "x").await;
    };
    leaves_nothing(&place, tests.boxed_local()).await;
}

#[tokio::test]
#[ignore = "needs a bucket of Google's: GANTRY_TEST_GCS_BUCKET and GANTRY_TEST_GCS_TOKEN"]
async fn a_real_bucket_passes_the_same_tests() {
    passes_all(&Place::real()).await;
}
