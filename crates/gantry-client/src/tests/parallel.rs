//! Downloads in several streams.

use super::*;
use crate::part::{self, PartFile};
use gantry_proto::{Code, WireError};

/// The size of a piece. It is less than the first window, so that the relays need no more credit.
const PIECE: u64 = 4000;

/// The size of the object.
const LEN: u64 = 4 * PIECE;

/// Relays that serve any number of transfers.
struct Relays {
    bus: Arc<Memory>,
    requests: Subscription,
    object: ObjectInfo,
    body: Vec<u8>,
    transfers: u128,
}

/// A request that no relay has answered.
struct Asked {
    request: GetRequest,
    inbox: String,
}

impl Relays {
    async fn on(network: &MemoryNetwork) -> Self {
        let bus = network.connect();
        let requests = bus.subscribe("gantry.v1.get.s", None).await.unwrap();
        let body: Vec<u8> = (0..LEN).map(|at| u8::try_from(at * at % 251).unwrap()).collect();
        let mut object = ObjectInfo::new("k".parse().unwrap(), LEN, "\"one\"".to_owned());
        object.checksum = stored(&body);
        Self { bus, requests, object, body, transfers: 0 }
    }

    async fn next(&mut self) -> Asked {
        let message = self.requests.next().await.unwrap();
        let mut request = GetRequest::parse(&message.payload).unwrap();
        request.apply_location(&self.bus.location().unwrap());
        Asked { request, inbox: message.reply.unwrap() }
    }

    /// Accepts a request, and sends this many bytes.
    async fn send(&mut self, asked: &Asked, bytes: u64) -> TransferId {
        self.transfers += 1;
        let transfer = TransferId(uuid::Uuid::from_u128(self.transfers));
        let Asked { request, inbox } = asked;
        let (start, end) = (request.start, request.end.unwrap_or(LEN).min(LEN));
        let accepted = Accepted {
            host: None,
            transfer,
            instance: "relay".to_owned(),
            control: Prefix::default().control("relay", transfer),
            object: self.object.clone(),
            start,
            end,
            credit: request.credit.unwrap(),
            window_max: SIZE,
            chunk_max: SIZE,
            beat_ms: 1000,
            idle_ms: 15_000,
        };
        self.say(inbox, transfer, &Body::Accepted(Box::new(accepted))).await;

        let range = usize::try_from(start).unwrap()..usize::try_from((start + bytes).min(end)).unwrap();
        if !range.is_empty() {
            let chunk = Chunk::new(0, start, self.body[range].to_vec().into());
            self.say(inbox, transfer, &Body::Chunk(chunk)).await;
        }
        transfer
    }

    /// Serves a request to its end.
    async fn serve(&mut self, asked: &Asked) {
        let transfer = self.send(asked, LEN).await;
        let bytes = asked.request.end.unwrap_or(LEN).min(LEN) - asked.request.start;
        let chunks = u64::from(bytes > 0);
        self.say(&asked.inbox, transfer, &Body::End(End { chunks, bytes })).await;
    }

    async fn say(&self, inbox: &str, transfer: impl Into<Option<TransferId>>, body: &Body) {
        let (headers, payload) = Envelope { transfer: transfer.into(), context: None }.encode(body);
        let message = Message { subject: inbox.to_owned(), headers, payload, ..Message::default() };
        self.bus.publish(message).await.unwrap();
    }
}

fn options(streams: usize) -> FileOptions {
    FileOptions { piece_min_bytes: PIECE, ..FileOptions::default().streams(streams) }
}

/// Returns the range of each request, in order.
fn ranges(asked: &[Asked]) -> Vec<(u64, Option<u64>)> {
    let mut ranges: Vec<_> = asked.iter().map(|asked| (asked.request.start, asked.request.end)).collect();
    ranges.sort_unstable();
    ranges
}

#[tokio::test]
async fn pieces_that_arrive_in_any_order_become_one_verified_file() {
    let network = MemoryNetwork::new(1);
    let mut relays = Relays::on(&network).await;
    let client = client(&network.connect(), Options::default());
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let (progress, seen) = watch::channel(crate::Progress::default());

    let download = client.download(wanted(), &target, options(4).progress(progress));
    let serve = async {
        let first = relays.next().await;
        assert_eq!((first.request.start, first.request.end), (0, Some(PIECE)));
        assert_eq!(first.request.pin, Pin::default());
        let transfer = relays.send(&first, PIECE).await;
        let others = [relays.next().await, relays.next().await, relays.next().await];
        for asked in others.iter().rev() {
            assert_eq!(asked.request.pin.if_match.as_deref(), Some("\"one\""), "pinned to the first version");
            relays.serve(asked).await;
        }
        assert_eq!(ranges(&others), [(PIECE, Some(2 * PIECE)), (2 * PIECE, Some(3 * PIECE)), (3 * PIECE, None)]);
        relays.say(&first.inbox, transfer, &Body::End(End { chunks: 1, bytes: PIECE })).await;
    };
    let (report, ()) = tokio::join!(download, serve);

    let report = report.unwrap();
    assert_eq!((report.bytes, report.fetched_bytes, report.recoveries), (LEN, LEN, 0));
    assert!(matches!(report.proof, Proof::FullObject { .. }), "{:?}", report.proof);
    assert_eq!(std::fs::read(&target).unwrap(), relays.body);
    let seen = seen.borrow();
    assert_eq!((seen.start, seen.written, seen.end), (0, LEN, LEN));
}

#[tokio::test]
async fn a_file_that_is_not_larger_than_a_piece_is_one_transfer() {
    let network = MemoryNetwork::new(1);
    let mut relays = Relays::on(&network).await;
    let client = client(&network.connect(), Options::default());
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");

    let download = client.download(wanted(), &target, FileOptions::default().streams(4));
    let serve = async {
        let asked = relays.next().await;
        relays.serve(&asked).await;
    };
    let (report, ()) = tokio::join!(download, serve);

    assert_eq!(report.unwrap().bytes, LEN);
    assert_eq!(relays.transfers, 1);
}

#[tokio::test]
async fn a_range_is_split_as_well() {
    let network = MemoryNetwork::new(1);
    let mut relays = Relays::on(&network).await;
    let client = client(&network.connect(), Options::default());
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");

    let download = client.download(wanted().range(1000..6400), &target, options(2));
    let serve = async {
        let mut asked = Vec::new();
        for _ in 0..2 {
            asked.push(relays.next().await);
            relays.serve(&asked[asked.len() - 1]).await;
        }
        assert_eq!(ranges(&asked), [(1000, Some(1000 + PIECE)), (1000 + PIECE, Some(6400))]);
    };
    let (report, ()) = tokio::join!(download, serve);

    assert_eq!(report.unwrap().bytes, 5400);
    assert!(std::fs::read(&target).unwrap() == relays.body[1000..6400]);
}

#[tokio::test]
async fn a_piece_of_another_version_ends_the_download() {
    let network = MemoryNetwork::new(1);
    let mut relays = Relays::on(&network).await;
    let client = client(&network.connect(), Options::default());
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");

    let download = client.download(wanted(), &target, options(2));
    let serve = async {
        let first = relays.next().await;
        relays.send(&first, 1000).await;
        let second = relays.next().await;
        relays.object.etag = "\"two\"".to_owned();
        relays.serve(&second).await;
    };
    let (report, ()) = tokio::join!(download, serve);

    assert!(matches!(report, Err(Error::Changed(_))), "{report:?}");
    assert!(!target.exists());
}

/// The relays are silent to the first request for the second piece, until its stream gives up.
#[tokio::test]
async fn another_stream_fetches_the_piece_of_a_failed_one() {
    let network = MemoryNetwork::new(1);
    let mut relays = Relays::on(&network).await;
    let client = client(&network.connect(), Options::default().patience(Duration::from_millis(900)));
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");

    let download = client.download(wanted(), &target, options(2));
    let serve = async {
        let mut is_first = true;
        for _ in 0..5 {
            let asked = relays.next().await;
            if asked.request.start == PIECE && std::mem::take(&mut is_first) {
                continue;
            }
            relays.serve(&asked).await;
        }
    };
    let (report, ()) = tokio::join!(download, serve);

    assert!(matches!(report.unwrap().proof, Proof::FullObject { .. }));
    assert_eq!(std::fs::read(&target).unwrap(), relays.body);
}

#[tokio::test]
async fn a_download_fails_with_its_last_stream() {
    let network = MemoryNetwork::new(1);
    let mut relays = Relays::on(&network).await;
    let client = client(&network.connect(), Options::default().patience(Duration::from_secs(2)));
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");

    let download = client.download(wanted(), &target, options(2));
    let serve = async {
        let first = relays.next().await;
        relays.serve(&first).await;
        // Nobody answers any more.
        loop {
            relays.next().await;
        }
    };
    let report = tokio::select! {
        report = download => report,
        () = serve => unreachable!(),
    };

    assert!(report.as_ref().is_err_and(Error::is_retryable), "{report:?}");
    let never = std::sync::atomic::AtomicBool::new(false);
    let kept = PartFile::open(&target, wanted(), true, &never).unwrap();
    assert_eq!(kept.resume_point().unwrap().proved, PIECE);
}

/// S3 states no checksum for a range, so the relay of the first piece can't either.
#[tokio::test]
async fn verifies_checksum_that_only_a_request_for_all_the_rest_gets() {
    for is_right in [true, false] {
        let network = MemoryNetwork::new(1);
        let mut relays = Relays::on(&network).await;
        let client = client(&network.connect(), Options::default());
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");

        let download = client.download(wanted(), &target, options(2));
        let serve = async {
            let checksum = if is_right { relays.object.checksum.take() } else { stored(b"other") };
            relays.object.checksum = None;
            let first = relays.next().await;
            relays.serve(&first).await;
            relays.object.checksum = checksum;
            let description = relays.next().await;
            assert_eq!((description.request.start, description.request.end), (LEN, None));
            relays.serve(&description).await;
            relays.object.checksum = None;
            for _ in 0..3 {
                let asked = relays.next().await;
                relays.serve(&asked).await;
            }
        };
        let (report, ()) = tokio::join!(download, serve);

        match report {
            Ok(report) => assert!(is_right && matches!(report.proof, Proof::FullObject { .. }), "{report:?}"),
            Err(Error::Part(part::Error::Mismatch { .. })) => assert!(!is_right),
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// A store may permit nothing but downloads, or have no place for the description.
#[tokio::test]
async fn the_last_piece_gets_the_checksum_if_the_description_is_refused() {
    let network = MemoryNetwork::new(1);
    let mut relays = Relays::on(&network).await;
    let client = client(&network.connect(), Options::default());
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");

    let download = client.download(wanted(), &target, options(2));
    let serve = async {
        let checksum = relays.object.checksum.take();
        let first = relays.next().await;
        relays.serve(&first).await;
        let description = relays.next().await;
        relays.say(&description.inbox, None, &Body::Error(WireError::new(Code::Denied, "no"))).await;
        for _ in 0..3 {
            let asked = relays.next().await;
            relays.object.checksum = checksum.clone().filter(|_| asked.request.end.is_none());
            relays.serve(&asked).await;
        }
    };
    let (report, ()) = tokio::join!(download, serve);

    let report = report.unwrap();
    assert!(matches!(report.proof, Proof::FullObject { .. }), "{:?}", report.proof);
    assert_eq!(std::fs::read(&target).unwrap(), relays.body);
}

/// The request for the first piece does not get the checksum, so its relay accepts the pin.
#[tokio::test]
async fn restarts_when_the_description_contradicts_the_part_file() {
    let network = MemoryNetwork::new(1);
    let mut relays = Relays::on(&network).await;
    let client = client(&network.connect(), Options::default());
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let right = std::mem::replace(&mut relays.object.checksum, stored(b"other"));

    let interrupted = options(1);
    let cancel = interrupted.cancel.clone();
    let (progress, mut seen) = watch::channel(crate::Progress::default());
    let download = client.download(wanted(), &target, interrupted.progress(progress));
    let serve = async {
        let asked = relays.next().await;
        relays.send(&asked, 1000).await;
        seen.wait_for(|seen| seen.written == 1000).await.unwrap();
        cancel.cancel();
    };
    let (report, ()) = tokio::join!(download, serve);
    assert!(matches!(report, Err(Error::Cancelled)), "{report:?}");

    let download = client.download(wanted(), &target, options(2));
    let serve = async {
        for start in [1000, LEN, 0, LEN] {
            let asked = relays.next().await;
            assert_eq!(asked.request.start, start);
            relays.object.checksum = right.clone().filter(|_| asked.request.end.is_none());
            relays.serve(&asked).await;
        }
        for _ in 0..3 {
            let asked = relays.next().await;
            relays.serve(&asked).await;
        }
    };
    let (report, ()) = tokio::join!(download, serve);

    let report = report.unwrap();
    assert_eq!((report.fetched_bytes, report.resumed_from), (LEN, None));
    assert!(report.restarted.is_some());
    assert!(matches!(report.proof, Proof::FullObject { .. }), "{:?}", report.proof);
    assert_eq!(std::fs::read(&target).unwrap(), relays.body);
}

#[tokio::test]
async fn a_cancelled_download_keeps_the_contiguous_bytes_and_is_resumed_in_several_streams() {
    let network = MemoryNetwork::new(1);
    let mut relays = Relays::on(&network).await;
    let client = client(&network.connect(), Options::default());
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");

    let interrupted = options(2);
    let cancel = interrupted.cancel.clone();
    let (progress, mut seen) = watch::channel(crate::Progress::default());
    let download = client.download(wanted(), &target, interrupted.progress(progress));
    let serve = async {
        let first = relays.next().await;
        relays.send(&first, 1000).await;
        for _ in 0..3 {
            let asked = relays.next().await;
            relays.serve(&asked).await;
        }
        seen.wait_for(|seen| seen.written == 1000 + 3 * PIECE).await.unwrap();
        cancel.cancel();
    };
    let (report, ()) = tokio::join!(download, serve);
    assert!(matches!(report, Err(Error::Cancelled)), "{report:?}");

    let download = client.download(wanted(), &target, options(2));
    let serve = async {
        let mut asked = Vec::new();
        for _ in 0..4 {
            asked.push(relays.next().await);
            relays.serve(&asked[asked.len() - 1]).await;
        }
        assert_eq!(ranges(&asked)[0], (1000, Some(1000 + PIECE)));
    };
    let (report, ()) = tokio::join!(download, serve);

    let report = report.unwrap();
    assert_eq!((report.resumed_from, report.fetched_bytes), (Some(1000), LEN - 1000));
    assert!(matches!(report.proof, Proof::FullObject { .. }));
    assert_eq!(std::fs::read(&target).unwrap(), relays.body);
}
