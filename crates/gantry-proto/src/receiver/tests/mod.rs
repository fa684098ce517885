mod hostile;
mod rig;

use super::super::answer::End;
use super::super::error::{Code, WireError};
use super::super::message::{Envelope, Wait};
use super::super::object::{Pin, Span};
use super::super::request::Near;
use super::*;
use uuid::Uuid;

const START: Duration = Duration::ZERO;
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const STALL: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(20);
const NO_RELAY_PATIENCE: Duration = Duration::from_millis(2500);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
const SIZE: u64 = 1000;

/// A receiver, and a scripted relay at the other end.
struct Pair {
    receiver: Receiver,
    transfer: TransferId,
}

impl Pair {
    /// Starts a download of the whole object, and sends its request.
    fn new() -> Self {
        Self::wanting(Span::default(), Pin::default())
    }

    fn wanting(span: Span, pin: Pin) -> Self {
        Self::with(settings(), span, pin)
    }

    fn with(settings: Settings, span: Span, pin: Pin) -> Self {
        let get = Get::at("s/a/b").unwrap().range(span).pin(pin).context("mine");
        Self { receiver: Receiver::new(settings, get, START), transfer: transfer(1) }
    }

    /// Starts a download that a relay has accepted.
    fn streaming() -> Self {
        let mut pair = Self::new();
        pair.outputs();
        pair.accept(0, START);
        pair.outputs();
        pair
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.receiver.poll_output()).collect()
    }

    fn delivered(&mut self) -> Vec<u8> {
        std::iter::from_fn(|| self.receiver.poll_deliver()).flat_map(|chunk| chunk.payload).collect()
    }

    /// Passes a message of the relay's transfer to the receiver.
    fn hear(&mut self, body: &Body, now: Duration) {
        self.hear_from(Some(self.transfer), body, now);
    }

    fn hear_from(&mut self, transfer: Option<TransferId>, body: &Body, now: Duration) {
        let (headers, payload) = Envelope { transfer, context: None }.encode(body);
        self.receiver.handle_message(&headers, payload, now);
    }

    fn refuse(&mut self, error: WireError, now: Duration) {
        self.hear_from(None, &Body::Error(error), now);
    }

    fn accept(&mut self, start: u64, now: Duration) {
        self.accept_as(accepted(self.transfer, start), now);
    }

    fn accept_as(&mut self, accepted: Accepted, now: Duration) {
        self.transfer = accepted.transfer;
        self.hear(&Body::Accepted(Box::new(accepted)), now);
    }

    fn failure(&self) -> Option<Failure> {
        self.receiver.outcome()?.err().cloned()
    }

    /// Runs the timers until `until`, and collects the outputs with their times.
    fn run(&mut self, until: Duration) -> Vec<(Duration, Output)> {
        let mut collected = Vec::new();
        while let Some(at) = self.receiver.poll_timeout().filter(|at| *at <= until) {
            self.receiver.handle_timeout(at);
            collected.extend(self.outputs().into_iter().map(|output| (at, output)));
        }
        collected
    }
}

/// Returns the first window for relays near the consumer.
fn near(window: u64) -> Option<(Arc<Location>, u64)> {
    Some((Arc::new(Location { server: "s1".to_owned(), cluster: None }), window))
}

fn settings() -> Settings {
    Settings {
        prefix: Prefix::default(),
        window_initial: 100,
        near: None,
        window_max: 800,
        chunk_max: 50,
        stall_timeout: STALL,
        no_relay_patience: NO_RELAY_PATIENCE,
        patience: PATIENCE,
        backoff_min: 100 * MS,
        backoff_max: BACKOFF_MAX,
        jitter_seed: 1,
    }
}

fn transfer(number: u128) -> TransferId {
    TransferId(Uuid::from_u128(number))
}

fn control_of(transfer: TransferId) -> String {
    format!("gantry.v1.ctl.relay.{transfer}")
}

fn object() -> ObjectInfo {
    ObjectInfo {
        key: "a/b".parse().unwrap(),
        size: SIZE,
        etag: "\"one\"".to_owned(),
        version_id: Some("v1".to_owned()),
        last_modified: None,
        content_type: None,
        headers: std::collections::BTreeMap::new(),
        metadata: std::collections::BTreeMap::new(),
        checksum: None,
        other_checksum: None,
        stale_s: None,
    }
}

fn accepted(transfer: TransferId, start: u64) -> Accepted {
    Accepted {
        transfer,
        instance: "relay".to_owned(),
        control: control_of(transfer),
        host: None,
        object: object(),
        start,
        end: SIZE,
        credit: OFFSET_MAX,
        window_max: 800,
        chunk_max: 1000,
        beat_ms: 1000,
        idle_ms: 15_000,
    }
}

fn bytes(offset: u64, len: u64) -> Vec<u8> {
    (offset..offset + len).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

fn chunk(seq: u64, offset: u64, len: u64) -> Body {
    Body::Chunk(Chunk::new(seq, offset, bytes(offset, len).into()))
}

fn beat(seq: u64, offset: u64, wait: Wait) -> Body {
    Body::Beat { seq, offset, wait }
}

fn credit(transfer: TransferId, credit: u64) -> Output {
    Output::Control { subject: control_of(transfer), control: Control::credit(credit) }
}

/// Returns the control message that repeats the given credit and asks whether the relay knows the transfer.
fn probe(transfer: TransferId, credit: u64) -> Output {
    Output::Control { subject: control_of(transfer), control: Control { probe: true, ..Control::credit(credit) } }
}

fn credit_in(outputs: &[Output]) -> Option<u64> {
    outputs.iter().rev().find_map(|output| match output {
        Output::Control { control, .. } => Some(control.credit),
        Output::Request(_) | Output::Accepted(_) | Output::Recovering(_) => None,
    })
}

fn cancel(transfer: TransferId, credit: u64) -> Output {
    Output::Control { subject: control_of(transfer), control: Control { cancel: true, ..Control::credit(credit) } }
}

fn recovers_from(outputs: &[Output]) -> Vec<&Cause> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Recovering(cause) => Some(cause),
            Output::Request(_) | Output::Control { .. } | Output::Accepted(_) => None,
        })
        .collect()
}

fn requests(outputs: &[Output]) -> Vec<&GetRequest> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Request(request) => Some(request),
            Output::Recovering(_) | Output::Control { .. } | Output::Accepted(_) => None,
        })
        .collect()
}

fn busy(retry_after_ms: u64) -> WireError {
    WireError::new(Code::Busy, "full").with_retry_after_ms(retry_after_ms)
}

mod progress {
    use super::*;

    #[test]
    fn requests_the_wanted_range_at_once() {
        let pin = Pin { if_match: Some("\"two\"".to_owned()), version_id: None };
        let mut pair = Pair::wanting(Span { start: 10, end: Some(60) }, pin.clone());
        let expected = GetRequest {
            v: None,
            key: "a/b".parse().unwrap(),
            start: 10,
            end: Some(60),
            pin,
            credit: Some(60),
            window: None,
            chunk_max: Some(50),
            context: Some("mine".to_owned()),
            keeps_alive: true,
            near: None,
        };
        assert_eq!(pair.outputs(), [Output::Request(expected)]);
    }

    #[test]
    fn only_a_near_relay_may_send_the_window_for_near_relays_at_once() {
        let near = Settings { near: near(400), ..settings() };
        for (credit, window) in [(100, 100), (400, 400)] {
            let mut pair = Pair::with(near.clone(), Span::default(), Pin::default());
            let outputs = pair.outputs();
            let Output::Request(request) = &outputs[0] else { panic!("{outputs:?}") };
            assert_eq!(request.credit, Some(100));
            assert_eq!(request.near, Some(Near { server: "s1".to_owned(), cluster: None, credit: 400 }));

            pair.accept_as(Accepted { credit, ..accepted(transfer(1), 0) }, START);
            assert_eq!(pair.receiver.credit.window().size(), window);
            assert_eq!(pair.receiver.credit.grant(0, None), credit);

            // A near relay's delay shows nothing about the link to others.
            pair.hear(&chunk(0, 0, credit), MS);
            assert_eq!(pair.receiver.measured_window().is_some(), credit == 100);
        }
    }

    /// The credit for near relays can exceed the object. Its acceptance then does not show that its relay is near.
    #[test]
    fn a_small_object_from_a_near_relay_is_not_measured() {
        let near = Settings { window_initial: SIZE, window_max: 2000, near: near(2000), ..settings() };
        let mut pair = Pair::with(near, Span::default(), Pin::default());
        pair.accept_as(Accepted { credit: SIZE, window_max: 2000, ..accepted(transfer(1), 0) }, START);
        pair.hear(&chunk(0, 0, SIZE), MS);

        assert_eq!(pair.receiver.measured_window(), None);
    }

    /// A relay on the consumer's nats-server may have queued its first credit on a slow link to that server.
    #[test]
    fn a_near_relay_behind_a_slow_link_is_lost_only_after_its_first_credit() {
        let near = Settings { near: near(800), ..settings() };
        let mut pair = Pair::with(near, Span::default(), Pin::default());
        pair.accept_as(Accepted { credit: 800, ..accepted(transfer(1), 0) }, START);
        // The other 750 bytes take 6 s at this rate.
        pair.hear(&chunk(0, 0, 50), 400 * MS);
        let is_lost = |outputs: &[(Duration, Output)]| {
            outputs.iter().any(|(_, output)| matches!(output, Output::Recovering(Cause::Stall)))
        };

        assert!(!is_lost(&pair.run(13 * SECOND)));
        assert!(is_lost(&pair.run(14 * SECOND)));
    }

    #[test]
    fn a_relay_that_is_not_near_does_not_get_the_window_of_a_near_one() {
        let near = Settings { near: near(400), ..settings() };
        let mut pair = Pair::with(near, Span::default(), Pin::default());
        pair.accept_as(Accepted { credit: 400, ..accepted(transfer(1), 0) }, START);
        pair.hear(&chunk(0, 0, 50), MS);
        assert_eq!(pair.receiver.credit.window().size(), 400);

        pair.hear(&Body::Goaway, MS);
        pair.accept(50, MS);

        assert_eq!(pair.receiver.credit.window().size(), 100);
    }

    /// Only the smallest larger credit shows whether the relay of a known version is near.
    #[test]
    fn a_download_of_a_known_version_notices_a_near_relay() {
        let near = Settings { near: near(400), ..settings() };
        for credit in [100, 101] {
            let get = Get::at("s/a/b").unwrap();
            let mut pair = Pair { receiver: Receiver::of_version(near.clone(), get, object(), START), ..Pair::new() };
            let outputs = pair.outputs();
            let Output::Request(request) = &outputs[0] else { panic!("{outputs:?}") };
            assert_eq!(request.near.as_ref().map(|near| near.credit), Some(101));

            pair.accept_as(Accepted { credit, ..accepted(transfer(1), 0) }, START);
            pair.hear(&chunk(0, 0, 50), MS);
            pair.hear(&chunk(1, 50, credit - 50), MS);

            assert_eq!(pair.receiver.measured_window().is_some(), credit == 100);
        }
    }

    #[test]
    fn the_time_that_a_store_takes_to_open_is_not_measured() {
        let mut pair = Pair::new();
        pair.hear(&beat(0, 0, Wait::Store), 10 * MS);
        pair.accept(0, 5 * SECOND);
        pair.hear(&chunk(0, 0, 100), 5 * SECOND + MS);
        assert_eq!(pair.receiver.credit.window().delay(), None);

        pair.hear(&chunk(1, 100, 100), 5 * SECOND + 3 * MS);
        assert_eq!(pair.receiver.credit.window().delay(), Some(2 * MS));
    }

    /// The last bytes arrive at once, whatever the window is.
    #[test]
    fn the_end_of_a_range_does_not_enlarge_the_window() {
        let mut pair = Pair::wanting(Span { start: 0, end: Some(60) }, Pin::default());
        pair.accept_as(Accepted { end: 60, credit: 60, ..accepted(transfer(1), 0) }, START);
        pair.hear(&chunk(0, 0, 60), MS);
        assert_eq!(pair.receiver.credit.window().delay(), Some(MS));
        assert_eq!(pair.receiver.credit.window().size(), 100);
    }

    #[test]
    fn the_window_for_near_relays_is_not_offered_after_a_reconnect() {
        let near = Settings { near: near(400), ..settings() };
        let mut pair = Pair::with(near, Span::default(), Pin::default());
        pair.outputs();
        pair.receiver.handle_disconnected();
        pair.receiver.handle_connected(SECOND);
        let outputs = pair.outputs();
        assert!(matches!(outputs.last(), Some(Output::Request(GetRequest { near: None, .. }))), "{outputs:?}");
    }

    #[test]
    fn delivers_bytes_in_order_and_ends_once_they_are_written() {
        let mut pair = Pair::wanting(Span { start: 10, end: Some(60) }, Pin::default());
        pair.accept_as(Accepted { end: 60, ..accepted(transfer(1), 10) }, START);
        pair.hear(&chunk(0, 10, 30), START);
        pair.hear(&chunk(1, 40, 20), START);
        pair.hear(&Body::End(End { chunks: 2, bytes: 50 }), START);
        assert_eq!(pair.delivered(), bytes(10, 50));
        assert_eq!(pair.receiver.outcome(), None);
        pair.receiver.handle_written(60, START);
        assert_eq!(pair.receiver.outcome(), Some(Ok(())));
        assert_eq!(pair.receiver.poll_timeout(), None);
    }

    #[test]
    fn an_empty_object_ends_with_the_end_message() {
        let mut pair = Pair::new();
        let empty = Accepted { object: ObjectInfo { size: 0, ..object() }, end: 0, ..accepted(transfer(1), 0) };
        pair.accept_as(empty, START);
        assert_eq!(pair.receiver.outcome(), None);
        pair.hear(&Body::End(End { chunks: 0, bytes: 0 }), START);
        assert_eq!(pair.receiver.outcome(), Some(Ok(())));
    }

    #[test]
    fn a_repeated_message_changes_nothing() {
        let mut pair = Pair::streaming();
        pair.accept(0, START);
        pair.hear(&chunk(0, 0, 50), START);
        pair.hear(&chunk(0, 0, 50), START);
        pair.hear(&beat(0, 0, Wait::Store), START);
        assert_eq!(pair.delivered(), bytes(0, 50));
        assert_eq!(pair.outputs(), []);
        let stats = pair.receiver.stats();
        assert_eq!((stats.repeats, stats.discarded_bytes), (2, 50));
    }

    #[test]
    fn messages_of_another_transfer_are_discarded() {
        let mut pair = Pair::streaming();
        for body in [chunk(0, 0, 50), Body::Goaway, Body::End(End { chunks: 0, bytes: 0 })] {
            pair.hear_from(Some(transfer(9)), &body, START);
        }
        assert!(pair.delivered().is_empty());
        assert_eq!(pair.outputs(), []);
        let stats = pair.receiver.stats();
        assert_eq!((stats.strays, stats.discarded_bytes), (3, 50));
    }

    #[test]
    fn nothing_happens_after_the_end() {
        let mut pair = Pair::wanting(Span { start: 0, end: Some(50) }, Pin::default());
        pair.accept_as(Accepted { end: 50, ..accepted(transfer(1), 0) }, START);
        pair.hear(&chunk(0, 0, 50), START);
        pair.hear(&Body::End(End { chunks: 1, bytes: 50 }), START);
        pair.outputs();
        pair.hear(&chunk(1, 50, 50), SECOND);
        pair.hear(&Body::Goaway, SECOND);
        pair.receiver.handle_no_responders(SECOND);
        pair.receiver.handle_disconnected();
        pair.receiver.handle_connected(SECOND);
        pair.receiver.handle_timeout(PATIENCE * 2);
        assert_eq!(pair.delivered(), bytes(0, 50));
        pair.receiver.handle_written(50, PATIENCE * 2);
        assert_eq!(pair.outputs(), []);
        assert_eq!(pair.receiver.outcome(), Some(Ok(())));
    }

    #[test]
    fn cancelling_notifies_the_relay_and_ends() {
        let mut pair = Pair::streaming();
        pair.receiver.handle_failure(Failure::Cancelled);
        assert_eq!(pair.outputs(), [cancel(transfer(1), 100)]);
        assert_eq!(pair.failure(), Some(Failure::Cancelled));
        assert_eq!(pair.receiver.poll_timeout(), None);
    }
}

mod recovery {
    use super::*;

    /// Passes `body` after the first chunk, and returns why it ended the transfer.
    fn cause_of(body: &Body) -> Cause {
        let mut pair = Pair::streaming();
        pair.hear(&chunk(0, 0, 50), SECOND);
        pair.hear(body, SECOND);
        let outputs = pair.outputs();
        let pinned = GetRequest {
            v: None,
            key: "a/b".parse().unwrap(),
            start: 50,
            end: None,
            pin: object().pin(),
            credit: Some(150),
            window: None,
            chunk_max: Some(50),
            context: Some("mine".to_owned()),
            keeps_alive: true,
            near: None,
        };
        assert_eq!(outputs.first(), Some(&cancel(transfer(1), 100)));
        assert_eq!(outputs.last(), Some(&Output::Request(pinned)));
        assert_eq!(pair.delivered(), bytes(0, 50));
        recovers_from(&outputs)[0].clone()
    }

    #[test]
    fn a_lost_chunk_ends_the_transfer_and_starts_a_pinned_one() {
        assert_eq!(cause_of(&chunk(2, 100, 50)), Cause::Gap);
    }

    #[test]
    fn a_beat_reveals_a_lost_chunk() {
        assert_eq!(cause_of(&beat(2, 100, Wait::Store)), Cause::Gap);
    }

    #[test]
    fn an_end_before_the_last_byte_is_a_gap() {
        assert_eq!(cause_of(&Body::End(End { chunks: 1, bytes: 50 })), Cause::Gap);
        assert_eq!(cause_of(&Body::End(End { chunks: 20, bytes: 1000 })), Cause::Gap);
    }

    #[test]
    fn rejects_a_damaged_chunk() {
        let mut damaged = Chunk::new(1, 50, bytes(50, 10).into());
        damaged.crc ^= 1;
        assert_eq!(cause_of(&Body::Chunk(damaged)), Cause::Corrupt);
    }

    #[test]
    fn rejects_a_chunk_at_the_wrong_offset() {
        for offset in [0, 49, 51, u64::MAX] {
            let wrong = Chunk::new(1, offset, vec![1; 10].into());
            assert!(matches!(cause_of(&Body::Chunk(wrong)), Cause::Violation(_)), "{offset}");
        }
    }

    #[test]
    fn a_beat_at_the_wrong_offset_is_a_violation() {
        assert!(matches!(cause_of(&beat(1, 60, Wait::Store)), Cause::Violation(_)));
    }

    #[test]
    fn rejects_a_chunk_past_credit() {
        assert!(matches!(cause_of(&chunk(1, 50, 51)), Cause::Violation(what) if what.contains("credit")));
    }

    #[test]
    fn goaway_and_temporary_errors_lead_to_another_request() {
        assert_eq!(cause_of(&Body::Goaway), Cause::Goaway);
        for code in [Code::StoreUnavailable, Code::Internal, Code::Idle, Code::Draining] {
            let error = WireError::new(code, "later");
            assert_eq!(cause_of(&Body::Error(error.clone())), Cause::Refused(error));
        }
    }

    #[test]
    fn rejects_a_chunk_past_the_end() {
        let mut pair = Pair::wanting(Span { start: 0, end: Some(60) }, Pin::default());
        pair.accept_as(Accepted { end: 60, ..accepted(transfer(1), 0) }, START);
        pair.outputs();
        pair.hear(&chunk(0, 0, 61), START);
        assert!(matches!(recovers_from(&pair.outputs())[..], [Cause::Violation(_)]));
        assert!(pair.delivered().is_empty());
    }

    #[test]
    fn a_message_outside_the_protocol_ends_the_transfer() {
        let mut pair = Pair::streaming();
        pair.receiver.handle_message(&Headers::default(), Bytes::from_static(b"hello"), START);
        assert!(matches!(recovers_from(&pair.outputs())[..], [Cause::Violation(_)]));
    }

    #[test]
    fn a_message_after_a_lost_acceptance_is_a_gap() {
        let mut pair = Pair::new();
        pair.outputs();
        pair.hear(&chunk(0, 0, 50), START);
        assert_eq!(recovers_from(&pair.outputs()), [&Cause::Gap]);
        assert!(pair.delivered().is_empty());
    }

    #[test]
    fn another_range_than_the_requested_one_is_a_violation() {
        for wrong in [
            accepted(transfer(1), 1),
            Accepted { end: SIZE - 1, ..accepted(transfer(1), 0) },
            Accepted { end: SIZE + 1, ..accepted(transfer(1), 0) },
        ] {
            let mut pair = Pair::new();
            pair.outputs();
            pair.accept_as(wrong, START);
            assert!(matches!(recovers_from(&pair.outputs())[..], [Cause::Violation(_)]));
        }
    }

    #[test]
    fn silence_ends_the_transfer_unless_beats_arrive() {
        let mut pair = Pair::streaming();
        pair.hear(&beat(0, 0, Wait::Store), STALL - MS);
        let outputs = pair.run(STALL * 2 - 2 * MS);
        assert!(outputs.iter().all(|(_, output)| matches!(output, Output::Control { .. })), "{outputs:?}");
        let outputs = pair.run(STALL * 2);
        assert!(outputs.contains(&(STALL * 2 - MS, Output::Recovering(Cause::Stall))), "{outputs:?}");
    }

    #[test]
    fn a_relay_with_slow_beats_is_lost_after_three_of_them() {
        let mut pair = Pair::new();
        pair.accept_as(Accepted { beat_ms: 2000, ..accepted(transfer(1), 0) }, START);
        pair.outputs();
        let outputs = pair.run(6 * SECOND);
        assert_eq!(outputs.last().map(|(at, _)| *at), Some(6 * SECOND));
        assert!(outputs.contains(&(6 * SECOND, Output::Recovering(Cause::Stall))), "{outputs:?}");
    }

    #[test]
    fn an_unanswered_request_is_repeated_at_growing_intervals() {
        let mut pair = Pair::new();
        pair.outputs();
        let asked = seconds_of_requests(&pair.run(13 * SECOND));
        assert_eq!(asked, [1.0, 2.0, 3.0, 5.0, 8.0, 11.0]);
    }

    /// If a link takes longer than the stall timeout to deliver an answer, each request was once abandoned too early.
    #[test]
    fn an_answer_may_take_four_stall_timeouts_after_many_unanswered_requests() {
        let mut pair = Pair::new();
        pair.outputs();
        pair.receiver.recovery.set_unanswered(20);
        let asked = seconds_of_requests(&pair.run(STALL * 4));
        assert_eq!(asked, [(STALL * 4).as_secs_f64()]);
    }

    /// A frozen relay keeps its place in the queue group, and receives every second request.
    #[test]
    fn a_request_to_a_frozen_relay_is_repeated_after_the_usual_answer_time() {
        for (answered_in, again) in [(MS, 200 * MS), (100 * MS, 400 * MS), (2 * SECOND, STALL)] {
            let mut pair = Pair::new();
            pair.outputs();
            pair.hear(&beat(0, 0, Wait::Store), answered_in.min(SECOND - MS));
            pair.receiver.recovery.handle_answered(answered_in);
            pair.accept(0, SECOND);
            pair.hear(&chunk(0, 0, 50), SECOND);
            pair.outputs();
            let lost = SECOND + STALL;
            let outputs = pair.run(lost + again);
            assert_eq!(seconds_of_requests(&outputs), [lost.as_secs_f64(), (lost + again).as_secs_f64()]);
        }
    }

    #[test]
    fn a_relay_that_has_answered_once_may_take_longer() {
        let mut pair = Pair::new();
        pair.outputs();
        pair.hear(&beat(0, 0, Wait::Store), 50 * MS);
        let outputs = pair.run(50 * MS + STALL);
        assert_eq!(seconds_of_requests(&outputs), [(50 * MS + STALL).as_secs_f64()]);
    }

    fn seconds_of_requests(outputs: &[(Duration, Output)]) -> Vec<f64> {
        let asked = outputs.iter().filter(|(_, output)| matches!(output, Output::Request(_)));
        asked.map(|(at, _)| at.as_secs_f64()).collect()
    }

    /// A killed relay sends nothing, and nats-server reports this only after a message to the relay.
    #[test]
    fn a_silent_relay_is_probed_once() {
        let mut pair = Pair::streaming();
        pair.hear(&chunk(0, 0, 50), SECOND);
        pair.outputs();
        let said = |outputs: Vec<(Duration, Output)>| {
            let said = outputs.into_iter().filter(|(_, output)| matches!(output, Output::Control { .. }));
            said.map(|(at, _)| at).collect::<Vec<_>>()
        };
        assert_eq!(said(pair.run(SECOND * 3)), [SECOND + 500 * MS]);
        pair.hear(&beat(1, 50, Wait::Store), SECOND * 3);
        assert_eq!(said(pair.run(SECOND * 5)), [SECOND * 3 + 500 * MS]);
    }

    #[test]
    fn credit_given_just_before_a_relay_dies_does_not_suppress_the_probe() {
        let mut pair = Pair::streaming();
        pair.hear(&chunk(0, 0, 50), SECOND);
        pair.receiver.handle_written(50, SECOND + 100 * MS);
        pair.outputs();
        let outputs = pair.run(SECOND * 3);
        assert!(matches!(outputs[..], [(at, Output::Control { .. })] if at == SECOND + 500 * MS), "{outputs:?}");
    }

    #[test]
    fn a_lost_connection_waits_for_the_next_one() {
        let mut pair = Pair::streaming();
        pair.hear(&chunk(0, 0, 50), START);
        pair.receiver.handle_disconnected();
        pair.receiver.handle_disconnected();
        assert_eq!(pair.outputs(), [Output::Recovering(Cause::Disconnected)]);
        assert_eq!(pair.run(PATIENCE - MS), []);
        pair.receiver.handle_connected(PATIENCE - MS);
        let outputs = pair.outputs();
        assert_eq!(requests(&outputs)[0].start, 50);
        assert_eq!(outputs.len(), 1);
    }

    #[test]
    fn a_connection_that_does_not_come_back_ends_the_download() {
        let mut pair = Pair::streaming();
        pair.receiver.handle_disconnected();
        pair.run(PATIENCE);
        assert!(matches!(pair.failure(), Some(Failure::GaveUp { cause: Cause::Disconnected, accepted: true, .. })));
    }

    #[test]
    fn a_silent_relay_without_a_listener_on_its_control_subject_is_abandoned() {
        let mut pair = Pair::streaming();
        let mut now = START;
        let outputs = loop {
            pair.receiver.handle_no_responders(now);
            let outputs = pair.outputs();
            if !outputs.is_empty() {
                break outputs;
            }
            now = pair.receiver.poll_timeout().unwrap();
            assert_eq!(pair.run(now).len(), 1, "the control message is sent again");
        };
        assert_eq!(recovers_from(&outputs), [&Cause::NoResponders]);
        assert!(now >= 1250 * MS && now <= 1300 * MS, "{now:?}");
        let outputs = pair.run(now + 300 * MS);
        assert!(matches!(outputs[..], [(at, Output::Request(_))] if at >= now + 100 * MS));
    }

    /// A relay that replaces its request connection after each malformed message was once considered dead.
    #[test]
    fn a_relay_that_still_sends_is_kept_without_a_listener_on_its_control_subject() {
        let mut pair = Pair::streaming();
        for second in 1..60 {
            let now = SECOND * second;
            pair.hear(&beat(0, 0, Wait::Store), now);
            for _ in 0..10 {
                pair.receiver.handle_no_responders(now + 900 * MS);
            }
            pair.outputs();
        }
        assert_eq!((pair.receiver.stats().recoveries, pair.failure()), (0, None));
    }

    #[test]
    fn a_relay_that_keeps_leaving_is_asked_after_growing_pauses() {
        let mut pair = Pair::streaming();
        let mut times = vec![START];
        for _ in 0..6 {
            let now = *times.last().unwrap();
            pair.accept(0, now);
            pair.hear(&Body::Goaway, now);
            pair.outputs();
            times.extend(pair.receiver.poll_timeout());
            pair.run(*times.last().unwrap());
        }
        let pauses: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses[1] >= 100 * MS && pauses[5] >= SECOND, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= STALL), "{pauses:?}");
    }

    #[test]
    fn bytes_that_arrive_make_the_next_recovery_immediate_again() {
        let mut pair = Pair::streaming();
        pair.hear(&Body::Goaway, START);
        pair.accept(0, START);
        pair.hear(&chunk(0, 0, 50), START);
        pair.outputs();
        pair.hear(&Body::Goaway, START);
        assert_eq!(requests(&pair.outputs()).len(), 1);
    }
}

mod ending {
    use super::*;

    #[test]
    fn without_any_relay_the_download_ends_after_its_own_patience() {
        let mut pair = Pair::new();
        let mut now = START;
        while pair.failure().is_none() {
            pair.outputs();
            pair.receiver.handle_no_responders(now);
            if let Some(at) = pair.receiver.poll_timeout() {
                now = at;
                pair.receiver.handle_timeout(now);
            }
        }
        assert!(now <= NO_RELAY_PATIENCE && now >= NO_RELAY_PATIENCE / 2, "{now:?}");
        assert!(matches!(
            pair.failure(),
            Some(Failure::GaveUp { cause: Cause::NoResponders, accepted: false, requests: 3.. })
        ));
    }

    #[test]
    fn relays_that_disappear_get_the_full_patience() {
        let mut pair = Pair::streaming();
        let mut now = START;
        while pair.failure().is_none() {
            pair.outputs();
            pair.receiver.handle_no_responders(now);
            if let Some(at) = pair.receiver.poll_timeout() {
                now = at;
                pair.receiver.handle_timeout(now);
            }
        }
        assert!(now <= PATIENCE && now >= PATIENCE - 2 * BACKOFF_MAX, "{now:?}");
    }

    #[test]
    fn a_final_refusal_ends_the_download() {
        for code in [Code::NotFound, Code::Denied, Code::BadRequest, Code::Range, Code::Changed] {
            let mut pair = Pair::new();
            pair.refuse(WireError::new(code, "no"), START);
            assert!(matches!(pair.failure(), Some(Failure::Refused(error)) if error.code == code));
        }
    }

    /// A download that starts at 2^64 - 1 kept its driver busy, because that offset also stands for "never".
    #[test]
    fn a_start_past_every_object_fails_without_a_request() {
        for start in [OFFSET_MAX + 1, u64::MAX] {
            let mut pair = Pair::wanting(Span { start, end: None }, Pin::default());
            assert!(matches!(pair.failure(), Some(Failure::Refused(error)) if error.code == Code::Range));
            assert_eq!((pair.outputs(), pair.receiver.poll_timeout()), (vec![], None));
        }
        assert_eq!(Pair::wanting(Span { start: OFFSET_MAX, end: None }, Pin::default()).outputs().len(), 1);
    }

    #[test]
    fn an_error_that_is_not_retryable_is_final() {
        let mut pair = Pair::streaming();
        let error = WireError { retryable: false, ..WireError::new(Code::Internal, "broken") };
        pair.hear(&Body::Error(error.clone()), START);
        assert_eq!(pair.failure(), Some(Failure::Refused(error)));
    }

    #[test]
    fn a_store_that_is_down_from_the_start_ends_the_download() {
        let mut pair = Pair::new();
        pair.refuse(WireError::new(Code::StoreUnavailable, "down"), START);
        assert_eq!(pair.failure(), None);
        pair.refuse(WireError::new(Code::StoreUnavailable, "down"), SECOND / 2);
        assert!(matches!(pair.failure(), Some(Failure::GaveUp { cause: Cause::Refused(_), requests: 2, .. })));
    }

    #[test]
    fn a_store_that_one_relay_cannot_reach_is_requested_from_another() {
        let mut pair = Pair::new();
        pair.outputs();
        pair.refuse(WireError::new(Code::StoreUnavailable, "down"), START);
        assert_eq!(requests(&pair.outputs()).len(), 1);
        pair.accept(0, SECOND / 2);
        pair.hear(&beat(0, 0, Wait::Store), 2 * SECOND);
        pair.run(3 * SECOND);
        assert_eq!(pair.failure(), None);
    }

    /// S3's `Retry-After` concerns only the first relay.
    #[test]
    fn a_pause_requested_by_one_relay_does_not_delay_another() {
        let mut pair = Pair::new();
        pair.outputs();
        pair.refuse(WireError::new(Code::StoreUnavailable, "slow down").with_retry_after_ms(5000), START);
        assert_eq!(pair.failure(), None);
        assert_eq!(requests(&pair.outputs()).len(), 1);
    }

    #[test]
    fn the_first_relays_error_is_reported_if_the_second_is_busy() {
        let mut pair = Pair::new();
        pair.refuse(WireError::new(Code::StoreUnavailable, "down"), START);
        pair.refuse(busy(2000), SECOND / 2);
        let Some(Failure::GaveUp { cause: Cause::Refused(error), .. }) = pair.failure() else { panic!("does not end") };
        assert_eq!(error.code, Code::StoreUnavailable);
    }

    #[test]
    fn the_wait_for_a_second_relay_is_shorter_than_its_own_retries() {
        let mut pair = Pair::new();
        pair.refuse(WireError::new(Code::StoreUnavailable, "down"), 12 * SECOND);
        pair.hear_from(None, &beat(0, 0, Wait::Store), 12 * SECOND + 50 * MS);
        pair.run(13 * SECOND);
        assert!(matches!(pair.failure(), Some(Failure::GaveUp { cause: Cause::Refused(_), requests: 2, .. })));
    }

    #[test]
    fn a_store_that_fails_later_gets_the_full_patience() {
        let mut pair = Pair::streaming();
        pair.hear(&chunk(0, 0, 50), START);
        pair.hear(&Body::Error(WireError::new(Code::StoreUnavailable, "down")), START);
        pair.refuse(WireError::new(Code::StoreUnavailable, "down"), START);
        assert_eq!(pair.failure(), None);
        let outputs = pair.run(PATIENCE);
        assert!(requests(&outputs.into_iter().map(|(_, output)| output).collect::<Vec<_>>()).len() > 1);
        assert!(matches!(pair.failure(), Some(Failure::GaveUp { accepted: true, .. })));
    }

    #[test]
    fn another_version_ends_the_download() {
        for changed in [
            Accepted { object: ObjectInfo { etag: "\"two\"".to_owned(), ..object() }, ..accepted(transfer(2), 0) },
            Accepted { object: ObjectInfo { size: SIZE + 1, ..object() }, ..accepted(transfer(2), 0) },
        ] {
            let mut pair = Pair::streaming();
            pair.hear(&Body::Goaway, START);
            pair.outputs();
            pair.accept_as(changed, START);
            assert_eq!(pair.outputs(), [cancel(transfer(2), 0)]);
            assert!(matches!(pair.failure(), Some(Failure::Changed { was, .. }) if was == "\"one\""));
        }
    }

    #[test]
    fn a_pin_that_no_longer_holds_ends_the_download() {
        let mut pair = Pair::streaming();
        pair.hear(&Body::Goaway, START);
        pair.refuse(WireError::new(Code::Changed, "another"), START);
        assert!(matches!(pair.failure(), Some(Failure::Changed { .. })));
    }

    #[test]
    fn a_busy_relay_is_asked_again_after_its_retry_time() {
        let mut pair = Pair::new();
        pair.outputs();
        pair.refuse(busy(500), START);
        assert!(matches!(pair.outputs()[..], [Output::Recovering(Cause::Refused(_))]));
        assert!(matches!(pair.run(600 * MS)[..], [(at, Output::Request(_))] if at == 500 * MS));
    }

    #[test]
    fn a_busy_relay_cannot_delay_the_next_request_for_long() {
        let mut pair = Pair::new();
        pair.outputs();
        pair.refuse(busy(u64::MAX), START);
        pair.outputs();
        assert!(matches!(pair.run(SECOND * 2)[..], [(BACKOFF_MAX, Output::Request(_))]));
    }
}

mod credit {
    use super::*;

    const KIB: u64 = 1024;

    /// The delay of a grant that lets the window grow by little: between half of the aim and the aim.
    const USUAL: Duration = Duration::from_millis(400);

    /// Starts a download of `size` KiB, with a first window of `initial` and a largest of `max` KiB. The relay accepts it,
    /// and windows of up to `relay_max` bytes.
    fn streaming_with(initial: u64, max: u64, size: u64, relay_max: u64) -> Pair {
        let windows =
            Settings { window_initial: initial * KIB, window_max: max * KIB, chunk_max: size * KIB, ..settings() };
        let mut pair = Pair::with(windows, Span::default(), Pin::default());
        assert_eq!(pair.receiver.awaited_written(), u64::MAX);

        let object = ObjectInfo { size: size * KIB, ..object() };
        let terms = Accepted {
            end: object.size,
            chunk_max: object.size,
            window_max: relay_max,
            object,
            ..accepted(transfer(1), 0)
        };
        pair.accept_as(terms, START);
        pair.outputs();
        pair
    }

    fn streaming(initial: u64, max: u64) -> Pair {
        streaming_with(initial, max, 1000, OFFSET_MAX)
    }

    fn hear_chunk(pair: &mut Pair, seq: u64, offset: u64, len: u64, now: Duration) {
        pair.hear(&chunk(seq, offset * KIB, len * KIB), now);
    }

    /// Returns the latest credit of the outputs, in KiB.
    fn given(pair: &mut Pair) -> Option<u64> {
        credit_in(&pair.outputs()).map(|credit| credit / KIB)
    }

    #[test]
    fn credit_follows_arrived_bytes_in_steps_of_an_eighth_of_the_window() {
        let mut pair = streaming(160, 800);
        hear_chunk(&mut pair, 0, 0, 19, START);
        assert_eq!(given(&mut pair), None);
        hear_chunk(&mut pair, 1, 19, 1, START);
        assert_eq!(given(&mut pair), Some(20 + 160));
    }

    #[test]
    fn credit_follows_written_bytes_if_writing_is_slow() {
        let mut pair = streaming(160, 160);
        hear_chunk(&mut pair, 0, 0, 100, START);
        assert_eq!(given(&mut pair), None);
        pair.receiver.handle_written(19 * KIB, START);
        assert_eq!(given(&mut pair), None);
        pair.receiver.handle_written(20 * KIB, START);
        assert_eq!(given(&mut pair), Some(20 + 160));
    }

    #[test]
    fn written_bytes_have_no_effect_below_the_awaited_offset() {
        for (initial, max) in [(100, 100), (100, 300), (2, 2)] {
            let mut pair = streaming(initial, max);
            let (mut seq, mut next, mut limit) = (0, 0, initial);
            for written in 0..=1000 {
                let now = USUAL * u32::try_from(seq).unwrap();
                if written >= next && limit > next {
                    // The whole window arrives at once, and the relay reports that it waits.
                    hear_chunk(&mut pair, seq, next, limit - next, now);
                    (seq, next) = (seq + 1, limit);
                    if next < 1000 {
                        pair.hear(&beat(seq, next * KIB, Wait::Credit), now);
                    }
                }
                limit = given(&mut pair).unwrap_or(limit);
                let due = pair.receiver.awaited_written();
                pair.receiver.handle_written(written * KIB, now);
                let told = given(&mut pair);
                assert!(told.is_none() || written * KIB >= due, "{written} of {due}: {told:?}");
                assert!(pair.receiver.awaited_written() > written * KIB, "the driver would be woken over and over");
                limit = told.unwrap_or(limit);
            }
            assert_eq!((next, limit), (1000, 1000));
            pair.hear(&Body::End(End { chunks: seq, bytes: 1000 * KIB }), START);
            assert_eq!(pair.receiver.awaited_written(), 1000 * KIB);
        }
    }

    #[test]
    fn never_runs_past_the_end_of_the_range() {
        let mut pair = streaming(900, 900);
        hear_chunk(&mut pair, 0, 0, 500, START);
        pair.receiver.handle_written(100 * KIB, START);
        assert_eq!(given(&mut pair), Some(1000));
        pair.receiver.handle_written(500 * KIB, START);
        assert_eq!(given(&mut pair), None);
    }

    /// A delay far below the aim shows that the link carries more. A window up to 2 MiB needs no other reason to grow.
    #[test]
    fn a_short_delay_lets_the_window_leap() {
        for (delay, expected) in [(START, 128 * 4), (MS, 20 * 4), (5 * MS, 4 * 4), (100 * MS, 2 * 4)] {
            let mut pair = streaming(4, 24 * 1024);
            hear_chunk(&mut pair, 0, 0, 4, delay);
            assert_eq!(given(&mut pair), Some((4 + expected).min(1000)), "{delay:?}");
        }
    }

    #[test]
    fn a_long_delay_shrinks_the_window() {
        let mut pair = streaming(100, 100);
        hear_chunk(&mut pair, 0, 0, 100, USUAL);
        pair.receiver.handle_written(100 * KIB, USUAL);
        assert_eq!(given(&mut pair), Some(200));
        hear_chunk(&mut pair, 1, 100, 100, USUAL + SECOND);
        let window = pair.receiver.credit.window().size() / KIB;
        assert!((50..55).contains(&window), "{window}");
    }

    /// The relay may be near, and the next one may not.
    #[test]
    fn a_window_of_which_nobody_knows_whether_its_relay_is_near_applies_to_no_other() {
        let mut pair = streaming(1, 800);
        hear_chunk(&mut pair, 0, 0, 1, MS);
        assert!(pair.receiver.credit.window().size() > 10 * KIB);
        assert_eq!(pair.receiver.measured_window(), None);

        pair.hear(&Body::Goaway, 2 * MS);

        assert_eq!(pair.receiver.credit.window().size(), 4 * KIB);
    }

    /// A link that has become slow must not fill up until all of a window has arrived.
    #[test]
    fn bytes_that_are_overdue_shrink_the_window_once() {
        let mut pair = streaming(100, 800);
        let windows = [1, 4, 5].map(|after| {
            let seq = pair.receiver.next_offset() / KIB;
            hear_chunk(&mut pair, seq, seq, 1, after * SECOND);
            pair.receiver.credit.window().size() / KIB
        });
        assert_eq!(windows, [100, 30, 30]);
    }

    #[test]
    fn a_delay_that_slow_writing_causes_does_not_let_the_window_grow() {
        let mut pair = streaming(100, 800);
        pair.receiver.handle_window_limit(100 * KIB);
        hear_chunk(&mut pair, 0, 0, 100, USUAL);
        pair.receiver.handle_written(20 * KIB, USUAL);
        assert_eq!(given(&mut pair), Some(20 + 100));
        pair.receiver.handle_window_limit(800 * KIB);
        hear_chunk(&mut pair, 1, 100, 20, USUAL);
        assert_eq!(pair.receiver.credit.window().size(), 100 * KIB);
    }

    #[test]
    fn a_store_that_stalls_is_not_mistaken_for_a_slow_link() {
        let mut pair = streaming(100, 800);
        pair.hear(&beat(0, 0, Wait::Store), SECOND);
        hear_chunk(&mut pair, 0, 0, 100, 2 * SECOND);
        assert_eq!(pair.receiver.credit.window().delay(), None);
        assert_eq!(given(&mut pair), Some(200));
    }

    #[test]
    fn a_large_window_grows_only_while_the_relay_waits() {
        let mut pair = streaming_with(2048, 24 * 1024, 9000, OFFSET_MAX);
        hear_chunk(&mut pair, 0, 0, 2048, START);
        pair.receiver.handle_written(2048 * KIB, START);
        assert_eq!(given(&mut pair), Some(2 * 2048));
        pair.hear(&beat(1, 2048 * KIB, Wait::Store), START);
        assert_eq!(given(&mut pair), None);
        pair.hear(&beat(1, 2048 * KIB, Wait::Credit), START);
        assert_eq!(given(&mut pair), Some(3 * 2048));
    }

    /// The relay waits because of the disk. Each doubling once made room for the bytes that were not written, so a consumer
    /// held 24 MiB instead of 2.
    #[test]
    fn a_large_window_does_not_grow_while_writing_is_slow() {
        let mut pair = streaming_with(2048, 24 * 1024, 9000, OFFSET_MAX);
        let (mut next, mut limit) = (0, 2048);
        for seq in 0..8 {
            if limit > next {
                hear_chunk(&mut pair, seq, next, limit - next, START);
                next = limit;
            }
            pair.hear(&beat(seq + 1, next * KIB, Wait::Credit), START);
            limit = given(&mut pair).unwrap_or(limit);
        }
        assert_eq!((next, limit), (2048, 2048));
    }

    #[test]
    fn the_window_does_not_outgrow_the_settings_or_the_relay() {
        for (relay_max, expected) in [(OFFSET_MAX, 800), (300 * KIB, 300)] {
            let mut pair = streaming_with(4, 800, 9000, relay_max);
            let (mut next, mut limit) = (0, 4);
            for seq in 0..4 {
                hear_chunk(&mut pair, seq, next, limit - next, START);
                next = limit;
                pair.receiver.handle_written(next * KIB, START);
                limit = given(&mut pair).expect("credit");
            }
            assert_eq!(limit - next, expected);
        }
    }

    #[test]
    fn a_smaller_share_never_revokes_credit() {
        let mut pair = streaming(100, 800);
        pair.receiver.handle_window_limit(10 * KIB);
        hear_chunk(&mut pair, 0, 0, 100, USUAL);
        pair.receiver.handle_written(80 * KIB, USUAL);
        assert_eq!(given(&mut pair), None);
        pair.receiver.handle_written(100 * KIB, USUAL);
        assert_eq!(given(&mut pair), Some(110));
    }

    #[test]
    fn a_larger_share_is_due_at_once() {
        let mut pair = streaming(100, 800);
        pair.receiver.handle_window_limit(50 * KIB);
        hear_chunk(&mut pair, 0, 0, 50, USUAL);
        pair.receiver.handle_written(50 * KIB, USUAL);
        assert_eq!(given(&mut pair), None);
        assert!(pair.receiver.awaited_written() > 50 * KIB);
        pair.receiver.handle_window_limit(100 * KIB);
        assert!(pair.receiver.awaited_written() <= 50 * KIB);
        pair.receiver.handle_written(50 * KIB, USUAL);
        assert_eq!(given(&mut pair), Some(150));
        assert!(pair.receiver.awaited_written() > 50 * KIB);
    }

    /// The answer to the earlier request, and the bytes that it asked for, may still be queued.
    #[test]
    fn a_request_after_an_unanswered_one_gives_no_credit() {
        let mut pair = Pair::new();
        let first = requests(&pair.outputs())[0].credit;
        let outputs: Vec<_> = pair.run(SECOND).into_iter().map(|(_, output)| output).collect();
        assert_eq!((first, requests(&outputs)[0].credit), (Some(100), Some(0)));
        pair.accept(0, SECOND);
        assert_eq!(credit_in(&pair.outputs()), Some(100));
    }

    #[test]
    fn lost_credit_is_repeated_when_the_relay_reports_that_it_waits() {
        let mut pair = Pair::streaming();
        pair.hear(&chunk(0, 0, 100), USUAL);
        let given = credit_in(&pair.outputs()).unwrap();
        pair.hear(&beat(1, 100, Wait::Credit), SECOND);
        assert_eq!(pair.outputs(), [probe(transfer(1), given)]);
    }

    /// A relay that replaces its request connection loses the messages in flight to it.
    #[test]
    fn credit_for_a_waiting_relay_is_repeated_while_it_is_silent() {
        let mut pair = streaming(100, 100);
        hear_chunk(&mut pair, 0, 0, 100, START);
        pair.hear(&beat(1, 100 * KIB, Wait::Credit), START + MS);
        pair.receiver.handle_written(100 * KIB, START + 2 * MS);
        assert_eq!(pair.outputs(), [credit(transfer(1), 200 * KIB)]);

        let sent = pair.run(START + 900 * MS);

        let expected =
            [52, 102, 152, 202, 302, 402, 502, 602].map(|at| (START + at * MS, probe(transfer(1), 200 * KIB)));
        assert_eq!(sent, expected);
    }

    #[test]
    fn control_messages_are_sent_well_within_the_idle_timeout() {
        let mut pair = Pair::new();
        pair.accept_as(Accepted { idle_ms: 4000, ..accepted(transfer(1), 0) }, START);
        pair.outputs();
        let mut said = Vec::new();
        for beats in 1..=5 {
            let now = beats * 400 * MS;
            said.extend(pair.run(now));
            pair.hear(&beat(0, 0, Wait::Store), now);
        }
        assert_eq!(said, [(SECOND, probe(transfer(1), 100)), (SECOND * 2, probe(transfer(1), 100))]);
    }
}

/// Cases that were once handled incorrectly.
mod regressions {
    use super::*;

    #[test]
    fn time_without_a_connection_does_not_count_against_the_patience_for_a_first_relay() {
        let mut pair = Pair::new();
        pair.receiver.handle_disconnected();
        pair.receiver.handle_connected(10 * SECOND);
        pair.receiver.handle_no_responders(10 * SECOND);
        assert_eq!(pair.failure(), None);
    }

    #[test]
    fn a_busy_relay_counts_as_a_first_relay() {
        let mut pair = Pair::new();
        pair.refuse(busy(2000), START);
        pair.run(2 * SECOND);
        pair.refuse(busy(2000), 2 * SECOND);
        pair.run(4 * SECOND);
        pair.receiver.handle_no_responders(4 * SECOND);
        assert_eq!(pair.failure(), None);
    }

    #[test]
    fn beats_for_a_silent_store_do_not_extend_the_patience() {
        for accepts in [false, true] {
            let mut pair = if accepts { Pair::streaming() } else { Pair::new() };
            let mut now = START;
            while pair.failure().is_none() && now < PATIENCE * 2 {
                now += SECOND;
                pair.hear(&beat(0, 0, Wait::Store), now);
                pair.run(now);
            }
            assert_eq!(now, PATIENCE);
        }
    }

    #[test]
    fn a_relay_that_ignores_credit_ends_the_download_after_its_patience() {
        let mut pair = Pair::new();
        pair.accept(0, START);
        let mut now = START;
        while pair.failure().is_none() && now < PATIENCE * 2 {
            now += SECOND;
            pair.hear(&beat(0, 0, Wait::Credit), now);
            pair.run(now);
        }
        assert_eq!(now, PATIENCE);
    }

    #[test]
    fn a_disk_that_stalls_after_a_recovery_does_not_end_the_download() {
        let mut pair = Pair::with(Settings { window_max: 100, ..settings() }, Span::default(), Pin::default());
        pair.outputs();
        pair.accept(0, START);
        pair.hear(&chunk(0, 0, 100), START);
        pair.hear(&Body::Goaway, START);
        pair.accept(100, START);
        let mut now = START;
        while now < PATIENCE * 2 {
            now += SECOND;
            pair.hear(&beat(0, 100, Wait::Credit), now);
            pair.run(now);
        }
        assert_eq!(pair.failure(), None);
    }

    #[test]
    fn a_pause_of_zero_causes_no_request_loop() {
        let mut pair = Pair::new();
        for _ in 0..3 {
            pair.outputs();
            pair.refuse(busy(0), START);
        }
        assert_eq!(requests(&pair.outputs()), Vec::<&GetRequest>::new());
    }

    #[test]
    fn an_unsent_request_does_not_outlive_its_connection() {
        let mut pair = Pair::new();
        pair.receiver.handle_disconnected();
        assert_eq!(pair.outputs(), [Output::Recovering(Cause::Disconnected)]);
    }

    #[test]
    fn giving_up_during_a_recovery_cancels_once() {
        let mut pair = Pair::streaming();
        pair.hear(&Body::Goaway, START);
        pair.accept(0, START);
        pair.outputs();
        pair.hear(&Body::Goaway, PATIENCE - 50 * MS);
        assert_eq!(pair.outputs(), [cancel(transfer(1), 100)]);
        assert!(matches!(pair.failure(), Some(Failure::GaveUp { cause: Cause::Goaway, .. })));
    }

    #[test]
    fn an_error_of_a_transfer_whose_acceptance_was_lost_starts_a_recovery() {
        let mut pair = Pair::new();
        pair.hear(&Body::Error(WireError::new(Code::StoreUnavailable, "down")), START);
        assert_eq!(pair.failure(), None);
    }
}

/// Links of all rates are used fully, and are never filled for longer than nats-server tolerates.
mod links {
    use super::rig::{KIB, MIB, Rig};
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_window_stays_small_on_a_slow_link() {
        for rate in [MIB / 2, MIB, 2 * MIB, 8 * MIB] {
            let mut rig = Rig::new(rate, 20 * MS);
            let arrived = rig.run(MINUTE);
            assert!(arrived > rate * 57, "{rate} B/s: {arrived} bytes in a minute");
            assert!(rig.queued_max < rate, "{rate} B/s: {} bytes were queued", rig.queued_max);
            assert_eq!(rig.receiver.stats().recoveries, 0, "{rate} B/s");
        }
    }

    #[test]
    fn the_window_grows_to_the_capacity_of_a_long_fast_link() {
        let mut rig = Rig::new(160 * MIB, 100 * MS);
        rig.run(3 * SECOND);
        let arrived = rig.run(SECOND);
        assert!(arrived > 100 * MIB, "{arrived} bytes in a second");
    }

    #[test]
    fn the_window_shrinks_when_the_link_becomes_slow() {
        let mut rig = Rig::new(160 * MIB, 20 * MS);
        rig.run(2 * SECOND);
        rig.rate = 2 * MIB;
        rig.run(MINUTE);
        rig.queued_max = 0;
        assert!(rig.run(MINUTE) > rig.rate * 57);
        assert!(rig.queued_max < rig.rate, "{} bytes were queued", rig.queued_max);
        assert_eq!(rig.receiver.stats().recoveries, 0);
        rig.rate = 160 * MIB;
        rig.run(5 * SECOND);
        assert!(rig.run(SECOND) > 100 * MIB);
    }

    /// With a window of little more than one step of credit, a very slow link is idle for some of each round trip.
    #[test]
    fn slow_links_carry_what_they_can() {
        for rate in [20 * KIB, 50 * KIB, 100 * KIB] {
            let mut rig = Rig::new(rate, 100 * MS);
            let arrived = rig.run(2 * MINUTE);
            assert!(arrived > rate * 90, "{rate} B/s: {arrived} bytes in two minutes");
            assert_eq!(rig.receiver.stats().recoveries, 0, "{rate} B/s");
        }
    }

    #[test]
    fn a_fast_link_forgets_that_it_was_slow() {
        let mut rig = Rig::new(50 * KIB, 100 * MS);
        rig.run(2 * MINUTE);
        rig.rate = 100 * MIB;
        rig.run(10 * SECOND);
        assert!(rig.run(SECOND) > 90 * MIB);
        assert!(rig.receiver.credit.window().silence_timeout(STALL, SECOND) < STALL * 2);
    }
}
