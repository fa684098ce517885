//! The store in Google Cloud Storage against fake-gcs-server, and against a real bucket if the environment names one.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use gantry_proto::{ChecksumAlgorithm, ChecksumKind, Key, ListRequest, Pin, Span};
use gantry_store::gcs::{Credentials, GcsStore, Limits, Options};
use gantry_store::{Budget, Error, Store};
use http_body_util::Full;
use hyper::Response;

use super::conformance::{self, Ways};
use super::{collect, key, list_all, read};
use crate::support::data::random_bytes;
use crate::support::gcs::{BUCKET, Gcs};
use crate::support::service_double::ServiceDouble;

fn options(gcs: &Gcs) -> Options {
    Options { endpoint_url: Some(gcs.endpoint()), credentials: Credentials::Anonymous, ..Options::new(BUCKET) }
}

fn store(gcs: &Gcs) -> GcsStore {
    GcsStore::connect(options(gcs), Budget::new(64 << 20)).unwrap()
}

#[tokio::test]
async fn a_bucket_conforms() {
    for (prefix, concurrency_max, budget_bytes) in [("", 1, 0), ("some/prefix-", 4, 64 << 20), ("x/", 3, 200_000)] {
        let gcs = Gcs::start().await;
        let limits = Limits { range_bytes: conformance::RANGE_BYTES as u64, concurrency_max, ..Limits::default() };
        let options = Options { prefix: prefix.to_owned(), limits, ..options(&gcs) };
        let store = GcsStore::connect(options, Budget::new(budget_bytes)).unwrap();

        let put = async |name: &str, bytes: Bytes| gcs.put(&format!("{prefix}{name}"), bytes).await;
        let ways = Ways {
            awkward: &["/leading", "a//b", "trailing/", "a/../b", "./c", "tab\there", "a\u{fffd}b"],
            key_max: Key::MAX_BYTES - prefix.len(),
            is_ordered: true,
        };
        conformance::conforms(&store, put, ways).await;
    }
}

#[tokio::test]
async fn an_object_has_a_generation_and_a_crc() {
    let gcs = Gcs::start().await;
    gcs.put("key", random_bytes(1, 100_000)).await;

    let object = store(&gcs).stat(&key("key"), &Pin::default()).await.unwrap();

    let checksum = object.checksum.clone().unwrap();
    assert_eq!((checksum.algorithm, checksum.kind), (ChecksumAlgorithm::Crc32c, ChecksumKind::FullObject));
    assert!(object.version_id.as_ref().unwrap().parse::<u64>().is_ok() && object.other_checksum.is_none());
    let by_version = Pin { if_match: None, version_id: object.version_id.clone() };
    assert_eq!(read(&store(&gcs), "key", &by_version, 0, None).await.unwrap(), random_bytes(1, 100_000));
}

#[tokio::test]
async fn a_compressed_object_is_read_as_it_is_stored() {
    let gcs = Gcs::start().await;
    // A gzip member with one stored block.
    let mut stored = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 5, 0, 0xfa, 0xff];
    stored.write_all(b"hello").unwrap();
    stored.extend([0x86, 0xa6, 0x10, 0x36, 5, 0, 0, 0]);
    gcs.put_encoded("key", stored.clone(), "gzip").await;

    let store = store(&gcs);
    let object = store.stat(&key("key"), &Pin::default()).await.unwrap();
    assert_eq!(object.size, stored.len() as u64);
    assert_eq!(read(&store, "key", &Pin::default(), 0, None).await.unwrap(), stored);
    assert_eq!(read(&store, "key", &Pin::default(), 3, Some(9)).await.unwrap(), stored[3..9]);
}

#[tokio::test]
async fn an_object_that_is_replaced_midway_has_changed() {
    const SIZE: usize = 64 << 20;
    let gcs = Gcs::start().await;
    gcs.put("key", random_bytes(1, SIZE)).await;

    let mut opened = store(&gcs).open(&key("key"), &Pin::default(), Span::default()).await.unwrap();
    opened.body.try_next().await.unwrap().unwrap();
    gcs.put("key", random_bytes(2, SIZE)).await;
    let rest: Result<Vec<_>, _> = opened.body.try_collect().await;

    assert!(matches!(rest, Err(Error::Changed(_))), "{:?}", rest.map(|pieces| pieces.len()));
}

#[tokio::test]
async fn a_gibibyte_arrives_unchanged() {
    const SIZE: u64 = 1 << 30;
    let gcs = Gcs::start_on_disk().await;
    let bytes = random_bytes(3, usize::try_from(SIZE).unwrap());
    gcs.put("large", bytes.clone()).await;

    let mut opened = store(&gcs).open(&key("large"), &Pin::default(), Span::default()).await.unwrap();
    assert_eq!(opened.object.size, SIZE);
    let mut offset = 0;
    while let Some(piece) = opened.body.try_next().await.unwrap() {
        assert!(bytes[offset..offset + piece.len()] == piece, "bytes at {offset} differ");
        offset += piece.len();
    }
    assert_eq!(offset as u64, SIZE);
}

#[tokio::test]
async fn fifty_objects_are_read_at_once() {
    let gcs = Gcs::start().await;
    for seed in 0..50 {
        gcs.put(&format!("many/{seed}"), random_bytes(seed, 3_000_000)).await;
    }

    let store = store(&gcs);
    let reads = stream::iter(0..50).map(|seed| {
        let store = &store;
        async move { (seed, read(store, &format!("many/{seed}"), &Pin::default(), 0, None).await.unwrap()) }
    });
    let all: Vec<_> = reads.buffer_unordered(50).collect().await;

    assert_eq!(all.len(), 50);
    assert!(all.into_iter().all(|(seed, bytes)| bytes == random_bytes(seed, 3_000_000)));
}

#[tokio::test]
async fn a_frozen_and_restarted_server_does_no_harm() {
    const SIZE: usize = 96 << 20;
    let mut gcs = Gcs::start_on_disk().await;
    let bytes = random_bytes(4, SIZE);
    gcs.put("key", bytes.clone()).await;

    let limits = Limits { stall_timeout: Duration::from_millis(500), ..Limits::default() };
    let store = GcsStore::connect(Options { limits, ..options(&gcs) }, Budget::new(64 << 20)).unwrap();
    let mut opened = store.open(&key("key"), &Pin::default(), Span::default()).await.unwrap();
    let mut got = Vec::with_capacity(SIZE);
    while let Some(piece) = opened.body.try_next().await.unwrap() {
        let before = got.len() >> 25;
        got.extend_from_slice(&piece);
        match (before, got.len() >> 25) {
            (0, 1) => {
                gcs.signal("STOP");
                tokio::time::sleep(Duration::from_secs(1)).await;
                gcs.signal("CONT");
            }
            (1, 2) => {
                gcs.kill().await;
                gcs.restart().await;
            }
            _ => {}
        }
    }
    assert!(got == bytes, "{} bytes", got.len());
}

/// Answers with an object of five bytes, or with a page that lists it.
fn served(asked: &str) -> Response<Full<Bytes>> {
    let page = "<?xml version='1.0'?><ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>\
                <Contents><Key>key</Key><ETag>\"e\"</ETag><Size>5</Size></Contents></ListBucketResult>";
    if asked.contains("list-type=2") {
        return Response::new(Full::new(Bytes::from_static(page.as_bytes())));
    }
    let answer = Response::builder().header("etag", "\"e\"").header("x-goog-generation", "1");
    answer.body(Full::new(Bytes::from_static(b"hello"))).unwrap()
}

fn of_double(double: &ServiceDouble) -> GcsStore {
    let options =
        Options { endpoint_url: Some(double.url()), credentials: Credentials::Anonymous, ..Options::new(BUCKET) };
    GcsStore::connect(options, Budget::new(0)).unwrap()
}

#[tokio::test]
async fn requests_are_repeated_when_google_asks_to_slow_down() {
    let busy = |status, code: &str| {
        let text = format!("<Error><Code>{code}</Code><Message>Slow down.</Message></Error>");
        let answer = Response::builder().status(status).header("retry-after", "1");
        answer.body(Full::new(Bytes::from(text))).unwrap()
    };
    let double = ServiceDouble::scripted(move |asked, index| match index {
        0 | 3 => busy(429, "SlowDown"),
        1 | 4 => busy(503, "ServiceUnavailable"),
        _ => served(asked),
    });
    let double = double.await;
    let store = of_double(&double);

    let begun = tokio::time::Instant::now();
    assert_eq!(list_all(&store, "", true, 10).await.0, ["key"]);
    assert!(begun.elapsed() >= Duration::from_secs(2) && double.asked().len() == 3);
    assert_eq!(read(&store, "key", &Pin::default(), 0, None).await.unwrap(), "hello");
    assert!(begun.elapsed() >= Duration::from_secs(4) && double.asked().len() == 6);
}

/// Google may compress a listing for a client that accepts gzip, and decompresses an object for one that does not.
#[tokio::test]
async fn only_requests_for_objects_accept_gzip() {
    let double = ServiceDouble::scripted(|asked, _| served(asked)).await;
    let store = of_double(&double);
    store.probe().await.unwrap();
    list_all(&store, "", true, 10).await;
    read(&store, "key", &Pin::default(), 0, None).await.unwrap();

    let codings: Vec<_> = double.asked().iter().map(|asked| asked.contains("\"accept-encoding\": \"gzip\"")).collect();
    assert_eq!(codings, [false, false, true], "{:?}", double.asked());
    assert!(double.asked()[0].contains("\"accept-encoding\": \"identity\""));
}

#[tokio::test]
async fn objects_that_are_deleted_or_replaced_after_a_listing_have_changed() {
    let gcs = Gcs::start().await;
    gcs.put("a", "x").await;
    gcs.put("b", "x").await;
    let store = store(&gcs);
    let listed = store.list(&ListRequest { recursive: true, ..ListRequest::default() }).await.unwrap();

    gcs.put("a", "replaced").await;
    gcs.delete("b").await;
    for entry in &listed.entries {
        let pin = Pin { if_match: entry.etag.clone(), version_id: None };
        let error = read(&store, &entry.key, &pin, 0, None).await.unwrap_err();
        assert!(matches!(error, Error::Changed(_)), "{}: {error:?}", entry.key);
    }
}

#[tokio::test]
async fn what_is_missing_is_told_apart() {
    let gcs = Gcs::start().await;
    let absent =
        Options { endpoint_url: Some(gcs.endpoint()), credentials: Credentials::Anonymous, ..Options::new("absent") };
    let absent = GcsStore::connect(absent, Budget::new(0)).unwrap();
    assert!(absent.probe().await.is_err());
    assert!(matches!(absent.stat(&key("k"), &Pin::default()).await, Err(Error::NotFound(_) | Error::NoBucket(_))));
    store(&gcs).probe().await.unwrap();
}

/// Runs only with `GANTRY_TEST_GCS_BUCKET`, a bucket with an object at `GANTRY_TEST_GCS_KEY`, and Google's application
/// default credentials.
#[tokio::test]
#[ignore = "needs a bucket of Google's, named by GANTRY_TEST_GCS_BUCKET"]
async fn a_real_bucket_is_read() {
    let name = |variable| std::env::var(variable).unwrap_or_else(|_| panic!("set {variable}"));
    let (bucket, object) = (name("GANTRY_TEST_GCS_BUCKET"), name("GANTRY_TEST_GCS_KEY"));
    let store = GcsStore::connect(Options::new(bucket), Budget::new(64 << 20)).unwrap();

    store.probe().await.unwrap();
    let opened = store.open(&key(&object), &Pin::default(), Span::default()).await.unwrap();
    let described = store.stat(&key(&object), &opened.object.pin()).await.unwrap();
    assert_eq!(opened.object, described);
    let whole = collect(opened).await.unwrap();
    assert_eq!(whole.len() as u64, described.size);
    let half = described.size / 2;
    assert_eq!(read(&store, &object, &described.pin(), half, None).await.unwrap(), whole.slice(whole.len() / 2..));
    assert!(list_all(&store, &object, true, 10).await.0.contains(&object));
}
