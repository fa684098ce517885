//! Headers and payload of any message: rejected, or unchanged after encoding and decoding.

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;

use crate::gantry::{Body, Headers, message};
use crate::machine::{Position, Said, headers};

const NAMES: [&str; 9] = [
    message::TYPE,
    message::TRANSFER,
    message::SEQ,
    message::OFFSET,
    message::CRC,
    message::WAIT,
    message::CONTEXT,
    message::SERVICE_ERROR,
    message::SERVICE_ERROR_CODE,
];

#[derive(Arbitrary, Debug)]
enum Input {
    Said(Said),
    Known(Vec<(u8, String)>, Vec<u8>),
}

pub(crate) fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let (headers, payload) = match input {
        Input::Said(said) => said.encode(true, Position::default()),
        Input::Known(pairs, payload) => {
            let pairs: Vec<_> = pairs
                .into_iter()
                .map(|(name, value)| (NAMES[usize::from(name) % NAMES.len()].to_owned(), value))
                .collect();
            (headers(&pairs), Bytes::from(payload))
        }
    };
    check(&headers, &payload);
}

fn check(headers: &Headers, payload: &Bytes) {
    let has_error = message::error_of(headers, payload).is_some();
    assert_eq!(has_error, headers.get(message::SERVICE_ERROR).is_some());
    let Ok((envelope, body)) = message::decode(headers, payload.clone()) else { return };
    if let Body::Chunk(chunk) = &body {
        assert!(!chunk.payload.is_empty());
        assert_eq!(chunk.payload, *payload);
    }
    let (again, bytes) = envelope.encode(&body);
    assert_eq!(message::decode(&again, bytes), Ok((envelope, body)));
}
