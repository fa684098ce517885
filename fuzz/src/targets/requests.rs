//! Bodies of requests and control messages: rejected, or within the bounds of the protocol. The relay's answers to them
//! can be sent.

use crate::gantry::{
    Body, Code, Control, Envelope, GetRequest, ListRequest, StatRequest, WireError, message, nats_files,
};

/// The protocol's bounds. Source: docs/PROTOCOL.md.
const REQUEST_MAX_BYTES: usize = 16 * 1024;
const CONTEXT_MAX_BYTES: usize = 256;

pub(crate) fn run(data: &[u8]) {
    if let Ok(get) = GetRequest::parse(data) {
        assert!(data.len() <= REQUEST_MAX_BYTES);
        assert!(get.context.as_ref().is_none_or(|context| context.len() <= CONTEXT_MAX_BYTES));
        assert!(!get.key.as_str().contains(['\0', '\r', '\n']));
        assert_eq!(GetRequest::parse(&message::json(&get)).as_ref(), Ok(&get));
        let error = WireError::new(Code::NotFound, format!("key {:?}: no such object", get.key.as_str()));
        let (headers, _) = Envelope { transfer: None, context: get.context }.encode(&Body::Error(error));
        assert!(nats_files::is_sendable(&headers), "an answer can't be sent: {headers:?}");
    }
    if let Ok(stat) = StatRequest::parse(data) {
        assert_eq!(StatRequest::parse(&message::json(&stat)), Ok(stat));
    }
    if let Ok(list) = ListRequest::parse(data) {
        assert_eq!(ListRequest::parse(&message::json(&list)), Ok(list));
    }
    if let Ok(control) = Control::parse(data) {
        assert_eq!(Control::parse(&message::json(&control)), Ok(control));
    }
}
