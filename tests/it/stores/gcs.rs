//! The store in Google Cloud Storage when its server fails, against fake-gcs-server and a double.

use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use gantry_proto::{Pin, Span};
use gantry_store::gcs::{Credentials, GcsStore, Limits, Options};
use gantry_store::{Budget, Error, Store};
use http_body_util::Full;
use hyper::Response;

use super::{key, list_all, read};
use crate::support::data::random_bytes;
use crate::support::gcs::{BUCKET, Gcs};
use crate::support::service_double::ServiceDouble;

pub(super) fn options(gcs: &Gcs) -> Options {
    Options { endpoint_url: Some(gcs.endpoint()), credentials: Credentials::Anonymous, ..Options::new(BUCKET) }
}

fn store(gcs: &Gcs) -> GcsStore {
    GcsStore::connect(options(gcs), Budget::new(64 << 20)).unwrap()
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
async fn what_is_missing_is_told_apart() {
    let gcs = Gcs::start().await;
    let absent =
        Options { endpoint_url: Some(gcs.endpoint()), credentials: Credentials::Anonymous, ..Options::new("absent") };
    let absent = GcsStore::connect(absent, Budget::new(0)).unwrap();
    assert!(absent.probe().await.is_err());
    assert!(matches!(absent.stat(&key("k"), &Pin::default()).await, Err(Error::NotFound(_) | Error::NoBucket(_))));
    store(&gcs).probe().await.unwrap();
}
