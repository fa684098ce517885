//! Messages that are likely to pass the first checks.

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use uuid::Uuid;

use crate::gantry::{
    Accepted, Body, Checksum, ChecksumAlgorithm, ChecksumKind, Chunk, Code, Control, End, Headers, ObjectInfo, PartRun,
    TransferId, Wait, WireError, message,
};

/// The size of the object in most messages.
pub(crate) const SIZE: u64 = 10_000;

/// The id of the transfer in most messages.
pub(crate) const TRANSFER: TransferId = TransferId(Uuid::from_u128(1));

/// A number: a small one, one near the object's size, or any.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number(pub(crate) u64);

impl<'a> Arbitrary<'a> for Number {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Self(match u.int_in_range(0..=5)? {
            0 => u64::from(u.arbitrary::<u8>()?),
            1 => SIZE.saturating_add_signed(i64::from(u.arbitrary::<i8>()?)),
            2 => u64::from(u.arbitrary::<u16>()?),
            3 => u64::MAX - u64::from(u.arbitrary::<u8>()?),
            4 => (1 << 63) - u64::from(u.arbitrary::<u8>()?),
            _ => u.arbitrary()?,
        }))
    }
}

pub(crate) fn headers(pairs: &[(String, String)]) -> Headers {
    let mut headers = Headers::default();
    for (name, value) in pairs {
        headers.push(name.clone(), value.clone());
    }
    headers
}

/// A message of a hostile relay.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) enum Said {
    Accepted {
        numbers: [Number; 8],
        control: Option<String>,
        etag: bool,
        checksum: bool,
    },
    /// The expected chunk, with this many bytes.
    Next {
        len: u16,
    },
    Chunk {
        seq: Number,
        offset: Number,
        crc: bool,
        len: u16,
    },
    Beat {
        seq: Number,
        offset: Number,
        credit: bool,
    },
    End {
        chunks: Number,
        bytes: Number,
    },
    /// The expected end.
    Finish,
    Error {
        code: u8,
        retryable: bool,
        retry_after_ms: Option<Number>,
        message: String,
    },
    Goaway,
    Raw {
        headers: Vec<(String, String)>,
        payload: Vec<u8>,
    },
}

/// The position in the transfer, which the next message continues.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Position {
    pub(crate) start: u64,
    pub(crate) seq: u64,
    pub(crate) offset: u64,
}

impl Said {
    /// Encodes the message for the current transfer, or for another one if `is_ours` is false.
    pub(crate) fn encode(&self, is_ours: bool, at: Position) -> (Headers, Bytes) {
        let transfer = if is_ours { TRANSFER } else { TransferId(Uuid::from_u128(2)) };
        let body = match self {
            Self::Raw { headers: pairs, payload } => return (headers(pairs), payload.clone().into()),
            Self::Accepted { numbers, control, etag, checksum } => {
                accepted(transfer, numbers, control, *etag, *checksum, at)
            }
            Self::Next { len } => Body::Chunk(Chunk::new(at.seq, at.offset, pattern(at.offset, *len))),
            Self::Chunk { seq, offset, crc, len } => {
                let mut chunk = Chunk::new(seq.0, offset.0, pattern(offset.0, *len));
                chunk.crc ^= u64::from(!crc);
                Body::Chunk(chunk)
            }
            Self::Beat { seq, offset, credit } => {
                Body::Beat { seq: seq.0, offset: offset.0, wait: if *credit { Wait::Credit } else { Wait::Store } }
            }
            Self::End { chunks, bytes } => Body::End(End { chunks: chunks.0, bytes: bytes.0 }),
            Self::Finish => Body::End(End { chunks: at.seq, bytes: at.offset - at.start }),
            Self::Error { code, retryable, retry_after_ms, message } => Body::Error(WireError {
                code: Code::ALL[usize::from(*code) % Code::ALL.len()],
                message: message.clone(),
                retryable: *retryable,
                retry_after_ms: retry_after_ms.map(|number| number.0),
                needs_operator: None,
            }),
            Self::Goaway => Body::Goaway,
        };
        message::Envelope { transfer: Some(transfer), context: None }.encode(&body)
    }
}

fn accepted(
    transfer: TransferId,
    numbers: &[Number; 8],
    control: &Option<String>,
    etag: bool,
    checksum: bool,
    at: Position,
) -> Body {
    let [size, start, end, credit, window_max, chunk_max, beat_ms, idle_ms] = numbers.map(|number| number.0);
    let is_plain = control.is_none();
    let mut object = object();
    if !is_plain {
        object.size = size;
    }
    if !etag {
        object.etag = "\"b\"".to_owned();
    }
    object.checksum = checksum.then(|| Checksum {
        algorithm: ChecksumAlgorithm::Crc64Nvme,
        kind: ChecksumKind::Composite,
        value: "AAAAAAAAAAA=".to_owned(),
        parts: vec![PartRun { count: start, size: end }],
    });

    Body::Accepted(Box::new(Accepted {
        transfer,
        instance: "relay".to_owned(),
        host: None,
        control: control.clone().unwrap_or_else(|| format!("gantry.v1.ctl.relay.{transfer}")),
        object,
        start: if is_plain { at.offset } else { start },
        end: if is_plain { SIZE } else { end },
        credit,
        window_max,
        chunk_max,
        beat_ms,
        idle_ms,
    }))
}

/// Returns the object in most messages.
pub(crate) fn object() -> ObjectInfo {
    ObjectInfo::new("a/b".parse().expect("the key is valid"), SIZE, "\"a\"".to_owned())
}

/// Returns bytes of the object. Each byte depends on its offset.
pub(crate) fn pattern(offset: u64, len: u16) -> Bytes {
    (0..u64::from(len)).map(|n| byte_at(offset.wrapping_add(n))).collect::<Vec<_>>().into()
}

pub(crate) const fn byte_at(offset: u64) -> u8 {
    (offset % 251) as u8
}

pub(crate) fn control(credit: Number, cancel: bool) -> Control {
    Control { cancel, ..Control::credit(credit.0) }
}
