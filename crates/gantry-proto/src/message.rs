//! The messages of a transfer: their meaning, and their encoding as NATS headers and payload.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::answer::{Accepted, End};
use super::chunk::{Chunk, crc_from_text, crc_to_text};
use super::error::{Code, Malformed, WireError};
use super::json::object;
use super::limits::{self, MESSAGE_MAX_BYTES, OFFSET_MAX};
use super::names::TransferId;

/// The type of a transfer's message: `accepted`, `chunk`, `beat`, `end`, `error` or `goaway`.
pub const TYPE: &str = "Gantry-Type";
/// The transfer's id, on every message once the transfer has one.
pub const TRANSFER: &str = "Gantry-Transfer";
/// A chunk's sequence number; on `beat`, that of the next chunk.
pub const SEQ: &str = "Gantry-Seq";
/// A chunk's absolute offset; on `beat`, that of the next byte.
pub const OFFSET: &str = "Gantry-Offset";
/// CRC-64/NVME of a chunk's payload, 16 lower-case hexadecimal digits.
pub const CRC: &str = "Gantry-Crc";
/// What a relay that sends a beat is waiting for: `credit` or `store`.
pub const WAIT: &str = "Gantry-Wait";
/// The request's `context`, on every message of the transfer.
pub const CONTEXT: &str = "Gantry-Context";
/// The header with the relays that a request has passed, on a relay's own requests to other relays.
pub const VIA: &str = "Gantry-Via";
/// The error message, as the NATS services API requires.
pub const SERVICE_ERROR: &str = "Nats-Service-Error";
/// The error's number, as the NATS services API requires.
pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";

/// Maximum length of a quotation from a peer's message in an error, in bytes.
const EXCERPT_MAX_BYTES: usize = 200;

/// NATS headers, in the order in which they are sent. Names are case-sensitive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Cow<'static, str>, String)>);

impl Headers {
    /// Returns the first value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// Appends a header.
    pub fn push(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// Iterates over names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_str()))
    }

    /// Returns whether there are no headers.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why a relay sends a beat instead of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The relay has sent everything that credit allows.
    Credit,
    /// The next byte is not ready: the store has not yielded it, or other transfers send first.
    Store,
}

/// The content of one message of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The relay has accepted the request.
    Accepted(Box<Accepted>),
    /// Bytes of the object.
    Chunk(Chunk),
    /// The relay is alive but has nothing to send.
    Beat {
        /// The sequence number of the next chunk.
        seq: u64,
        /// The offset of the next byte.
        offset: u64,
        /// What the relay is waiting for.
        wait: Wait,
    },
    /// Every chunk has been sent.
    End(End),
    /// The transfer failed, or the relay refused it.
    Error(WireError),
    /// The relay is shutting down. A new request reaches another relay.
    Goaway,
}

/// The headers that all messages of one transfer share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The transfer's id; `None` on an error that refuses a request.
    pub transfer: Option<TransferId>,
    /// The request's `context`.
    pub context: Option<String>,
}

impl Envelope {
    /// Encodes a message of this transfer as headers and payload.
    #[must_use]
    pub fn encode(&self, body: &Body) -> (Headers, Bytes) {
        let mut headers = Headers::default();
        headers.push(TYPE, body.type_name());

        if let Some(transfer) = self.transfer {
            headers.push(TRANSFER, transfer.to_string());
        }

        let payload = match body {
            Body::Accepted(accepted) => json(accepted),
            Body::Chunk(chunk) => {
                push_position(&mut headers, chunk.seq, chunk.offset);
                headers.push(CRC, crc_to_text(chunk.crc));
                chunk.payload.clone()
            }
            Body::Beat { seq, offset, wait } => {
                push_position(&mut headers, *seq, *offset);
                headers.push(WAIT, wait.name());
                Bytes::new()
            }
            Body::End(end) => json(end),
            Body::Error(error) => {
                push_error(&mut headers, error);
                json(error)
            }
            Body::Goaway => Bytes::new(),
        };
        if let Some(context) = &self.context {
            headers.push(CONTEXT, context.clone());
        }
        (headers, payload)
    }
}

/// Decodes a message of a transfer.
///
/// # Errors
/// If the message violates the protocol.
pub fn decode(headers: &Headers, payload: Bytes) -> Result<(Envelope, Body), Malformed> {
    let kind = required(headers, TYPE)?;
    let transfer = headers.get(TRANSFER).map(parse_transfer).transpose()?;
    let context = headers.get(CONTEXT).map(str::to_owned);
    let body = match kind {
        "accepted" => Body::Accepted(Box::new(from_json(&payload)?)),
        "chunk" if payload.is_empty() => return Err(Malformed::new("a chunk without bytes")),
        "chunk" => Body::Chunk(Chunk {
            seq: number(headers, SEQ)?,
            offset: number(headers, OFFSET)?,
            crc: crc_from_text(required(headers, CRC)?)?,
            payload,
        }),
        "beat" => Body::Beat {
            seq: number(headers, SEQ)?,
            offset: number(headers, OFFSET)?,
            wait: Wait::parse(required(headers, WAIT)?)?,
        },
        "end" => Body::End(from_json(&payload)?),
        "error" => Body::Error(error_from_json(&payload)?),
        "goaway" => Body::Goaway,
        other => return Err(Malformed::new(format!("unknown {TYPE} {}", excerpt(other)))),
    };

    Ok((Envelope { transfer, context }, body))
}

/// Adds the services API's error headers.
pub fn push_error(headers: &mut Headers, error: &WireError) {
    headers.push(SERVICE_ERROR, one_line(&error.message));
    headers.push(SERVICE_ERROR_CODE, error.code.number().to_string());
}

/// Decodes the error in a reply, or returns `None` if the reply is not an error.
///
/// A service error without Gantry's JSON body, such as one from a proxy or another service, becomes `internal`.
#[must_use]
pub fn error_of(headers: &Headers, payload: &Bytes) -> Option<WireError> {
    let message = headers.get(SERVICE_ERROR)?;
    Some(error_from_json(payload).unwrap_or_else(|_| WireError::new(Code::Internal, one_line(message))))
}

/// Encodes a value that can always be represented in JSON.
///
/// # Panics
/// Never for the types of this protocol: the keys of their maps are text and their numbers are integers.
#[must_use]
pub fn json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).expect("protocol types are valid JSON").into()
}

/// Decodes a JSON body from a peer.
///
/// # Errors
/// If the body is not a `T`. The message quotes the beginning of the reason.
pub fn from_json<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Malformed> {
    object(payload).map_err(|error| Malformed::new(format!("body: {}", excerpt(&error.to_string()))))
}

fn error_from_json(payload: &[u8]) -> Result<WireError, Malformed> {
    let mut error: WireError = from_json(payload)?;
    error.message = one_line(&error.message);
    Ok(error)
}

/// Returns a peer's text as one line of bounded length, without control characters.
fn one_line(message: &str) -> String {
    let mut line = message.replace(char::is_control, " ");
    limits::truncate(&mut line, MESSAGE_MAX_BYTES);
    line
}

/// Quotes the beginning of a peer's text.
fn excerpt(text: &str) -> String {
    let mut text = text.to_owned();
    limits::truncate(&mut text, EXCERPT_MAX_BYTES);
    format!("{text:?}")
}

fn push_position(headers: &mut Headers, seq: u64, offset: u64) {
    headers.push(SEQ, seq.to_string());
    headers.push(OFFSET, offset.to_string());
}

fn required<'a>(headers: &'a Headers, name: &str) -> Result<&'a str, Malformed> {
    headers.get(name).ok_or_else(|| Malformed::new(format!("no {name} header")))
}

fn number(headers: &Headers, name: &str) -> Result<u64, Malformed> {
    let text = required(headers, name)?;
    let number = text.parse::<u64>().ok().filter(|number| *number <= OFFSET_MAX);
    number
        // Without a sign or leading zeros.
        .filter(|number| number.to_string() == text)
        .ok_or_else(|| Malformed::new(format!("{name} {} is not a number from 0 to 2^63 - 1", excerpt(text))))
}

fn parse_transfer(text: &str) -> Result<TransferId, Malformed> {
    text.parse().map_err(|_| Malformed::new(format!("{TRANSFER} {} is not a transfer id", excerpt(text))))
}

impl Body {
    /// Returns the value of [`TYPE`].
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Accepted(_) => "accepted",
            Self::Chunk(_) => "chunk",
            Self::Beat { .. } => "beat",
            Self::End(_) => "end",
            Self::Error(_) => "error",
            Self::Goaway => "goaway",
        }
    }
}

impl Wait {
    /// Returns the value of [`WAIT`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Credit => "credit",
            Self::Store => "store",
        }
    }

    fn parse(text: &str) -> Result<Self, Malformed> {
        match text {
            "credit" => Ok(Self::Credit),
            "store" => Ok(Self::Store),
            other => Err(Malformed::new(format!("unknown {WAIT} {}", excerpt(other)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{Checksum, ChecksumAlgorithm, ChecksumKind, ObjectInfo, PartRun};

    const NAMES: [&str; 9] = [TYPE, TRANSFER, SEQ, OFFSET, CRC, WAIT, CONTEXT, SERVICE_ERROR, SERVICE_ERROR_CODE];

    fn transfer() -> impl Strategy<Value = TransferId> {
        any::<u128>().prop_map(|id| TransferId(Uuid::from_u128(id)))
    }

    fn object() -> impl Strategy<Value = ObjectInfo> {
        let checksum = (any::<String>(), vec((any::<u64>(), any::<u64>()), 0..3)).prop_map(|(value, parts)| Checksum {
            algorithm: ChecksumAlgorithm::Sha256,
            kind: ChecksumKind::Composite,
            value,
            parts: parts.into_iter().map(|(count, size)| PartRun { count, size }).collect(),
        });
        let text = || option::of(any::<String>());
        let texts = || proptest::collection::btree_map(any::<String>(), any::<String>(), 0..3);
        let texts = (texts(), texts());

        ("[^\0\r\n]{1,40}", any::<u64>(), any::<String>(), text(), text(), text(), texts, option::of(checksum))
            .prop_map(|(key, size, etag, version_id, last_modified, content_type, (headers, metadata), checksum)| {
                ObjectInfo {
                    key: key.parse().unwrap(),
                    size,
                    etag,
                    version_id,
                    last_modified,
                    content_type,
                    headers,
                    metadata,
                    checksum,
                    other_checksum: None,
                    stale_s: None,
                }
            })
    }

    fn accepted() -> impl Strategy<Value = Accepted> {
        let numbers = proptest::array::uniform7(any::<u64>());
        (transfer(), any::<String>(), any::<String>(), object(), numbers).prop_map(
            |(transfer, instance, control, object, [start, end, credit, window_max, chunk_max, beat_ms, idle_ms])| {
                Accepted {
                    transfer,
                    instance,
                    control,
                    host: None,
                    object,
                    start,
                    end,
                    credit,
                    window_max,
                    chunk_max,
                    beat_ms,
                    idle_ms,
                }
            },
        )
    }

    fn body() -> impl Strategy<Value = Body> {
        let chunk = (0..=OFFSET_MAX, 0..=OFFSET_MAX, vec(any::<u8>(), 1..100));
        let beat = (0..=OFFSET_MAX, 0..=OFFSET_MAX, any::<bool>());
        let error =
            (0..Code::ALL.len(), "\\PC{0,60}", any::<bool>(), option::of(any::<u64>()), option::of(any::<bool>()));

        prop_oneof![
            accepted().prop_map(|accepted| Body::Accepted(Box::new(accepted))),
            chunk.prop_map(|(seq, offset, payload)| Body::Chunk(Chunk::new(seq, offset, payload.into()))),
            beat.prop_map(|(seq, offset, credit)| Body::Beat {
                seq,
                offset,
                wait: if credit { Wait::Credit } else { Wait::Store },
            }),
            (any::<u64>(), any::<u64>()).prop_map(|(chunks, bytes)| Body::End(End { chunks, bytes })),
            error.prop_map(|(code, message, retryable, retry_after_ms, needs_operator)| {
                Body::Error(WireError { code: Code::ALL[code], message, retryable, retry_after_ms, needs_operator })
            }),
            Just(Body::Goaway),
        ]
    }

    #[test]
    fn numbers_in_headers_are_digits_without_a_sign_or_leading_zeros() {
        let read = |text: &str| {
            let mut headers = Headers::default();
            headers.push(SEQ, text);
            number(&headers, SEQ).ok()
        };
        assert_eq!(read("0"), Some(0));
        assert_eq!(read("9223372036854775807"), Some(OFFSET_MAX));
        for text in ["", "+1", "-1", "00", "01", " 1", "1 ", "1_0", "1.0", "0x1", "\u{661}", "9223372036854775808"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn encoding_round_trips(body in body(), transfer in option::of(transfer()), context in "[ -~]{0,40}") {
            let envelope = Envelope { transfer, context: Some(context) };
            let (headers, payload) = envelope.encode(&body);
            prop_assert_eq!(decode(&headers, payload), Ok((envelope, body)));
        }

        #[test]
        fn header_values_contain_no_line_breaks(body in body()) {
            let (headers, _) = Envelope { transfer: None, context: None }.encode(&body);
            prop_assert!(headers.iter().all(|(_, value)| !value.contains(['\r', '\n'])));
        }

        #[test]
        fn any_message_is_decoded_or_rejected(
            kind in "(accepted|chunk|beat|end|error|goaway|[a-z]{0,8})",
            others in vec((0..NAMES.len(), "([0-9a-f]{0,20}|.{0,20})"), 0..8),
            payload in prop_oneof![vec(any::<u8>(), 0..100), "\\PC{0,100}".prop_map(String::into_bytes)],
        ) {
            let mut headers = Headers::default();
            headers.push(TYPE, kind);
            for (name, value) in others {
                headers.push(NAMES[name], value);
            }
            let payload = Bytes::from(payload);
            if let Ok((_, Body::Chunk(chunk))) = decode(&headers, payload.clone()) {
                prop_assert_eq!(&chunk.payload, &payload);
            }
            prop_assert_eq!(error_of(&headers, &payload).is_some(), headers.get(SERVICE_ERROR).is_some());
        }
    }
}
