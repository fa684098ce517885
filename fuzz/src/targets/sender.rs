//! The relay's state machine under any sequence of events.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};

use crate::gantry::{Body, Code, Control, GetRequest, ObjectInfo, Sender, WireError, sender};
use crate::machine::{Number, TRANSFER, byte_at, control, object, pattern};

#[derive(Arbitrary, Debug)]
struct Input {
    settings: [Number; 5],
    keeps_alive: bool,
    start: Number,
    end: Option<Number>,
    credit: Option<Number>,
    window: Option<Number>,
    chunk_max: Option<Number>,
    /// Whether rate limits hold chunks back.
    is_held: bool,
    events: Vec<Event>,
}

#[derive(Arbitrary, Debug)]
enum Event {
    Opened { size: Number, has_etag: bool },
    Data(u16),
    DataEnd,
    Control { credit: Number, written: Number, cancel: bool },
    Gone,
    Drain,
    Failure,
    RequestBeat,
    Permit(u16),
    Turn,
    Later(Number),
    Timeout,
    Transmit,
}

pub(crate) fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let request = request(&input);
    let identity = sender::Identity {
        transfer: TRANSFER,
        instance: "relay".to_owned(),
        control: "control".to_owned(),
        host: None,
    };
    let mut now = Duration::ZERO;
    let mut model = Model { next: request.start, fed: request.start, seq: 0, limit: None, is_over: false };
    let mut sender = Sender::new(settings(&input), &request, identity, now);
    if input.is_held {
        sender.hold();
    }

    for event in input.events {
        let before = sender.credit();
        match event {
            Event::Opened { size, has_etag } => {
                let etag = if has_etag { "\"a\"" } else { "" };
                sender.handle_opened(ObjectInfo::new(object().key, size.0, etag.to_owned()), now);
            }
            Event::Data(len) => {
                if sender.wants_data() {
                    sender.handle_data(pattern(model.fed, len));
                    model.fed = model.fed.saturating_add(u64::from(len));
                }
            }
            Event::DataEnd => sender.handle_data_end(),
            Event::Control { credit, written, cancel } => {
                sender.handle_control(Control { written: written.0, ..control(credit, cancel) }, now);
            }
            Event::Gone => sender.handle_consumer_gone(),
            Event::Drain => sender.handle_drain(),
            Event::Failure => sender.handle_failure(WireError::new(Code::Internal, "x")),
            Event::RequestBeat => sender.request_beat(),
            Event::Permit(bytes) => sender.permit(bytes.into()),
            Event::Turn => sender.handle_turn(),
            Event::Later(by) => now = now.saturating_add(Duration::from_millis(by.0)),
            Event::Timeout => sender.handle_timeout(now),
            Event::Transmit => model.transmit(&mut sender, &request, now),
        }
        assert!(sender.credit() >= before, "credit falls");
        assert!(sender.poll_timeout().is_none() || sender.outcome().is_none(), "a timer after the end");
        assert!(!sender.is_opening() || !(sender.wants_data() || sender.wants_turn()), "it sends before it is open");
    }
    model.transmit(&mut sender, &request, now);
}

fn settings(input: &Input) -> sender::Settings {
    let [chunk_max, gather_min, window_max, beat_ms, idle_ms] = input.settings.map(|number| number.0);
    sender::Settings {
        chunk_max: usize::try_from(chunk_max % 100_000).unwrap_or(1),
        gather_min: usize::try_from(gather_min % 100_000).unwrap_or(1),
        window_max,
        beat_interval: Duration::from_millis(beat_ms),
        idle_timeout: Duration::from_millis(idle_ms),
    }
}

fn request(input: &Input) -> GetRequest {
    let start = input.start.0 >> 1;
    GetRequest {
        start,
        end: input.end.map(|end| (end.0 >> 1).max(start)),
        credit: input.credit.map(|credit| credit.0 >> 1),
        window: input.window.map(|window| window.0 >> 1),
        chunk_max: input.chunk_max.map(|max| max.0),
        keeps_alive: input.keeps_alive,
        ..GetRequest::new(object().key)
    }
}

/// The messages that a consumer has received.
struct Model {
    next: u64,
    fed: u64,
    seq: u64,
    /// The exclusive end of the range, once the request is accepted.
    limit: Option<u64>,
    is_over: bool,
}

impl Model {
    fn transmit(&mut self, sender: &mut Sender, request: &GetRequest, now: Duration) {
        // Every message either makes progress or is the last one before another event.
        for _ in 0..200_000 {
            let Some(body) = sender.poll_transmit(now) else {
                if !sender.wants_turn() {
                    return;
                }
                sender.handle_turn();
                continue;
            };
            assert!(!self.is_over, "something follows the last message");
            match body {
                Body::Chunk(chunk) => {
                    assert_eq!((chunk.seq, chunk.offset), (self.seq, self.next), "a gap");
                    assert!(chunk.is_intact() && !chunk.payload.is_empty());
                    let limit = chunk.limit().expect("it fits");
                    assert!(
                        limit <= sender.credit() && self.limit.is_some_and(|end| limit <= end),
                        "a byte past the credit or the range"
                    );
                    let right = |(n, byte): (usize, &u8)| *byte == byte_at(chunk.offset + n as u64);
                    assert!(chunk.payload.iter().enumerate().all(right), "a wrong byte");
                    (self.seq, self.next) = (self.seq + 1, limit);
                }
                Body::Beat { seq, offset, .. } => assert_eq!((seq, offset), (self.seq, self.next)),
                Body::End(end) => {
                    assert_eq!((end.chunks, end.bytes), (self.seq, self.next - request.start));
                    assert_eq!(self.limit, Some(self.next), "an end before all bytes");
                    self.is_over = true;
                }
                Body::Error(_) | Body::Goaway => self.is_over = true,
                Body::Accepted(accepted) => {
                    assert_eq!((self.limit, self.seq), (None, 0), "it accepts twice");
                    assert!(accepted.start == request.start && accepted.end >= accepted.start);
                    assert!(accepted.credit <= accepted.end && accepted.chunk_max > 0);
                    self.limit = Some(accepted.end);
                }
            }
        }
        panic!("the messages at one moment never end");
    }
}
