//! A relay that breaks every rule: how the consumer reacts, and what it never does.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::super::limits::{OFFSET_MAX, SILENCE_MAX};
use super::super::super::object::{Checksum, ChecksumAlgorithm, ChecksumKind};
use super::*;

/// Handles `accepted` as the answer to the first request, and returns the outputs.
fn answered_with(accepted: Accepted) -> (Pair, Vec<Output>) {
    let mut pair = Pair::new();
    pair.outputs();
    pair.accept_as(accepted, START);
    let outputs = pair.outputs();
    (pair, outputs)
}

fn assert_violation(what: &str, outputs: &[Output]) {
    let is_request_only = !outputs.iter().any(|output| matches!(output, Output::Control { .. } | Output::Accepted(_)));
    assert!(is_request_only, "{what}: {outputs:?}");
    assert!(matches!(recovers_from(outputs)[..], [Cause::Violation(_)]), "{what}: {outputs:?}");
    assert_eq!(requests(outputs).len(), 1, "{what}: another relay is asked at once");
}

/// A hostile relay could once make a consumer purge a JetStream stream.
#[test]
fn nothing_is_sent_to_a_control_subject_that_is_not_of_the_transfer() {
    let own = control_of(transfer(1));
    let long = format!("gantry.v1.ctl.{}.{}", "r".repeat(65), transfer(1));
    for control in [
        "",
        " ",
        "a b",
        "plant.valve.open",
        "$JS.API.STREAM.PURGE.orders",
        "_INBOX.someone",
        "gantry.v1.get.files",
        "gantry.v1.ctl.relay.*",
        "gantry.v1.ctl.relay.>",
        "gantry.v1.ctl.*.00000000-0000-0000-0000-000000000001",
        "other.v1.ctl.relay.00000000-0000-0000-0000-000000000001",
        "gantry.v2.ctl.relay.00000000-0000-0000-0000-000000000001",
        "gantry.v1.ctl.another.00000000-0000-0000-0000-000000000001",
        "gantry.v1.ctl.relay.00000000-0000-0000-0000-000000000002",
        "gantry.v1.ctl.relay.{00000000-0000-0000-0000-000000000001}",
        "gantry.v1.ctl.relay.00000000000000000000000000000001",
        &format!("{own}.more"),
        &format!("{own}\r\nPUB plant.valve.open 0\r\n"),
        &format!(" {own}"),
        &long,
        &"x".repeat(100_000),
    ] {
        let (mut pair, outputs) = answered_with(Accepted { control: control.to_owned(), ..accepted(transfer(1), 0) });
        assert_violation(control, &outputs);
        pair.accept_as(accepted(transfer(2), 0), SECOND);
        assert!(pair.outputs().iter().any(|output| matches!(output, Output::Accepted(_))), "{control}");
    }
}

#[test]
fn a_control_subject_of_an_invalid_instance_is_a_violation() {
    for instance in ["", "a.b", "*", ">", "a b", "a\r\nb", "ü", &"r".repeat(65)] {
        let control = format!("gantry.v1.ctl.{instance}.{}", transfer(1));
        let wrong = Accepted { instance: instance.to_owned(), control, ..accepted(transfer(1), 0) };
        assert_violation(instance, &answered_with(wrong).1);
    }
}

#[test]
fn the_control_subject_begins_with_the_prefix_of_the_consumer() {
    let settings = Settings { prefix: Prefix::new("site.a").unwrap(), ..Pair::new().receiver.settings };
    let get = Pair::new().receiver.get;
    let mut pair = Pair { receiver: Receiver::new(settings, get, START), transfer: transfer(1) };
    pair.outputs();
    pair.accept(0, START);
    assert_violation("gantry", &pair.outputs());
    let control = format!("site.a.v1.ctl.relay.{}", transfer(2));
    pair.accept_as(Accepted { control, ..accepted(transfer(2), 0) }, START);
    assert_eq!(recovers_from(&pair.outputs()), Vec::<&Cause>::new());
}

#[test]
fn an_acceptance_of_something_else_is_a_violation() {
    let good = || accepted(transfer(1), 0);
    let object = |object: ObjectInfo| Accepted { object, ..good() };
    for (what, wrong) in [
        ("key", object(ObjectInfo { key: "a/c".parse().unwrap(), ..super::object() })),
        ("size", Accepted { end: OFFSET_MAX + 1, ..object(ObjectInfo { size: OFFSET_MAX + 1, ..super::object() }) }),
        ("etag", object(ObjectInfo { etag: String::new(), ..super::object() })),
        ("etag length", object(ObjectInfo { etag: "e".repeat(2000), ..super::object() })),
        ("etag escapes", object(ObjectInfo { etag: "\u{1b}[2J".to_owned(), ..super::object() })),
        ("version", object(ObjectInfo { version_id: Some(String::new()), ..super::object() })),
        ("start past end", Accepted { start: 2, end: 1, ..good() }),
        ("end past size", Accepted { end: SIZE + 1, ..good() }),
        ("end before size", Accepted { end: SIZE - 1, ..good() }),
        ("chunk_max 0", Accepted { chunk_max: 0, ..good() }),
        ("chunk_max above ours", Accepted { chunk_max: 1025, ..good() }),
        ("window_max 0", Accepted { window_max: 0, ..good() }),
        ("window_max beyond 2^63", Accepted { window_max: OFFSET_MAX + 1, ..good() }),
    ] {
        assert_violation(what, &answered_with(wrong).1);
    }
    let mut pair = Pair::new();
    pair.outputs();
    pair.hear_from(Some(transfer(2)), &Body::Accepted(Box::new(good())), START);
    assert_violation("transfer", &pair.outputs());
}

#[test]
fn another_version_or_checksum_of_the_same_etag_is_a_violation() {
    let checksum = |value: &str| {
        let (algorithm, kind) = (ChecksumAlgorithm::Crc32, ChecksumKind::FullObject);
        Some(Checksum { algorithm, kind, value: value.to_owned(), parts: Vec::new() })
    };
    let first = ObjectInfo { checksum: checksum("AAAAAA=="), ..object() };
    for (second, is_taken) in [
        (ObjectInfo { version_id: Some("v2".to_owned()), ..first.clone() }, false),
        (ObjectInfo { checksum: checksum("AAAAAQ=="), ..first.clone() }, false),
        (ObjectInfo { version_id: None, checksum: None, ..first.clone() }, true),
    ] {
        let (mut pair, _) = answered_with(Accepted { object: first.clone(), ..accepted(transfer(1), 0) });
        pair.hear(&Body::Goaway, START);
        pair.outputs();
        pair.accept_as(Accepted { object: second, ..accepted(transfer(2), 0) }, START);
        assert_eq!(recovers_from(&pair.outputs()).is_empty(), is_taken);
        assert_eq!(pair.receiver.object(), Some(&first));
    }
}

#[test]
fn a_chunk_larger_than_the_stated_maximum_is_a_violation() {
    let (mut pair, _) = answered_with(Accepted { chunk_max: 49, ..accepted(transfer(1), 0) });
    pair.hear(&chunk(0, 0, 50), START);
    assert!(matches!(recovers_from(&pair.outputs())[..], [Cause::Violation(_)]));
}

#[test]
fn invalid_messages_of_another_transfer_are_ignored() {
    let mut pair = Pair::streaming();
    for (transfer, is_ignored) in [(transfer(9), true), (transfer(1), false)] {
        let mut headers = Headers::default();
        headers.push(message::TYPE, "gift");
        headers.push(message::TRANSFER, transfer.to_string());
        pair.receiver.handle_message(&headers, Bytes::new(), START);
        assert_eq!(pair.outputs().is_empty(), is_ignored);
    }
}

mod numbers {
    use super::*;

    fn accepted_with(beat_ms: u64, idle_ms: u64) -> Pair {
        answered_with(Accepted { beat_ms, idle_ms, ..accepted(transfer(1), 0) }).0
    }

    /// It once caused 500 control messages per second.
    #[test]
    fn an_idle_time_of_zero_makes_no_flood_of_control_messages() {
        for (beat_ms, idle_ms) in [(0, 0), (1000, 0), (0, 1), (1, u64::MAX)] {
            let mut pair = accepted_with(beat_ms, idle_ms);
            let mut said = 0;
            for step in 1..=100 {
                let now = 100 * MS * step;
                said += pair.run(now).iter().filter(|(_, output)| matches!(output, Output::Control { .. })).count();
                pair.hear(&beat(0, 0, Wait::Store), now);
            }
            assert!(said <= 10 * 20, "{beat_ms}, {idle_ms}: {said} in 10 s");
        }
    }

    /// A relay with a beat interval of a million years was once never abandoned.
    #[test]
    fn a_huge_beat_does_not_keep_a_silent_relay() {
        for beat_ms in [10_000, 60_000, 1 << 63, u64::MAX] {
            let mut pair = accepted_with(beat_ms, 15_000);
            let outputs = pair.run(PATIENCE / 2);
            let left = outputs.iter().find(|(_, output)| *output == Output::Recovering(Cause::Stall));
            assert!(left.is_some_and(|(at, _)| *at <= SILENCE_MAX), "{beat_ms}: {outputs:?}");
            assert_eq!(pair.failure(), None, "there is patience left for another relay");
        }
    }

    #[test]
    fn a_huge_pause_is_limited() {
        for retry_after_ms in [1 << 32, 1 << 63, u64::MAX] {
            let mut pair = Pair::new();
            pair.outputs();
            pair.refuse(busy(0), START);
            let error = WireError { retry_after_ms: Some(retry_after_ms), ..busy(0) };
            pair.run(SECOND / 2);
            pair.refuse(error, SECOND / 2);
            assert!(pair.receiver.poll_timeout().unwrap() <= SECOND / 2 + BACKOFF_MAX);
            assert_eq!(pair.failure(), None);
        }
    }

    #[test]
    fn an_unlimited_patience_does_not_overflow() {
        let base = Pair::new().receiver;
        let settings = Settings { patience: Duration::MAX, stall_timeout: Duration::MAX, ..base.settings };
        let mut receiver = Receiver::new(settings, base.get, SECOND);
        while receiver.poll_output().is_some() {}
        receiver.handle_timeout(Duration::MAX);
        assert!(receiver.poll_timeout().is_some() || receiver.outcome().is_some());
    }
}

mod floods {
    use super::*;

    /// Sends `body` from the relay a thousand times a second until the download ends, and counts the published
    /// messages.
    fn flood(mut pair: Pair, body: impl Fn(u32) -> Body) -> (Pair, Duration, Vec<(Duration, Output)>) {
        let mut now = START;
        let mut published = Vec::new();
        for round in 1..=30_000 {
            now = MS * round;
            published.extend(pair.run(now));
            if pair.failure().is_some() {
                break;
            }
            pair.hear(&body(round), now);
            published.extend(pair.outputs().into_iter().map(|output| (now, output)));
        }
        (pair, now, published)
    }

    fn count(published: &[(Duration, Output)], of: impl Fn(&Output) -> bool) -> usize {
        published.iter().filter(|(_, output)| of(output)).count()
    }

    const fn is_control(output: &Output) -> bool {
        matches!(output, Output::Control { .. })
    }

    const fn is_request(output: &Output) -> bool {
        matches!(output, Output::Request(_))
    }

    #[test]
    fn not_every_beat_in_a_loop_is_answered_with_credit() {
        let (pair, ended_at, published) = flood(Pair::streaming(), |_| beat(0, 0, Wait::Credit));
        assert!(matches!(pair.failure(), Some(Failure::GaveUp { .. })));
        assert_eq!(ended_at, PATIENCE);
        let said = count(&published, is_control);
        assert!(said <= 20 * 11, "{said} in 20 s");
    }

    #[test]
    fn repeats_and_second_acceptances_do_not_keep_a_relay() {
        for body in [chunk(0, 0, 50), Body::Accepted(Box::new(accepted(transfer(1), 0)))] {
            let mut pair = Pair::streaming();
            pair.hear(&chunk(0, 0, 50), START);
            pair.outputs();
            let (_, _, published) = flood(pair, |round| if round < 10_000 { body.clone() } else { Body::Goaway });
            let left = published.iter().find(|(_, output)| *output == Output::Recovering(Cause::Stall));
            assert!(left.is_some_and(|(at, _)| *at == STALL), "{left:?}");
        }
    }

    #[test]
    fn messages_of_another_transfer_do_not_keep_a_relay() {
        let mut pair = Pair::streaming();
        for round in 1..=3000 {
            let now = MS * round;
            pair.run(now);
            pair.hear_from(Some(transfer(9)), &beat(0, 0, Wait::Store), now);
        }
        assert_eq!(pair.receiver.stats().recoveries, 1);
    }

    #[test]
    fn beats_in_place_of_the_end_do_not_keep_a_relay() {
        let mut pair = Pair::wanting(Span { start: 0, end: Some(50) }, Pin::default());
        pair.accept_as(Accepted { end: 50, ..accepted(transfer(1), 0) }, START);
        pair.hear(&chunk(0, 0, 50), START);
        pair.outputs();
        let mut outputs = Vec::new();
        for round in 1..=40 {
            let now = 100 * MS * round;
            outputs.extend(pair.run(now));
            pair.hear(&beat(1, 50, Wait::Store), now);
        }
        assert!(outputs.contains(&(STALL, Output::Recovering(Cause::Stall))), "{outputs:?}");
    }

    #[test]
    fn requests_slow_down_after_repeated_refusals() {
        let errors = [busy(0), WireError::new(Code::Idle, "x"), WireError::new(Code::Draining, "x")];
        for body in errors.into_iter().map(Body::Error).chain([Body::Goaway]) {
            let (pair, _, published) = flood(Pair::streaming(), |_| body.clone());
            assert!(matches!(pair.failure(), Some(Failure::GaveUp { .. })), "{body:?}");
            let asked = count(&published, is_request);
            assert!(asked <= 30, "{body:?}: {asked} requests in 20 s");
        }
    }

    /// A relay that sends one byte and then a violation must not cause one request per byte.
    #[test]
    fn a_relay_that_fails_after_each_byte_causes_no_request_loop() {
        let mut pair = Pair::new();
        let (mut asked, mut next, mut number) = (0, 0, 1);
        for round in 0..10_000 {
            let now = MS * round;
            let mut outputs = pair.outputs();
            outputs.extend(pair.run(now).into_iter().map(|(_, output)| output));
            let begun = requests(&outputs).len();
            asked += begun;
            if begun > 0 {
                number += 1;
                pair.accept(next, now);
                let id = pair.transfer;
                pair.hear(&chunk(0, next, 1), now);
                next += 1;
                pair.hear_from(Some(id), &Body::Goaway, now);
                pair.transfer = transfer(number);
            }
        }
        // Ten a second are immediate, and fewer than that come after a pause.
        assert!((50..=10 * 20).contains(&asked), "{asked} requests in 10 s");
    }

    /// Each chunk has one byte and is written at once. The control messages stay within the quota.
    #[test]
    fn chunks_of_one_byte_are_not_each_answered() {
        let (mut pair, _) = answered_with(Accepted { window_max: 1, ..accepted(transfer(1), 0) });
        let mut said = 0;
        for seq in 0..SIZE {
            pair.hear(&chunk(seq, seq, 1), START);
            pair.receiver.handle_written(seq + 1, START);
            let outputs = pair.outputs();
            said += outputs.iter().filter(|output| is_control(output)).count();
            if !recovers_from(&outputs).is_empty() {
                break;
            }
        }
        assert!(said <= 65, "{said} at once");
    }
}

/// The actions of a hostile relay, nats-server or the clock.
#[derive(Clone, Debug)]
enum Act {
    Say { transfer: Option<u128>, body: Body },
    Accept { control: Option<String>, numbers: [u64; 7], good: bool },
    NextChunk { len: u64, damage: bool },
    NextBeat { wait: bool },
    End,
    Raw { headers: Vec<(usize, String)>, payload: Vec<u8> },
    Nobody,
    Disconnected,
    Connected,
    Written,
    Share(u64),
    Pass(u64),
    Timer,
}

const HEADER_NAMES: [&str; 6] =
    [message::TYPE, message::TRANSFER, message::SEQ, message::OFFSET, message::CRC, message::WAIT];

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..120_u64, any::<u64>(), Just(u64::MAX), Just(OFFSET_MAX), Just(SIZE), Just(0)]
}

fn hostile_body() -> impl Strategy<Value = Body> {
    let error = (0..Code::ALL.len(), any::<bool>(), proptest::option::of(number())).prop_map(
        |(code, retryable, retry_after_ms)| {
            let (code, message) = (Code::ALL[code], "no".to_owned());
            let retryable = retryable || code.is_retryable();
            Body::Error(WireError { code, message, retryable, retry_after_ms, needs_operator: None })
        },
    );
    prop_oneof![
        (number(), number(), 1..60_u64).prop_map(|(seq, offset, len)| {
            Body::Chunk(Chunk::new(seq, offset, vec![7; usize::try_from(len).unwrap()].into()))
        }),
        (number(), number(), any::<bool>()).prop_map(|(seq, offset, credit)| beat(
            seq,
            offset,
            if credit { Wait::Credit } else { Wait::Store }
        )),
        (number(), number()).prop_map(|(chunks, bytes)| Body::End(End { chunks, bytes })),
        error,
        Just(Body::Goaway),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let control = proptest::option::weighted(0.3, prop_oneof!["[a-z.*> ]{0,30}", Just("$JS.API.X".to_owned())]);
    let header = (0..HEADER_NAMES.len(), "(chunk|beat|end|accepted|error|[0-9]{1,21}|credit|.{0,9})");
    prop_oneof![
        3 => (proptest::option::of(1..4_u128), hostile_body()).prop_map(|(transfer, body)| Act::Say { transfer, body }),
        4 => (control, proptest::array::uniform7(number()), any::<bool>())
            .prop_map(|(control, numbers, good)| Act::Accept { control, numbers, good }),
        6 => (1..60_u64, proptest::bool::weighted(0.1)).prop_map(|(len, damage)| Act::NextChunk { len, damage }),
        4 => any::<bool>().prop_map(|wait| Act::NextBeat { wait }),
        1 => Just(Act::End),
        1 => (vec(header, 0..6), vec(any::<u8>(), 0..60)).prop_map(|(headers, payload)| Act::Raw { headers, payload }),
        1 => Just(Act::Nobody),
        1 => Just(Act::Disconnected),
        2 => Just(Act::Connected),
        4 => Just(Act::Written),
        1 => number().prop_map(Act::Share),
        3 => (0..5000_u64).prop_map(Act::Pass),
        3 => Just(Act::Timer),
    ]
}

/// A receiver under attack, and the values for its invariants.
struct Siege {
    pair: Pair,
    now: Duration,
    delivered: u64,
    /// The sequence number of the next chunk in the latest accepted transfer.
    seq: u64,
    /// The number of accepted transfers.
    transfers: u128,
    published: u64,
}

impl Siege {
    fn new() -> Self {
        Self { pair: Pair::new(), now: START, delivered: 0, seq: 0, transfers: 1, published: 0 }
    }

    fn suffer(&mut self, act: &Act) -> Result<(), TestCaseError> {
        let next = self.pair.receiver.next_offset();
        match act {
            Act::Say { transfer: number, body } => self.pair.hear_from(number.map(transfer), body, self.now),
            Act::Accept { control, numbers, good } => self.accept(control.clone(), *numbers, *good),
            Act::NextChunk { len, damage } => {
                let mut chunk = Chunk::new(self.seq, next, bytes(next, *len).into());
                chunk.crc ^= u64::from(*damage);
                self.pair.hear(&Body::Chunk(chunk), self.now);
                self.seq += u64::from(self.pair.receiver.next_offset() > next);
            }
            Act::NextBeat { wait } => {
                let wait = if *wait { Wait::Credit } else { Wait::Store };
                self.pair.hear(&beat(self.seq, next, wait), self.now);
            }
            Act::End => self.pair.hear(&Body::End(End { chunks: self.seq, bytes: next }), self.now),
            Act::Raw { headers, payload } => {
                let mut raw = Headers::default();
                headers.iter().for_each(|(name, value)| raw.push(HEADER_NAMES[*name], value.clone()));
                self.pair.receiver.handle_message(&raw, payload.clone().into(), self.now);
            }
            Act::Nobody => self.pair.receiver.handle_no_responders(self.now),
            Act::Disconnected => self.pair.receiver.handle_disconnected(),
            Act::Connected => self.pair.receiver.handle_connected(self.now),
            Act::Written => self.pair.receiver.handle_written(self.delivered, self.now),
            Act::Share(share) => self.pair.receiver.handle_window_limit(*share),
            Act::Pass(ms) => self.now += MS * u32::try_from(*ms).unwrap(),
            Act::Timer => {
                self.now = self.now.max(self.pair.receiver.poll_timeout().unwrap_or(self.now));
                self.pair.receiver.handle_timeout(self.now);
            }
        }
        self.check()
    }

    fn accept(&mut self, control: Option<String>, numbers: [u64; 7], good: bool) {
        self.transfers += 1;
        let [start, end, credit, window_max, chunk_max, beat_ms, idle_ms] = numbers;
        let mut hostile = accepted(transfer(self.transfers), self.pair.receiver.next_offset());
        if let Some(control) = control {
            hostile.control = control;
        }
        if !good {
            hostile = Accepted { start, end, credit, window_max, chunk_max, beat_ms, idle_ms, ..hostile };
        } else {
            hostile = Accepted { beat_ms, idle_ms, ..hostile };
        }
        self.pair.accept_as(hostile, self.now);
        self.seq = 0;
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let outputs = self.pair.outputs();
        prop_assert!(outputs.len() <= 4, "{} outputs of one input: {outputs:?}", outputs.len());
        for output in &outputs {
            if let Output::Control { subject, .. } = output {
                let is_known = (1..=self.transfers).any(|number| *subject == control_of(transfer(number)));
                prop_assert!(is_known, "published to {subject:?}");
                self.published += 1;
            }
        }
        while let Some(chunk) = self.pair.receiver.poll_deliver() {
            prop_assert_eq!(chunk.offset, self.delivered);
            prop_assert!(chunk.is_intact());
            self.delivered += chunk.payload.len() as u64;
        }
        prop_assert_eq!(self.delivered, self.pair.receiver.next_offset());
        prop_assert!(self.delivered <= SIZE);
        match self.pair.receiver.poll_timeout() {
            Some(at) => prop_assert!(at <= self.now + PATIENCE.max(SILENCE_MAX), "the next timeout is at {at:?}"),
            None => prop_assert!(self.pair.receiver.outcome().is_some() || self.delivered == self.pair.receiver.next),
        }
        Ok(())
    }

    /// Passes time only, with a writer that keeps up. The download must end.
    fn starve(&mut self) -> Result<(), TestCaseError> {
        let until = self.now + PATIENCE + SECOND;
        for _ in 0..100_000 {
            self.pair.receiver.handle_written(self.delivered, self.now);
            self.check()?;
            if self.pair.receiver.outcome().is_some() {
                return Ok(());
            }
            let Some(at) = self.pair.receiver.poll_timeout() else { break };
            self.now = self.now.max(at);
            prop_assert!(self.now <= until, "it does not end");
            self.pair.receiver.handle_timeout(self.now);
        }
        Err(TestCaseError::fail("it neither ends nor has a timer"))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_invariants_hold_whatever_a_relay_does(acts in vec(act(), 0..120)) {
        let mut siege = Siege::new();
        for act in &acts {
            siege.suffer(act)?;
        }
        siege.starve()?;
        let seconds = siege.now.as_secs() + 1;
        prop_assert!(siege.published <= 64 + 1000 * seconds, "{} control messages in {seconds} s", siege.published);
    }
}
