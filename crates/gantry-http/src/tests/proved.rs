//! A complete response is a proved one.

use gantry_proto::ChecksumAlgorithm;
use gantry_testing::store::Fault;

use super::*;
use crate::{Aborted, Proof};

const NVME: Proof = Proof::FullObject { algorithm: ChecksumAlgorithm::Crc64Nvme };
const LEN: usize = 1000;

#[tokio::test]
async fn a_whole_object_states_its_proof() {
    let mut site = Site::new();
    let bytes = site.put("a", LEN);

    let answer = site.get("/models/a", &[]).await;
    assert_eq!((answer.status, answer.is_complete, &answer.body), (200, true, &bytes));
    assert_eq!(answer.header("gantry-proof"), Some("full-object;algorithm=CRC64NVME"));
    assert_eq!(answer.header("content-length"), Some("1000"));

    let report = site.report().await;
    assert_eq!((report.status, report.bytes, report.proof, report.aborted), (200, 1000, Some(NVME), None));
    assert_eq!((report.method.as_str(), report.target.as_str()), ("GET", "/models/a"));
}

#[tokio::test]
async fn a_client_that_accepts_trailers_gets_the_proof_as_one() {
    let site = Site::new();
    let bytes = site.put("a", LEN);

    let answer = site.get("/models/a", &[("TE", "trailers")]).await;
    assert_eq!((answer.is_complete, &answer.body), (true, &bytes));
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert_eq!(answer.header("trailer"), Some("Gantry-Proof"));
    assert_eq!(answer.trailers, [("gantry-proof".to_owned(), "full-object;algorithm=CRC64NVME".to_owned())]);
}

#[tokio::test]
async fn head_has_the_headers_of_get() {
    let mut shelf = shelf::Shelf::default();
    shelf.put(shelf::uploaded("a"), b"0123456789");
    let site = Site::serving(Options::default(), Arc::new(shelf));
    site.put("a", LEN);
    site.put("empty", 0);

    for target in ["/models/a", "/models/empty", "/models/missing", "/shelf/a", "/shelf/a?partNumber=2", "/"] {
        for headers in [&[][..], &[("TE", "trailers")], &[("x-amz-checksum-mode", "ENABLED")]] {
            let volatile = ["date", "x-amz-request-id", "transfer-encoding", "trailer"];
            let stable = |answer: Answer| -> Vec<_> {
                answer.headers.into_iter().filter(|(name, _)| !volatile.contains(&name.as_str())).collect()
            };
            let get = site.get(target, headers).await;
            let head = site.ask("HEAD", target, headers).await;
            assert_eq!(get.status, head.status, "{target}");
            assert!(head.body.is_empty());
            let (mut get, mut head) = (stable(get), stable(head));
            get.sort();
            head.sort();
            assert_eq!(get, head, "{target} {headers:?}");
        }
    }
}

#[tokio::test]
async fn wrong_bytes_never_make_a_complete_response() {
    let mut site = Site::new();
    let bytes = site.put("a", LEN);

    for (fault, reason) in [
        (Fault::Flip(0), Aborted::Mismatch),
        (Fault::Flip(999), Aborted::Mismatch),
        (Fault::Short(1), Aborted::Mismatch),
        (Fault::Short(900), Aborted::Mismatch),
        (Fault::Long(1), Aborted::Mismatch),
        (Fault::Break(500), Aborted::Store),
        (Fault::Break(999), Aborted::Store),
        (Fault::Change(500), Aborted::Changed),
    ] {
        for headers in [&[][..], &[("TE", "trailers")], &[("Range", "bytes=0-")]] {
            site.store.plan([fault]);
            let answer = site.get("/models/a", headers).await;
            assert!(!answer.is_complete && answer.body.len() < LEN, "{fault:?}: {}", answer.body.len());
            assert!(answer.trailers.is_empty());

            let report = site.report().await;
            assert_eq!((report.aborted, report.proof), (Some(reason), None), "{fault:?}");
            // What hyper had not sent yet is discarded.
            assert!(report.bytes >= answer.body.len() as u64 && report.bytes < LEN as u64);
        }
    }

    assert_eq!(site.get("/models/a", &[]).await.body, bytes);
}

#[tokio::test]
async fn a_range_of_wrong_length_never_makes_a_complete_response() {
    let site = Site::new();
    site.put("a", LEN);

    for fault in [Fault::Short(1), Fault::Long(1), Fault::Break(299), Fault::Change(100)] {
        for range in ["bytes=100-399", "bytes=100-399,500-799"] {
            site.store.plan([fault]);
            let answer = site.get("/models/a", &[("Range", range)]).await;
            assert!(!answer.is_complete, "{fault:?} {range}");
        }
    }
}

#[tokio::test]
async fn a_failure_before_the_first_byte_has_a_status() {
    let site = Site::new();
    site.put("a", LEN);
    site.put("small", 50);

    for (key, fault, status, code) in [
        ("a", Fault::Unavailable, 503, "ServiceUnavailable"),
        ("a", Fault::Denied, 403, "AccessDenied"),
        ("a", Fault::Break(0), 503, "ServiceUnavailable"),
        ("small", Fault::Flip(1), 502, "InternalError"),
        ("small", Fault::Flip(49), 502, "InternalError"),
    ] {
        site.store.plan([fault]);
        let answer = site.get(&format!("/models/{key}"), &[]).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{fault:?}");
    }
}

#[tokio::test]
async fn an_empty_object_is_verified_before_its_head() {
    let mut site = Site::new();
    site.put("a", 0);

    let answer = site.get("/models/a", &[]).await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("0")));
    assert_eq!(site.report().await.proof, Some(NVME));

    site.store.plan([Fault::Long(1)]);
    assert_eq!(site.get("/models/a", &[]).await.status, 502);
}

/// Stores state the checksum only of an object that is read as a whole.
#[tokio::test]
async fn a_range_of_the_whole_object_is_proved_however_it_is_requested() {
    let mut single = shelf::uploaded("single");
    single.etag = "\"single\"".to_owned();
    single.checksum.as_mut().unwrap().parts = vec![gantry_proto::PartRun { count: 1, size: 10 }];
    let etag = single.etag.clone();
    let proof = Some("composite;algorithm=SHA256;parts=1");

    let mut shelf = shelf::Shelf::default();
    shelf.put(shelf::uploaded("parts"), b"0123456789");
    shelf.put(shelf::uploaded("wrong"), b"0123456780");
    single.checksum.as_mut().unwrap().value = shelf::composite(&[b"0123456789"]);
    shelf.put(single, b"0123456789");
    let site = Site::serving(Options::default(), Arc::new(shelf));

    for headers in [
        &[("Range", "bytes=0-9")][..],
        &[("Range", "bytes=0-99")],
        &[("Range", "bytes=-10")],
        &[("Range", "bytes=0-5,5-9")],
        &[("Range", "bytes=0-9"), ("If-None-Match", "\"other\"")],
    ] {
        let answer = site.get("/shelf/parts", headers).await;
        assert_eq!((answer.status, answer.text()), (206, "0123456789"), "{headers:?}");
        assert_eq!(answer.header("gantry-proof"), Some("composite;algorithm=SHA256;parts=3"), "{headers:?}");
        assert_eq!(site.get("/shelf/wrong", headers).await.status, 502, "{headers:?}");
    }

    let range = [("Range", "bytes=0-9"), ("If-Range", &*etag)];
    assert_eq!(site.get("/shelf/single", &range).await.header("gantry-proof"), proof);
    for method in ["GET", "HEAD"] {
        let part = site.ask(method, "/shelf/single?partNumber=1", &[]).await;
        assert_eq!((part.status, part.header("gantry-proof")), (206, proof), "{method}");
    }
}

#[tokio::test]
async fn a_range_is_proved_by_the_transport_unless_it_is_the_whole_object() {
    let mut site = Site::new();
    site.put("a", LEN);

    let part = site.get("/models/a", &[("Range", "bytes=1-")]).await;
    assert_eq!(part.header("gantry-proof"), Some("transport"));
    assert_eq!(site.report().await.proof, None);

    let whole = site.get("/models/a", &[("Range", "bytes=0-")]).await;
    assert_eq!((whole.status, whole.header("gantry-proof")), (206, Some("full-object;algorithm=CRC64NVME")));
    assert_eq!(site.report().await.proof, Some(NVME));
}
