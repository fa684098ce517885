//! Downloads that resume an earlier one, or that several relays serve one after the other.

use super::*;
use crate::part::PartFile;

/// If the sidecar had no checksum, the one that the relay states was once ignored.
#[tokio::test]
async fn fetches_kept_bytes_again_if_they_contradict_the_checksum() {
    let network = MemoryNetwork::new(1);
    let mut relay = Relay::on(&network).await;
    let client = client(&network.connect(), Options::default());
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let body = body();

    let never = std::sync::atomic::AtomicBool::new(false);
    let planted = PartFile::open(&target, wanted(), true, &never).unwrap();
    let mut planted = planted.begin(&object(), 0..SIZE, 0, &never).unwrap();
    planted.write(&[6; 1000]).unwrap();
    drop(planted);
    relay.object.checksum = stored(&body);

    let download = client.download(wanted(), &target, FileOptions::default());
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

/// A range that starts at the object's end once produced an empty file.
#[tokio::test]
async fn range_at_the_end_of_the_object_leaves_no_file() {
    let network = MemoryNetwork::new(1);
    let mut relay = Relay::on(&network).await;
    let client = client(&network.connect(), Options::default());
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let get = wanted().range(SIZE..);

    let download = client.download(get, &target, FileOptions::default());
    let (report, request) = tokio::join!(download, relay.accept());

    assert_eq!(request.start, SIZE);
    assert!(matches!(report, Err(Error::Refused(ref error)) if error.code == gantry_proto::Code::Range), "{report:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A relay that takes over may know a checksum that the first relay could not get from its store in time.
#[tokio::test]
async fn verifies_checksum_that_only_a_later_relay_states() {
    let body = body();
    for (first, later) in
        [(None, stored(&body)), (None, stored(b"other")), (stored(&body), None), (stored(&body), stored(&body))]
    {
        let network = MemoryNetwork::new(1);
        let mut relay = Relay::on(&network).await;
        let client = client(&network.connect(), Options::default());
        let folder = tempfile::tempdir().unwrap();
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

/// Nothing is used from a relay that contradicts the checksum of the same version. Another relay is asked.
#[tokio::test]
async fn skips_a_later_relay_that_contradicts_the_checksum() {
    let body = body();
    let network = MemoryNetwork::new(1);
    let mut relay = Relay::on(&network).await;
    let client = client(&network.connect(), Options::default());
    let folder = tempfile::tempdir().unwrap();
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

#[tokio::test]
async fn every_request_of_a_download_has_the_same_context() {
    for chosen in [None, Some("order-7")] {
        let network = MemoryNetwork::new(1);
        let mut relay = Relay::on(&network).await;
        let client = client(&network.connect(), Options::default());
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");

        let get = chosen.map_or_else(wanted, |id| wanted().context(id));
        let download = client.download(get, &target, FileOptions::default());
        let serve = async {
            let first = relay.accept().await.context.unwrap();
            relay.say(&Body::Goaway).await;
            relay.transfer = TransferId(uuid::Uuid::from_u128(2));
            let second = relay.accept().await.context.unwrap();
            relay.say(&Body::Chunk(Chunk::new(0, 0, body().into()))).await;
            relay.say(&Body::End(End { chunks: 1, bytes: SIZE })).await;
            (first, second)
        };
        let (report, (first, second)) = tokio::join!(download, serve);

        assert_eq!((report.unwrap().recoveries, &second), (1, &first));
        assert!(chosen.map_or(first.len() == 32, |chosen| first == chosen), "{first}");
    }
}
