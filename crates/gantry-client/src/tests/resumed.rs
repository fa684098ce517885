//! Downloads that go on from what an earlier one left.

use super::*;
use crate::part::{PartFile, Wanted};
use gantry_proto::Span;

/// D1: a record without a checksum made the one that the relay states now count for nothing.
#[tokio::test]
async fn kept_bytes_that_contradict_the_stated_checksum_are_fetched_again() {
    let network = MemoryNetwork::new(1);
    let mut relay = Relay::on(&network).await;
    let (client, folder) = (client(&network.connect(), Options::default()), tempfile::tempdir().unwrap());
    let (target, body) = (folder.path().join("file"), vec![7; usize::try_from(SIZE).unwrap()]);
    let wanted_part =
        Wanted { store: "s".parse().unwrap(), key: "k".parse().unwrap(), span: Span::default(), pin: Pin::default() };
    let never = std::sync::atomic::AtomicBool::new(false);
    let planted = PartFile::open(&target, wanted_part, true, &never).unwrap();
    let mut planted = planted.begin(&object(), 0..SIZE, 0, &never).unwrap();
    planted.write(&[6; 1000]).unwrap();
    drop(planted);
    let value = STANDARD.encode(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &body).to_be_bytes());
    let (algorithm, kind) = (ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject);
    relay.object.checksum = Some(Checksum { algorithm, kind, value, parts: Vec::new() });

    let download = client.download(wanted(), &target, FileOptions { resume: true, ..FileOptions::default() });
    let serve = async {
        for (start, number) in [(1000, 2), (0, 3)] {
            relay.transfer = TransferId(uuid::Uuid::from_u128(number));
            assert_eq!(relay.accept().await.start, start);
            let rest = body[usize::try_from(start).unwrap()..].to_vec();
            let bytes = rest.len() as u64;
            relay.say(&Body::Chunk(Chunk::new(0, start, rest.into()))).await;
            relay.say(&Body::End(End { chunks: 1, bytes })).await;
        }
    };
    let (report, ()) = tokio::join!(download, serve);

    let report = report.unwrap();
    assert!(matches!(report.proof, Proof::FullObject { .. }), "{:?}", report.proof);
    assert_eq!(report.resumed_from, None);
    assert!(report.restarted.is_some());
    assert_eq!(std::fs::read(&target).unwrap(), body);
}

/// D5: a range that began where the object ends left an empty file.
#[tokio::test]
async fn a_range_at_the_end_of_the_object_leaves_no_file() {
    let network = MemoryNetwork::new(1);
    let mut relay = Relay::on(&network).await;
    let (client, folder) = (client(&network.connect(), Options::default()), tempfile::tempdir().unwrap());
    let target = folder.path().join("file");
    let get = Get { span: Span { start: SIZE, end: None }, ..wanted() };

    let download = client.download(get, &target, FileOptions::default());
    let (report, request) = tokio::join!(download, relay.accept());

    assert_eq!(request.start, SIZE);
    assert!(matches!(report, Err(Error::Refused(ref error)) if error.code == gantry_proto::Code::Range), "{report:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A relay that takes over may know the checksum that the first one could not learn in time.
#[tokio::test]
async fn a_checksum_that_only_a_later_relay_states_is_verified() {
    let body = vec![7; usize::try_from(SIZE).unwrap()];
    let stored = |bytes: &[u8]| {
        let value = STANDARD.encode(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes).to_be_bytes());
        let (algorithm, kind) = (ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject);
        Some(Checksum { algorithm, kind, value, parts: Vec::new() })
    };
    for (first, later) in
        [(None, stored(&body)), (None, stored(b"other")), (stored(&body), None), (stored(&body), stored(&body))]
    {
        let network = MemoryNetwork::new(1);
        let mut relay = Relay::on(&network).await;
        let (client, folder) = (client(&network.connect(), Options::default()), tempfile::tempdir().unwrap());
        let target = folder.path().join("file");

        let download = client.download(wanted(), &target, FileOptions::default());
        let serve = async {
            relay.object.checksum = first.clone();
            relay.accept().await;
            relay.say(&Body::Chunk(Chunk::new(0, 0, body[..1000].to_vec().into()))).await;
            relay.say(&Body::Goaway).await;
            relay.object.checksum = later.clone();
            relay.transfer = TransferId(uuid::Uuid::from_u128(2));
            let start = relay.accept().await.start;
            let rest = body[usize::try_from(start).unwrap()..].to_vec();
            let bytes = rest.len() as u64;
            relay.say(&Body::Chunk(Chunk::new(0, start, rest.into()))).await;
            relay.say(&Body::End(End { chunks: 1, bytes })).await;
        };
        let (report, ()) = tokio::join!(download, serve);

        let contradicts = later == stored(b"other");
        match report {
            Err(Error::Part(crate::part::Error::Mismatch { .. })) => assert!(contradicts && first.is_none()),
            Ok(report) => assert!(!contradicts && matches!(report.proof, Proof::FullObject { .. }), "{report:?}"),
            Err(error) => panic!("{error:?}"),
        }
        assert_eq!(target.exists(), !contradicts);
    }
}

/// Nothing of a relay that contradicts the checksum of the same version is used: another relay is asked.
#[tokio::test]
async fn a_later_relay_that_contradicts_the_checksum_is_left() {
    let body = vec![7; usize::try_from(SIZE).unwrap()];
    let stored = |bytes: &[u8]| {
        let value = STANDARD.encode(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes).to_be_bytes());
        let (algorithm, kind) = (ChecksumAlgorithm::Crc64Nvme, ChecksumKind::FullObject);
        Some(Checksum { algorithm, kind, value, parts: Vec::new() })
    };
    let network = MemoryNetwork::new(1);
    let mut relay = Relay::on(&network).await;
    let (client, folder) = (client(&network.connect(), Options::default()), tempfile::tempdir().unwrap());
    let target = folder.path().join("file");

    let download = client.download(wanted(), &target, FileOptions::default());
    let serve = async {
        relay.object.checksum = stored(&body);
        relay.accept().await;
        relay.say(&Body::Chunk(Chunk::new(0, 0, body[..1000].to_vec().into()))).await;
        relay.say(&Body::Goaway).await;

        relay.object.checksum = stored(b"other");
        relay.transfer = TransferId(uuid::Uuid::from_u128(2));
        relay.accept().await;

        relay.object.checksum = stored(&body);
        relay.transfer = TransferId(uuid::Uuid::from_u128(3));
        let start = relay.accept().await.start;
        let rest = body[usize::try_from(start).unwrap()..].to_vec();
        let bytes = rest.len() as u64;
        relay.say(&Body::Chunk(Chunk::new(0, start, rest.into()))).await;
        relay.say(&Body::End(End { chunks: 1, bytes })).await;
    };
    let (report, ()) = tokio::join!(download, serve);

    assert!(matches!(report.unwrap().proof, Proof::FullObject { .. }));
    assert_eq!(std::fs::read(&target).unwrap(), body);
}
