//! The bounds on every number and length that a peer states, once, each with the reason for it.
//!
//! `docs/PROTOCOL.md`, "Bounds", is the table that this module implements. A value outside of its bounds is either
//! *clamped* (the peer may mean well, and the nearest bound serves it) or *rejected* (no honest peer states it).

use std::time::Duration;

/// The largest offset, size, credit or count, 2^63 − 1, so that every language's signed 64-bit integer holds it.
/// Rejected above.
pub const OFFSET_MAX: u64 = i64::MAX as u64;

/// The smallest `chunk_max`, in bytes. Clamped: less would make the headers of each message weigh more than its bytes,
/// and a request for chunks of one byte would be answered with one message per byte.
pub const CHUNK_MIN_BYTES: u64 = 1024;

/// The largest `chunk_max` that can be configured, in bytes. Source: nats-server warns above a `max_payload` of 8 MiB.
pub const CHUNK_MAX_BYTES: u64 = 8 << 20;

/// The smallest `window_max`, in bytes. Rejected below: a relay that takes no credit never sends a byte.
pub const WINDOW_MIN_BYTES: u64 = 1;

/// The shortest `beat_ms`. Clamped: the consumer asks after a silent relay within half a beat, so a beat of 0 would
/// make it ask without end.
pub const BEAT_MIN: Duration = Duration::from_millis(50);

/// The longest `beat_ms`. Clamped: a relay counts as lost after three beats, and with more than 10 s that would take
/// longer than [`SILENCE_MAX`], so that too little of the consumer's patience would be left for another relay.
pub const BEAT_MAX: Duration = Duration::from_secs(10);

/// The shortest `idle_ms`. Clamped: the consumer speaks four times within it.
pub const IDLE_MIN: Duration = Duration::from_secs(1);

/// The longest `idle_ms`. Clamped: a transfer whose consumer is gone must not be kept for days.
pub const IDLE_MAX: Duration = Duration::from_secs(3600);

/// The longest `retry_after_ms`. Clamped: another relay may take the request long before.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The longest silence that a consumer accepts from a relay that has accepted, however busy the link: as long as
/// async-nats takes to abandon a connection.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The most entries and prefixes in one page of a listing. Clamped in a request, rejected in an answer. Source: S3's
/// `MaxKeys`.
pub const PAGE_MAX: u32 = 1000;

/// The longest `token` of a listing, in bytes. Rejected above: it must fit into the next request with room to spare.
pub const TOKEN_MAX_BYTES: usize = 8 * 1024;

/// The longest `instance`, in bytes. Rejected above: our own have 32.
pub const INSTANCE_MAX_BYTES: usize = 64;

/// The longest `etag` and `version_id`, in bytes. Rejected above: both come back in requests. S3's have less than 200.
pub const VERSION_MAX_BYTES: usize = 1024;

/// The most bytes of user metadata, names and values together. S3 takes 2 KiB, GCS and Azure 8 KiB.
pub const METADATA_MAX_BYTES: usize = 64 * 1024;

/// The longest `content_type` and `last_modified`, in bytes.
pub const DESCRIPTION_MAX_BYTES: usize = 1024;

/// The longest `value` of a checksum, in bytes: twice the Base64 of the longest digest in use, that of SHA-512.
pub const CHECKSUM_MAX_BYTES: usize = 176;

/// The most runs in the `parts` of a checksum: S3's own limit of parts in an upload.
pub const PART_RUNS_MAX: usize = 10_000;

/// The longest `message` of an error, in bytes. The rest is cut off.
pub const MESSAGE_MAX_BYTES: usize = 4 * 1024;

/// The longest answer of a relay about itself that a consumer reads, in bytes: its own limits and a few labels.
pub const SERVICE_MAX_BYTES: usize = 64 * 1024;

/// How many control messages a consumer may send in a row before it keeps to [`CONTROLS_EVERY`].
pub(super) const CONTROLS_BURST: u32 = 64;

/// The shortest mean interval between control messages of one transfer: what a hostile relay can make a consumer
/// publish. At the smallest share of a connection's windows, 32 KiB, it still allows 4 MiB/s, with a whole one 3 GiB/s.
pub(super) const CONTROLS_EVERY: Duration = Duration::from_millis(1);

/// How many control messages that say nothing new may answer a relay's beats in a row.
pub(super) const REPEATS_BURST: u32 = 4;

/// The shortest mean interval between control messages that say nothing new: a live relay beats every [`BEAT_MIN`] at
/// most, and one such message that arrives is enough.
pub(super) const REPEATS_EVERY: Duration = Duration::from_millis(100);

/// How many recoveries may follow at once in a row. Those of a bad link come in bursts.
pub(super) const RECOVERIES_BURST: u32 = 8;

/// The shortest mean interval between recoveries that bytes preceded: a relay that sends one byte each time and then
/// breaks off must not be asked in a loop.
pub(super) const RECOVERIES_EVERY: Duration = Duration::from_millis(100);

/// How many chunks that credit cuts short may go out in a row before the sender keeps to [`FRAGMENTS_EVERY`].
pub(super) const FRAGMENTS_BURST: u32 = 16;

/// The shortest mean interval between chunks that credit cuts short: credit in steps of one byte must not turn each
/// control message into a message of the relay's.
pub(super) const FRAGMENTS_EVERY: Duration = Duration::from_millis(10);

/// A chunk that credit cuts to less than this, in bytes, is a fragment; with small chunks an eighth of them, since a
/// consumer is to give credit in steps of an eighth of its window.
pub(super) const FRAGMENT_MAX_BYTES: u64 = 1024;

/// Returns a relay's `beat_ms` within its bounds.
#[must_use]
pub fn beat(stated: Duration) -> Duration {
    stated.clamp(BEAT_MIN, BEAT_MAX)
}

/// Returns a relay's `idle_ms` within its bounds.
#[must_use]
pub fn idle(stated: Duration) -> Duration {
    stated.clamp(IDLE_MIN, IDLE_MAX)
}

/// Returns a `retry_after_ms` within its bounds.
#[must_use]
pub fn retry_after(stated: Duration) -> Duration {
    stated.min(RETRY_AFTER_MAX)
}

/// Returns the largest chunk payload of a transfer, in bytes: the least of what the consumer takes, raised to
/// [`CHUNK_MIN_BYTES`], and what the relay sends; never 0.
#[must_use]
pub fn chunk_max(requested: Option<u64>, own: u64) -> u64 {
    requested.map_or(u64::MAX, |requested| requested.max(CHUNK_MIN_BYTES)).min(own).max(1)
}

/// Cuts a text to at most `max` bytes, at a character's edge.
pub(super) fn truncate(text: &mut String, max: usize) {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_stated_number_comes_out_within_its_bounds(ms: u64, requested: Option<u64>, own: u64) {
            let stated = Duration::from_millis(ms);
            prop_assert!((BEAT_MIN..=BEAT_MAX).contains(&beat(stated)));
            prop_assert!((IDLE_MIN..=IDLE_MAX).contains(&idle(stated)));
            prop_assert!(retry_after(stated) <= RETRY_AFTER_MAX);
            let chunk = chunk_max(requested, own);
            prop_assert!(chunk >= 1 && chunk >= CHUNK_MIN_BYTES.min(own));
            prop_assert!(chunk <= own.max(1) && chunk <= requested.unwrap_or(u64::MAX).max(CHUNK_MIN_BYTES));
        }

        #[test]
        fn a_text_is_cut_at_an_edge(mut text in "\\PC{0,40}", max in 0_usize..60) {
            let before = text.clone();
            truncate(&mut text, max);
            prop_assert!(text.len() <= max && before.starts_with(&text) && before.len() - text.len() < before.len().saturating_sub(max) + 4);
        }
    }

    #[test]
    fn three_of_the_longest_beats_are_no_longer_than_the_longest_silence() {
        assert!(BEAT_MAX * 3 <= SILENCE_MAX);
    }
}
