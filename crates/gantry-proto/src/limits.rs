//! The bounds of every number and length that a peer states, each with its reason.
//!
//! This module implements the table in `docs/PROTOCOL.md`, "Bounds". A value out of bounds is either *clamped* (an
//! honest peer may send it, and the nearest bound works for that peer) or *rejected* (no honest peer sends it).

use std::time::Duration;

/// The largest offset, size, credit or count: 2^63 − 1, which fits into a signed 64-bit integer of any language.
/// Rejected above.
pub const OFFSET_MAX: u64 = i64::MAX as u64;

/// The smallest `chunk_max`, in bytes. Clamped: with less, each message's headers would outweigh its payload, and a
/// request for chunks of one byte would cause one message per byte.
pub const CHUNK_MIN_BYTES: u64 = 1024;

/// The largest `chunk_max` that can be configured, in bytes. Source: nats-server warns above a `max_payload` of 8 MiB.
pub const CHUNK_MAX_BYTES: u64 = 8 << 20;

/// The smallest `window_max`, in bytes. Rejected below: a relay that accepts no credit never sends a byte.
pub const WINDOW_MIN_BYTES: u64 = 1;

/// The window of a request that states neither `credit` nor `window`, in bytes. A consumer that does not control the flow
/// may read slowly, and the windows of all downloads on one connection must stay below nats-server's `max_pending`.
pub const WINDOW_DEFAULT_BYTES: u64 = 2 << 20;

/// The shortest `beat_ms`. Clamped: the consumer probes a relay after half a beat of silence, so with a beat of 0 it
/// would probe without pause.
pub const BEAT_MIN: Duration = Duration::from_millis(50);

/// The longest `beat_ms`. Clamped: a relay counts as lost after three beats. With more than 10 s, that would exceed
/// [`SILENCE_MAX`] and leave the consumer too little time to try another relay.
pub const BEAT_MAX: Duration = Duration::from_secs(10);

/// The shortest `idle_ms`. Clamped: the consumer sends four messages within it.
pub const IDLE_MIN: Duration = Duration::from_secs(1);

/// The longest `idle_ms`. Clamped: a transfer must not outlive its consumer by days.
pub const IDLE_MAX: Duration = Duration::from_secs(3600);

/// The longest `retry_after_ms`. Clamped: another relay may be able to accept the request much earlier.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The longest silence that a consumer tolerates after `accepted`, even on a busy link. Source: the time after which
/// async-nats abandons a connection.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The maximum number of entries and prefixes in a page of a listing. Clamped in a request, rejected in an answer.
/// Source: S3's `MaxKeys`.
pub const PAGE_MAX: u32 = 1000;

/// The longest `token` of a listing, in bytes. Rejected above: it must fit into the next request, with a margin.
pub const TOKEN_MAX_BYTES: usize = 8 * 1024;

/// The longest `instance`, in bytes. Rejected above: Gantry's own have 32.
pub const INSTANCE_MAX_BYTES: usize = 64;

/// The longest `etag` and `version_id`, in bytes. Rejected above: requests repeat both. S3's are shorter than 200.
pub const VERSION_MAX_BYTES: usize = 1024;

/// The maximum size of user metadata, names and values together, in bytes, and that of stored headers. S3 allows 2 KiB,
/// GCS and Azure 8 KiB.
pub const METADATA_MAX_BYTES: usize = 64 * 1024;

/// The longest `content_type` and `last_modified`, in bytes.
pub const DESCRIPTION_MAX_BYTES: usize = 1024;

/// The longest `value` of a checksum, in bytes: twice the Base64 length of a SHA-512 digest, the longest in use.
pub const CHECKSUM_MAX_BYTES: usize = 176;

/// The maximum number of runs in the `parts` of a checksum. Source: S3's limit of parts in an upload.
pub const PART_RUNS_MAX: usize = 10_000;

/// The longest `message` of an error, in bytes. The rest is truncated.
pub const MESSAGE_MAX_BYTES: usize = 4 * 1024;

/// The longest `$SRV` answer that a consumer reads, in bytes. It contains the relay's limits and a few labels.
pub const SERVICE_MAX_BYTES: usize = 64 * 1024;

/// The burst of control messages that a consumer may send before [`CONTROLS_EVERY`] applies.
pub(super) const CONTROLS_BURST: u32 = 64;

/// The shortest mean interval between control messages of one transfer, which limits what a hostile relay can make a
/// consumer publish. It still allows 4 MiB/s with the smallest share of a connection's windows (32 KiB), and 3 GiB/s
/// with a whole window.
pub(super) const CONTROLS_EVERY: Duration = Duration::from_millis(1);

/// The burst of unchanged control messages that may answer a relay's beats.
pub(super) const REPEATS_BURST: u32 = 4;

/// The shortest mean interval between unchanged control messages: a live relay beats at most once per [`BEAT_MIN`],
/// and only one of these messages needs to arrive.
pub(super) const REPEATS_EVERY: Duration = Duration::from_millis(100);

/// The burst of immediate recoveries. On a bad link, recoveries come in bursts.
pub(super) const RECOVERIES_BURST: u32 = 8;

/// The shortest mean interval between recoveries after progress: a relay that sends one byte and then fails, each
/// time, must not cause a request loop.
pub(super) const RECOVERIES_EVERY: Duration = Duration::from_millis(100);

/// The burst of fragments, which are chunks cut short by credit, before [`FRAGMENTS_EVERY`] applies.
pub(super) const FRAGMENTS_BURST: u32 = 16;

/// The shortest mean interval between fragments: credit in steps of one byte must not make the relay answer each
/// control message with a chunk.
pub(super) const FRAGMENTS_EVERY: Duration = Duration::from_millis(10);

/// How long a chunk that credit cuts short waits for more credit. Consumers give credit in steps of their own, and a
/// chunk for each remainder would double the number of messages. The wait is short compared with the round trip of a
/// link on which the window limits the rate.
pub(super) const MORE_CREDIT_WITHIN: Duration = Duration::from_millis(5);

/// A chunk that credit cuts to less than this, in bytes, is a fragment. If chunks are small, the threshold is an
/// eighth of `chunk_max`, since a consumer should give credit in steps of an eighth of its window.
pub(super) const FRAGMENT_MAX_BYTES: u64 = 1024;

/// Clamps a relay's `beat_ms`.
#[must_use]
pub fn beat(stated: Duration) -> Duration {
    stated.clamp(BEAT_MIN, BEAT_MAX)
}

/// Clamps a relay's `idle_ms`.
#[must_use]
pub fn idle(stated: Duration) -> Duration {
    stated.clamp(IDLE_MIN, IDLE_MAX)
}

/// Clamps a `retry_after_ms`.
#[must_use]
pub fn retry_after(stated: Duration) -> Duration {
    stated.min(RETRY_AFTER_MAX)
}

/// Returns the largest chunk payload of a transfer, in bytes: the smaller of the relay's limit and the consumer's
/// limit, which counts as at least [`CHUNK_MIN_BYTES`]. Never 0.
#[must_use]
pub fn chunk_max(requested: Option<u64>, own: u64) -> u64 {
    requested.map_or(u64::MAX, |requested| requested.max(CHUNK_MIN_BYTES)).min(own).max(1)
}

/// Truncates a text to at most `max` bytes, at a character boundary.
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
        fn every_stated_number_is_clamped_to_its_bounds(ms: u64, requested: Option<u64>, own: u64) {
            let stated = Duration::from_millis(ms);
            prop_assert!((BEAT_MIN..=BEAT_MAX).contains(&beat(stated)));
            prop_assert!((IDLE_MIN..=IDLE_MAX).contains(&idle(stated)));
            prop_assert!(retry_after(stated) <= RETRY_AFTER_MAX);
            let chunk = chunk_max(requested, own);
            prop_assert!(chunk >= 1 && chunk >= CHUNK_MIN_BYTES.min(own));
            prop_assert!(chunk <= own.max(1) && chunk <= requested.unwrap_or(u64::MAX).max(CHUNK_MIN_BYTES));
        }

        #[test]
        fn a_text_is_cut_at_a_character_boundary(mut text in "\\PC{0,40}", max in 0_usize..60) {
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
