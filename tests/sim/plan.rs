//! What a seed determines in advance: sizes, speeds, settings, fault rates, and the schedule of faults.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use gantry_proto::{Location, Span, receiver, sender};

use crate::bus::HEAD_BYTES;
use crate::context::between;
use crate::event::{Fault, Node};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Maximum time that a link takes for a whole window.
const WINDOW_TIME_MAX: Duration = Duration::from_millis(250);

/// Probabilities of faults of single messages and reads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    pub(crate) drop: f64,
    pub(crate) repeat: f64,
    pub(crate) reorder: f64,
    pub(crate) delay: f64,
    pub(crate) corrupt: f64,
    pub(crate) open_fails: f64,
    pub(crate) read_fails: f64,
    pub(crate) read_stalls: f64,
    pub(crate) short_body: f64,
    pub(crate) long_body: f64,
    /// A wrong byte from the store, which only the stored checksum can detect.
    pub(crate) wrong_byte: f64,
}

/// The plan of one world.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The sizes of the object's versions, in bytes.
    pub(crate) sizes: Vec<u64>,
    /// Whether the store keeps old versions.
    pub(crate) versioned: bool,
    /// Whether the store keeps a checksum of each version.
    pub(crate) has_checksums: bool,
    pub(crate) span: Span,
    pub(crate) relays: usize,
    /// The number of concurrent transfers that a relay accepts.
    pub(crate) transfers_max: usize,
    pub(crate) drain_grace: Duration,
    /// The largest piece that the store returns, in bytes.
    pub(crate) frame_max: usize,
    pub(crate) store_latency: Duration,
    /// The store's time per byte.
    pub(crate) store_per_byte: Duration,
    pub(crate) link_latency: Duration,
    /// Each link's time per byte, in either direction.
    pub(crate) link_per_byte: Duration,
    /// Capacity of the queue between the driver and the writer, in chunks.
    pub(crate) queue_chunks: usize,
    /// The disk's time per byte.
    pub(crate) write_per_byte: Duration,
    pub(crate) receiver: receiver::Settings,
    pub(crate) sender: sender::Settings,
    pub(crate) rates: Rates,
    /// The scheduled faults, each with its start and duration.
    pub(crate) faults: Vec<(Duration, Duration, Fault)>,
    /// The time after which there are no more faults.
    pub(crate) heal_at: Duration,
    /// The deadline of the download.
    pub(crate) deadline: Duration,
}

impl Plan {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let chunk_max = rng.usize(16..=1024);
        let chunks = pick(rng, &[0, 1, 3, 10, 10, 40, 40, 200]);
        let largest = if chunks == 0 { rng.u64(..=1) } else { (chunk_max * chunks) as u64 };
        let span = draw_span(rng, largest);
        let sizes = (0..4).map(|_| draw_size(rng, span.start, largest, chunk_max)).collect();
        // So slow that a consumer can freeze, and be noticed missing, long before its credit is used up.
        let store_is_slow = rng.u8(..8) == 0;
        let heal_at = if store_is_slow {
            between(rng, 20 * SECOND, 30 * SECOND)
        } else {
            between_any(rng, 10 * MS, &[200 * MS, SECOND, 5 * SECOND, 20 * SECOND])
        };
        // A single relay has no other relay to hand over to.
        let relays = if rng.u8(..8) == 0 { 1 } else { rng.usize(2..=3) };
        let receiver = draw_receiver(rng, chunk_max);
        let sender = draw_sender(rng, chunk_max);
        let deadline = heal_at + 2 * sender.idle_timeout + receiver.patience.min(30 * SECOND) + 180 * SECOND;
        let mut faults = draw_faults(rng, relays, heal_at);

        if store_is_slow {
            faults.push((between(rng, Duration::ZERO, 2 * SECOND), 30 * SECOND, Fault::FreezeConsumer));
        }
        let frame_max = rng.usize(chunk_max / 8 + 1..=4 * chunk_max);
        // A stored checksum covers the whole object.
        let has_checksums = span == Span::default() && rng.bool();
        let mut rates = draw_rates(rng);

        if !has_checksums {
            rates.wrong_byte = 0.0;
        }
        Self {
            sizes,
            versioned: rng.bool(),
            has_checksums,
            span,
            relays,
            transfers_max: pick(rng, &[1, 2, 8]),
            drain_grace: between(rng, Duration::ZERO, 2 * SECOND),
            frame_max,
            store_per_byte: if store_is_slow { draw_store_speed(rng, largest, frame_max) } else { Duration::ZERO },
            store_latency: between_any(rng, Duration::ZERO, &[Duration::ZERO, 2 * MS, 30 * MS]),
            link_latency: between_any(rng, MS / 20, &[MS / 10, 5 * MS, 60 * MS]),
            link_per_byte: draw_link_speed(rng, largest, receiver.window_max, receiver.chunk_max.min(chunk_max as u64)),
            queue_chunks: rng.usize(1..=16),
            write_per_byte: draw_write_speed(rng, largest, heal_at),
            receiver,
            sender,
            rates,
            faults,
            heal_at,
            deadline,
        }
    }

    /// Returns how long a link takes for `len` bytes.
    pub(crate) fn link_time(&self, len: usize) -> Duration {
        self.link_per_byte * u32::try_from(len).expect("messages are small")
    }

    /// Returns how long the disk takes for `len` bytes.
    pub(crate) fn write_time(&self, len: usize) -> Duration {
        self.write_per_byte * u32::try_from(len).expect("chunks are small")
    }
}

fn pick<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())]
}

/// Draws a duration between `least` and a random one of `mosts`, so that short durations are as likely as long ones.
fn between_any(rng: &mut Rng, least: Duration, mosts: &[Duration]) -> Duration {
    let most = pick(rng, mosts);
    between(rng, least, most)
}

/// Draws the disk's time per byte. The download often takes about as long as faults occur.
fn draw_write_speed(rng: &mut Rng, bytes: u64, faulty: Duration) -> Duration {
    let bytes = u32::try_from(bytes.max(1)).expect("objects are small");
    if rng.u8(..3) == 0 { Duration::ZERO } else { faulty / bytes * rng.u32(1..=200) / 100 }
}

/// Draws a slow store's time per byte: up to forty seconds for all bytes, and up to one second for a frame.
fn draw_store_speed(rng: &mut Rng, bytes: u64, frame_max: usize) -> Duration {
    let frame_max = u32::try_from(frame_max).expect("frames are small");
    (between(rng, SECOND, 40 * SECOND) / u32::try_from(bytes.max(1)).expect("objects are small"))
        .min(SECOND / frame_max)
}

/// Draws a link's time per byte. The chunks of a window take up to a quarter of a second, and all bytes, in the
/// smallest possible chunks, up to twenty seconds. Consumers do not support slower links yet.
fn draw_link_speed(rng: &mut Rng, bytes: u64, window: u64, chunk: u64) -> Duration {
    if rng.bool() {
        return Duration::ZERO;
    }
    let heads = HEAD_BYTES as u64 * (window / chunk + 4);
    let window = u32::try_from(window + heads).expect("windows are small");
    let bytes = u32::try_from(bytes).expect("objects are small") + 1;
    (between(rng, MS, WINDOW_TIME_MAX) / window).min(20 * SECOND / (26 * bytes))
}

fn draw_span(rng: &mut Rng, largest: u64) -> Span {
    if rng.u8(..4) > 0 {
        return Span::default();
    }
    let start = rng.u64(..=largest / 2);
    Span { start, end: rng.bool().then(|| rng.u64(start..=largest + 10)) }
}

/// Draws a size that contains the span's start, often one at a chunk boundary.
fn draw_size(rng: &mut Rng, least: u64, largest: u64, chunk_max: usize) -> u64 {
    let size = rng.u64(least..=largest.max(least));
    let chunk = chunk_max as u64;
    match rng.u8(..4) {
        0 => (size / chunk * chunk).max(least),
        1 => (size / chunk * chunk + 1).max(least),
        _ => size,
    }
}

fn draw_receiver(rng: &mut Rng, chunk_max: usize) -> receiver::Settings {
    let window_max = rng.u64(1..=64) * chunk_max as u64;
    receiver::Settings {
        prefix: gantry_proto::subject::Prefix::default(),
        window_initial: rng.u64(1..=window_max),
        window_max,
        chunk_max: if rng.bool() { chunk_max as u64 } else { rng.u64(8..=2048) },
        stall_timeout: between(rng, SECOND, 3 * SECOND),
        no_relay_patience: 2500 * MS,
        // Mostly longer than all faults together, so that the download must not fail.
        patience: if rng.u8(..4) == 0 { between(rng, 5 * SECOND, 20 * SECOND) } else { 600 * SECOND },
        backoff_min: 100 * MS,
        backoff_max: 2 * SECOND,
        jitter_seed: rng.u64(..),
        near: rng.bool().then(|| (Arc::new(location(0)), rng.u64(1..=window_max))),
    }
}

/// Returns where a relay is connected. The consumer is where the first one is.
pub(crate) fn location(relay: usize) -> Location {
    Location { server: format!("server-{}", relay % 2), cluster: None }
}

fn draw_sender(rng: &mut Rng, chunk_max: usize) -> sender::Settings {
    sender::Settings {
        chunk_max,
        gather_min: rng.usize(1..=chunk_max),
        window_max: rng.u64(1..=64) * chunk_max as u64,
        beat_interval: between(rng, 100 * MS, SECOND),
        idle_timeout: between(rng, 3 * SECOND, 15 * SECOND),
    }
}

fn draw_rates(rng: &mut Rng) -> Rates {
    let mut rate = |most: f64| if rng.u8(..3) == 0 { rng.f64() * most } else { 0.0 };
    Rates {
        drop: rate(0.1),
        repeat: rate(0.1),
        reorder: rate(0.1),
        delay: rate(0.1),
        corrupt: rate(0.05),
        open_fails: rate(0.3),
        read_fails: rate(0.05),
        read_stalls: rate(0.02),
        short_body: rate(0.3),
        long_body: rate(0.2),
        wrong_byte: rate(0.05),
    }
}

fn draw_faults(rng: &mut Rng, relays: usize, heal_at: Duration) -> Vec<(Duration, Duration, Fault)> {
    let most = pick(rng, &[0, 1, 3, 10]);
    (0..rng.usize(..=most))
        .map(|_| {
            let relay = rng.usize(..relays);
            let fault = match rng.u8(..16) {
                0 => Fault::Cut(Node::Consumer),
                1 => Fault::Cut(Node::Relay(relay)),
                2 => Fault::Blackhole(Node::Consumer),
                3 => Fault::Blackhole(Node::Relay(relay)),
                4 | 5 => Fault::Crash(relay),
                6 | 7 => Fault::Freeze(relay),
                8 => Fault::Drain(relay),
                9 | 10 => Fault::CrashConsumer,
                11 => Fault::FreezeWriter,
                12 => Fault::Share(rng.u64(1..=20_000)),
                13 | 14 => Fault::FreezeConsumer,
                _ => Fault::Replace,
            };
            let at = between(rng, Duration::ZERO, heal_at);
            // A frozen consumer must stay frozen for long enough to be abandoned.
            let most = if fault == Fault::FreezeConsumer { 30 * SECOND } else { 10 * SECOND };
            (at, between_any(rng, Duration::ZERO, &[100 * MS, 2 * SECOND, most]), fault)
        })
        .collect()
}
