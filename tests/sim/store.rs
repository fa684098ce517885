//! A model of the store: one object, whose bytes identify their version and offset.

use std::time::Duration;

use bytes::Bytes;
use gantry_proto::{Code, GetRequest, ObjectInfo, WireError};

use crate::context::Context;

/// Returns the byte at `offset` of `version`.
pub(crate) fn byte_at(seed: u64, version: usize, offset: u64) -> u8 {
    let word = (offset / 8).wrapping_add((version as u64) << 48).wrapping_add(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mixed = (word ^ (word >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed.to_le_bytes()[usize::try_from(offset % 8).expect("below 8")]
}

/// The `ETag` of `version`.
pub(crate) fn etag(version: usize) -> String {
    format!("\"v{version}\"")
}

/// Returns the version with this `ETag`.
pub(crate) fn version_of(etag: &str) -> Option<usize> {
    etag.strip_prefix("\"v")?.strip_suffix('"')?.parse().ok()
}

/// A read of one version in progress.
#[derive(Debug)]
pub(crate) struct Body {
    version: usize,
    next: u64,
    /// Where the body really ends, which differs from the end of the range if the store misbehaves.
    end: u64,
}

/// The store's response to a read.
pub(crate) enum Read {
    Frame(Bytes),
    End,
    Failed(WireError),
}

/// Opens the object for `request`.
pub(crate) fn open(context: &mut Context, request: &GetRequest) -> Result<(ObjectInfo, Body), WireError> {
    if context.inject(context.plan.rates.open_fails, "open fails") {
        return Err(WireError::new(Code::StoreUnavailable, "the store does not answer"));
    }
    let current = context.model.current_version();
    let asked = request.pin.version_id.as_deref().and_then(|id| id.parse::<usize>().ok());
    let version = match asked {
        Some(version) if context.plan.versioned => version,
        _ => current,
    };

    if request.pin.if_match.as_ref().is_some_and(|pinned| *pinned != etag(version)) {
        return Err(WireError::new(Code::Changed, "the object is another one"));
    }
    let size = context.plan.sizes[version];
    let Some(range) = request.span().resolve(size) else {
        return Err(WireError::new(Code::Range, "the range starts past the end"));
    };
    let mut end = range.end;

    if range.start < range.end && context.inject(context.plan.rates.short_body, "short body") {
        end = context.rng.u64(range.start..range.end);
    } else if context.inject(context.plan.rates.long_body, "long body") {
        end += context.rng.u64(1..1000);
    }

    let mut object = ObjectInfo::new(request.key.clone(), size, etag(version));
    object.version_id = context.plan.versioned.then(|| version.to_string());
    object.checksum = context.plan.has_checksums.then(|| context.model.checksum_of(version));
    Ok((object, Body { version, next: range.start, end }))
}

impl Body {
    /// Continues the read. Returns the result and how long it takes.
    pub(crate) fn read(&mut self, context: &mut Context) -> (Duration, Read) {
        let mut latency = context.between(Duration::ZERO, context.plan.store_latency);
        if context.rng.bool() {
            latency = Duration::ZERO;
        }
        if context.inject(context.plan.rates.read_stalls, "read stalls") {
            latency = context.between(Duration::ZERO, Duration::from_secs(10));
        }
        if context.inject(context.plan.rates.read_fails, "read fails") {
            return (latency, Read::Failed(WireError::new(Code::StoreUnavailable, "the store's connection was cut")));
        }

        let replaced = self.version != context.model.current_version() && !context.plan.versioned;
        if replaced && context.rng.u8(..8) == 0 {
            // The store's driver sent a new request within the body, and the pin no longer matched.
            return (latency, Read::Failed(WireError::new(Code::Changed, "the object is another one")));
        }

        let left = usize::try_from(self.end - self.next).expect("objects are small");
        if left == 0 {
            return (latency, Read::End);
        }
        let len = context.rng.usize(1..=context.plan.frame_max).min(left);
        latency += context.plan.store_per_byte * u32::try_from(len).expect("frames are small");

        let mut frame = context.model.bytes_of(self.version, self.next, len);
        if context.inject(context.plan.rates.wrong_byte, "wrong byte") {
            let at = context.rng.usize(..len);
            let mut wrong = frame.to_vec();
            wrong[at] ^= context.rng.u8(1..);
            frame = wrong.into();
            context.model.store_lies(self.version, self.next + at as u64);
        }

        self.next += len as u64;
        (latency, Read::Frame(frame))
    }
}
