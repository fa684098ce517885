//! The JSON bodies that a consumer sends: requests and control messages.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::error::WireError;
use super::json::{object, optional};
use super::limits::{TOKEN_MAX_BYTES, VERSION_MAX_BYTES};
use super::names::Key;
use super::object::{Pin, Span};
use super::{CONTEXT_MAX_BYTES, OFFSET_MAX, REQUEST_MAX_BYTES, VERSION};

/// Requests a transfer: the body of a message to `{prefix}.v1.get.{store}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetRequest {
    /// The protocol version of this body; absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v: Option<u32>,
    /// The object's key within the store.
    pub key: Key,
    /// The first requested byte.
    #[serde(default, deserialize_with = "offset")]
    pub start: u64,
    /// The exclusive end of the requested range; absent means the object's end.
    #[serde(default, deserialize_with = "optional_offset", skip_serializing_if = "Option::is_none")]
    pub end: Option<u64>,
    /// The requested version.
    #[serde(flatten)]
    pub pin: Pin,
    /// The initial credit, an absolute offset; absent means [`WINDOW_DEFAULT_BYTES`](super::limits::WINDOW_DEFAULT_BYTES)
    /// past `start`. Excludes `window`.
    #[serde(default, deserialize_with = "optional_offset", skip_serializing_if = "Option::is_none")]
    pub credit: Option<u64>,
    /// How far the relay may send past what the consumer reports as written, in bytes. The relay then computes the credit.
    /// Excludes `credit`.
    #[serde(default, deserialize_with = "optional_offset", skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// The largest chunk payload that the consumer accepts, in bytes; absent means the relay's own limit.
    #[serde(default, deserialize_with = "optional_offset", skip_serializing_if = "Option::is_none")]
    pub chunk_max: Option<u64>,
    /// Opaque text that the relay returns on every message of the transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Whether the consumer promises to send control messages even without new credit, so that its silence means that
    /// it has left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps_alive: bool,
    /// More credit, for a relay that is close to the consumer.
    #[serde(default, deserialize_with = "optional", skip_serializing_if = "Option::is_none")]
    pub near: Option<Near>,
}

/// Credit that applies only if the relay is connected to the consumer's nats-server, or to one of its cluster. Between
/// clusters, and behind leaf nodes, many consumers may share a slow link that none of them can see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Near {
    /// The id of the consumer's nats-server.
    pub server: String,
    /// The name of that server's cluster, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The initial credit, an absolute offset.
    #[serde(deserialize_with = "offset")]
    pub credit: u64,
}

/// Where a client is connected, as its nats-server states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The server's id.
    pub server: String,
    /// The name of its cluster, if it has one.
    pub cluster: Option<String>,
}

impl Near {
    /// States credit for relays near `location`.
    #[must_use]
    pub fn to(location: &Location, credit: u64) -> Self {
        Self { server: location.server.clone(), cluster: location.cluster.clone(), credit }
    }

    /// Returns whether a relay at `location` is connected to the consumer's server, or to one of its cluster.
    #[must_use]
    pub fn includes(&self, location: &Location) -> bool {
        self.server == location.server || self.cluster.is_some() && self.cluster == location.cluster
    }
}

impl GetRequest {
    /// Requests the whole object in its current version.
    #[must_use]
    pub const fn new(key: Key) -> Self {
        Self {
            v: None,
            key,
            start: 0,
            end: None,
            pin: Pin { if_match: None, version_id: None },
            credit: None,
            window: None,
            chunk_max: None,
            context: None,
            keeps_alive: false,
            near: None,
        }
    }

    /// Raises the credit to that in `near`, if this relay, which is at `location`, is near the consumer.
    pub fn apply_location(&mut self, location: &Location) {
        if let Some(near) = &self.near
            && near.includes(location)
            && let Some(credit) = &mut self.credit
        {
            *credit = near.credit.max(*credit);
        }
    }

    /// Parses and validates a request body.
    ///
    /// # Errors
    /// `bad_request` or `range`, with a message that names the field.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let request: Self = parse(body, GET)?;
        check_version(request.v)?;
        check_pin(&request.pin)?;

        if let Some(end) = request.end
            && request.start > end
        {
            let message = format!("`start` {} is past `end` {end}", request.start);
            return Err(WireError::new(super::Code::Range, message));
        }

        for (name, value) in [("chunk_max", request.chunk_max), ("window", request.window)] {
            if value == Some(0) {
                return Err(WireError::bad_request(format!("`{name}` {}", Kind::Positive.rule())));
            }
        }
        if request.window.is_some() && request.credit.is_some() {
            return Err(WireError::bad_request("`window` and `credit` exclude each other"));
        }
        if let Some(context) = &request.context {
            check_context(context)?;
        }
        Ok(request)
    }

    /// Returns the `context` of a body that is not a valid request, so that its sender can identify the rejected
    /// request.
    #[must_use]
    pub fn context_of(body: &[u8]) -> Option<String> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let context = body.get("context")?.as_str()?;
        is_valid_context(context).then(|| context.to_owned())
    }

    /// Returns the requested byte range.
    #[must_use]
    pub const fn span(&self) -> Span {
        Span { start: self.start, end: self.end }
    }
}

/// Requests an object's description: the body of a message to `{prefix}.v1.stat.{store}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatRequest {
    /// The protocol version of this body; absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v: Option<u32>,
    /// The object's key within the store.
    pub key: Key,
    /// The requested version.
    #[serde(flatten)]
    pub pin: Pin,
}

impl StatRequest {
    /// Parses and validates a request body.
    ///
    /// # Errors
    /// `bad_request`, with a message that names the field.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let request: Self = parse(body, STAT)?;
        check_version(request.v)?;
        check_pin(&request.pin)?;
        Ok(request)
    }
}

/// Requests a page of keys: the body of a message to `{prefix}.v1.list.{store}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRequest {
    /// The protocol version of this body; absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v: Option<u32>,
    /// Lists only keys that start with this text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// If `false`, keys that contain `/` after the prefix are folded into `prefixes`.
    #[serde(default)]
    pub recursive: bool,
    /// The maximum number of entries in a page; the relay may send fewer.
    #[serde(default, deserialize_with = "saturated", skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `next` of the previous page; absent for the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl ListRequest {
    /// Parses and validates a request body. An empty body requests the first page of all keys.
    ///
    /// # Errors
    /// `bad_request`, with a message that names the field.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        let request: Self = parse(body, LIST)?;
        check_version(request.v)?;

        if request.prefix.len() > Key::MAX_BYTES || request.prefix.contains(['\0', '\r', '\n']) {
            return Err(WireError::bad_request(
                "`prefix` is over 1024 bytes or contains a NUL, carriage return or newline",
            ));
        }

        if request.limit == Some(0) {
            return Err(WireError::bad_request(format!("`limit` {}", Kind::Positive.rule())));
        }
        if request.token.as_ref().is_some_and(|token| token.len() > TOKEN_MAX_BYTES) {
            return Err(WireError::bad_request(format!("`token` is over {TOKEN_MAX_BYTES} bytes")));
        }
        Ok(request)
    }
}

/// The consumer's complete state: the body of a control message. Repeats and reordering do no harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// The absolute offset up to which the relay may send.
    #[serde(default, deserialize_with = "offset")]
    pub credit: u64,
    /// The absolute offset up to which the consumer has written, for a transfer with a `window`.
    #[serde(default, deserialize_with = "offset", skip_serializing_if = "is_zero")]
    pub written: u64,
    /// Whether to end the transfer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
    /// Whether the relay should answer with [`Code::Ended`](super::Code::Ended) if it does not know the transfer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
}

impl Control {
    /// Gives credit up to this absolute offset.
    #[must_use]
    pub const fn credit(credit: u64) -> Self {
        Self { credit, written: 0, cancel: false, probe: false }
    }

    /// Reports that everything below this absolute offset is written.
    #[must_use]
    pub const fn written(written: u64) -> Self {
        Self { credit: 0, written, cancel: false, probe: false }
    }

    /// Ends the transfer.
    #[must_use]
    pub const fn cancel() -> Self {
        Self { credit: 0, written: 0, cancel: true, probe: false }
    }

    /// Combines two states. Either may be the older one.
    pub fn merge(&mut self, other: Self) {
        self.credit = self.credit.max(other.credit);
        self.written = self.written.max(other.written);
        self.cancel |= other.cancel;
        self.probe |= other.probe;
    }

    /// Parses a control body.
    ///
    /// # Errors
    /// `bad_request`, with a message that names the field.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        parse(body, CONTROL)
    }
}

/// The required form of a body's member.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Key,
    Text,
    Flag,
    /// An offset, size or count.
    Number,
    /// A number that must not be 0.
    Positive,
    /// A number that fits into 32 bits.
    Small,
    /// A [`Near`].
    Near,
}

/// The members of each body. These rules only provide messages; the types above enforce them.
const GET: &[(&str, Kind)] = &[
    ("v", Kind::Small),
    ("key", Kind::Key),
    ("start", Kind::Number),
    ("end", Kind::Number),
    ("if_match", Kind::Text),
    ("version_id", Kind::Text),
    ("credit", Kind::Number),
    ("window", Kind::Positive),
    ("chunk_max", Kind::Positive),
    ("context", Kind::Text),
    ("keeps_alive", Kind::Flag),
    ("near", Kind::Near),
];
const STAT: &[(&str, Kind)] =
    &[("v", Kind::Small), ("key", Kind::Key), ("if_match", Kind::Text), ("version_id", Kind::Text)];
const LIST: &[(&str, Kind)] = &[
    ("v", Kind::Small),
    ("prefix", Kind::Text),
    ("recursive", Kind::Flag),
    ("limit", Kind::Positive),
    ("token", Kind::Text),
];
const CONTROL: &[(&str, Kind)] =
    &[("credit", Kind::Number), ("written", Kind::Number), ("cancel", Kind::Flag), ("probe", Kind::Flag)];

/// Members without a default. For these, `null` means that they are absent.
const NULLABLE: &[&str] =
    &["v", "end", "if_match", "version_id", "credit", "window", "chunk_max", "context", "near", "limit", "token"];

impl Kind {
    fn is_met_by(self, value: &Value) -> bool {
        match self {
            Self::Key => value.as_str().is_some_and(|key| key.parse::<Key>().is_ok()),
            Self::Text => value.is_string(),
            Self::Flag => value.is_boolean(),
            Self::Number => value.as_u64().is_some_and(|number| number <= OFFSET_MAX),
            Self::Positive => value.as_u64().is_some_and(|number| (1..=OFFSET_MAX).contains(&number)),
            Self::Small => value.as_u64().is_some_and(|number| u32::try_from(number).is_ok()),
            Self::Near => value.is_object() && Near::deserialize(value).is_ok(),
        }
    }

    const fn rule(self) -> &'static str {
        match self {
            Self::Key => "must be text of 1 to 1024 bytes without NUL, CR and LF",
            Self::Text => "must be text",
            Self::Flag => "must be true or false",
            Self::Number => "must be an integer from 0 to 2^63 - 1",
            Self::Positive => "must be an integer from 1 to 2^63 - 1",
            Self::Small => "must be an integer from 0 to 2^32 - 1",
            Self::Near => {
                "must be an object with the text `server` and the offset `credit`, and perhaps the text `cluster`"
            }
        }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8], members: &[(&str, Kind)]) -> Result<T, WireError> {
    if body.len() > REQUEST_MAX_BYTES {
        let message = format!("the body has {} bytes, more than {REQUEST_MAX_BYTES}", body.len());
        return Err(WireError::bad_request(message));
    }
    object(body).map_err(|_| WireError::bad_request(rule_broken(body, members)))
}

/// Returns the member that makes a body invalid, and the rule that it violates.
fn rule_broken(body: &[u8], members: &[(&str, Kind)]) -> String {
    let object = match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return "the body must be a JSON object".to_owned(),
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            return format!("the body is not JSON, or is nested too deeply: see line {line}, column {column}");
        }
    };

    for (name, kind) in members {
        match object.get(*name) {
            None if matches!(kind, Kind::Key) => return format!("`{name}` is missing"),
            Some(Value::Null) if NULLABLE.contains(name) => {}
            Some(value) if !kind.is_met_by(value) => return format!("`{name}` {}", kind.rule()),
            None | Some(_) => {}
        }
    }
    // All members are valid, and an unknown one can't be invalid.
    "the body has a member twice".to_owned()
}

fn check_version(v: Option<u32>) -> Result<(), WireError> {
    match v {
        None | Some(VERSION) => Ok(()),
        Some(v) => Err(WireError::bad_request(format!("`v`: unsupported version {v}, expected {VERSION}"))),
    }
}

fn check_pin(pin: &Pin) -> Result<(), WireError> {
    for (name, value) in [("if_match", &pin.if_match), ("version_id", &pin.version_id)] {
        if let Some(value) = value
            && (value.is_empty() || value.len() > VERSION_MAX_BYTES || value.chars().any(char::is_control))
        {
            return Err(WireError::bad_request(format!(
                "`{name}` is empty, over {VERSION_MAX_BYTES} bytes or contains control characters"
            )));
        }
    }
    Ok(())
}

/// Returns whether `context` is valid as the context of a request.
#[must_use]
pub fn is_valid_context(context: &str) -> bool {
    check_context(context).is_ok()
}

fn check_context(context: &str) -> Result<(), WireError> {
    if context.len() > CONTEXT_MAX_BYTES {
        let message = format!("`context` of {} bytes is over {CONTEXT_MAX_BYTES}", context.len());
        return Err(WireError::bad_request(message));
    }
    if context.chars().any(char::is_control) || context.trim() != context {
        return Err(WireError::bad_request("`context` contains control characters, or begins or ends with a space"));
    }
    Ok(())
}

fn offset<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let offset = u64::deserialize(deserializer)?;
    if offset > OFFSET_MAX {
        return Err(D::Error::custom(format!("{offset} is beyond 2^63 - 1")));
    }
    Ok(offset)
}

/// Reads a number that has a smaller maximum anyway.
fn saturated<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = optional_offset(deserializer)?;
    Ok(number.map(|number| u32::try_from(number).unwrap_or(u32::MAX)))
}

fn optional_offset<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(offset) = Option::<u64>::deserialize(deserializer)? else { return Ok(None) };
    if offset > OFFSET_MAX {
        return Err(D::Error::custom(format!("{offset} is beyond 2^63 - 1")));
    }
    Ok(Some(offset))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::Code;
    use super::*;

    fn refused(body: &str) -> (Code, String) {
        let error = GetRequest::parse(body.as_bytes()).unwrap_err();
        (error.code, error.message)
    }

    #[test]
    fn a_key_is_a_complete_request() {
        let request = GetRequest::parse(br#"{"key":"a/b","colour":"blue"}"#).unwrap();
        assert_eq!(request, GetRequest::new("a/b".parse().unwrap()));
    }

    #[test]
    fn an_invalid_field_is_named() {
        let long = "k".repeat(1025);
        let context = "c".repeat(257);
        for (body, field) in [
            ("{".to_owned(), "body"),
            ("[1]".to_owned(), "body"),
            (r#"{"key":"a"} x"#.to_owned(), "body"),
            (format!(r#"{{"key":"a","pad":"{}"}}"#, "x".repeat(REQUEST_MAX_BYTES)), "body"),
            ("{}".to_owned(), "`key`"),
            (r#"{"key":""}"#.to_owned(), "key"),
            (format!(r#"{{"key":"{long}"}}"#), "key"),
            (r#"{"key":"a\nb"}"#.to_owned(), "key"),
            (r#"{"key":"a\u0000b"}"#.to_owned(), "key"),
            (r#"{"key":"a","v":2}"#.to_owned(), "`v`"),
            (r#"{"key":"a","start":-1}"#.to_owned(), "`start`"),
            (r#"{"key":"a","start":9223372036854775808}"#.to_owned(), "`start`"),
            (r#"{"key":"a","end":9223372036854775808}"#.to_owned(), "`end`"),
            (r#"{"key":"a","credit":1e30}"#.to_owned(), "`credit`"),
            (r#"{"key":"a","credit":18446744073709551616}"#.to_owned(), "`credit`"),
            (r#"{"key":"a","chunk_max":0}"#.to_owned(), "`chunk_max`"),
            (r#"{"key":"a","window":0}"#.to_owned(), "`window`"),
            (r#"{"key":"a","window":1,"credit":1}"#.to_owned(), "`window` and `credit`"),
            (r#"{"key":"a","version_id":[]}"#.to_owned(), "`version_id` must be text"),
            (r#"{"key":7}"#.to_owned(), "`key` must be text of 1 to 1024 bytes"),
            (r#"{"key":"a","keeps_alive":1}"#.to_owned(), "keeps_alive"),
            (r#"{"key":"a","near":7}"#.to_owned(), "`near`"),
            (r#"{"key":"a","near":["s","c",1]}"#.to_owned(), "`near`"),
            (r#"{"key":"a","near":{"server":"s"}}"#.to_owned(), "`near`"),
            (r#"{"key":"a","near":{"server":"s","credit":-1}}"#.to_owned(), "`near`"),
            (r#"{"key":"a","if_match":""}"#.to_owned(), "`if_match`"),
            (format!(r#"{{"key":"a","context":"{context}"}}"#), "`context`"),
            (r#"{"key":"a","context":"a\r\nB: c"}"#.to_owned(), "`context`"),
        ] {
            let (code, message) = refused(&body);
            assert_eq!(code, Code::BadRequest, "{body}");
            assert!(message.contains(field), "{message:?} does not name {field} for {body}");
        }
    }

    #[test]
    fn a_message_names_the_rule_and_not_the_parser() {
        for body in
            ["[1]", "{}", r#"{"key":"a","start":"x"}"#, r#"{"key":"a","keeps_alive":null}"#, r#"{"key":"a","v":1.5}"#]
        {
            let (_, message) = refused(body);
            for word in ["u64", "struct", "line", "column", "expected", "invalid type"] {
                assert!(!message.contains(word), "{message:?}");
            }
        }
    }

    #[test]
    fn a_body_that_json_parsers_disagree_about_is_rejected() {
        for body in ["[]", "[1]", "[\"a\"]", "[4,false,0,false]"] {
            ListRequest::parse(body.as_bytes()).unwrap_err();
            Control::parse(body.as_bytes()).unwrap_err();
        }

        assert_eq!(refused(r#"{"key":"a","key":"b"}"#).1, "the body has a member twice");
        let nested = format!(r#"{{"key":"a","x":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        assert!(refused(&nested).1.contains("nested too deeply"));
    }

    #[test]
    fn a_limit_above_that_of_the_relay_is_valid() {
        let limit = |limit: &str| ListRequest::parse(format!(r#"{{"limit":{limit}}}"#).as_bytes());
        assert_eq!(limit("1099511627776").unwrap().limit, Some(u32::MAX));
        for invalid in ["0", "-1", "1.5", "9223372036854775808"] {
            assert!(limit(invalid).unwrap_err().message.contains("`limit` must be an integer from 1"), "{invalid}");
        }
    }

    #[test]
    fn the_context_of_a_rejected_request_is_known_if_it_is_valid() {
        let context = |body: &str| GetRequest::context_of(body.as_bytes());
        assert_eq!(context(r#"{"key":"","context":"order-7"}"#).as_deref(), Some("order-7"));
        for body in ["{", "[]", "{}", r#"{"context":7}"#, r#"{"context":"a\nb"}"#] {
            assert_eq!(context(body), None, "{body}");
        }
    }

    #[test]
    fn states_are_merged_in_any_order() {
        let mut state = Control::credit(7);
        state.merge(Control { probe: true, ..Control::written(3) });
        state.merge(Control { cancel: true, ..Control::credit(5) });
        assert_eq!(state, Control { credit: 7, written: 3, cancel: true, probe: true });
    }

    #[test]
    fn only_a_near_relay_applies_the_credit_for_near_relays() {
        let at = |server: &str, cluster: Option<&str>| Location {
            server: server.to_owned(),
            cluster: cluster.map(str::to_owned),
        };
        for (relay, credit) in
            [(at("s1", None), 900), (at("s2", Some("c1")), 900), (at("s2", Some("c2")), 4), (at("s2", None), 4)]
        {
            let body = br#"{"key":"a","credit":4,"near":{"server":"s1","cluster":"c1","credit":900}}"#;
            let mut request = GetRequest::parse(body).unwrap();
            request.apply_location(&relay);
            assert_eq!(request.credit, Some(credit), "{relay:?}");
        }

        // Two servers without a cluster are not in the same one.
        assert!(!Near::to(&at("s1", None), 1).includes(&at("s2", None)));
    }

    #[test]
    fn start_past_end_is_a_range_error() {
        assert_eq!(refused(r#"{"key":"a","start":2,"end":1}"#).0, Code::Range);
    }

    proptest! {
        #[test]
        fn any_body_is_parsed_or_rejected(body in vec(any::<u8>(), 0..200)) {
            parse_as_everything(&body)?;
        }

        #[test]
        fn any_json_is_parsed_or_rejected(
            fields in vec(
                ("(v|key|start|end|if_match|version_id|credit|window|written|probe|chunk_max|context|keeps_alive|prefix|limit|token|cancel)",
                 r#"([0-9]{1,21}|-[0-9]{1,5}|[0-9]\.[0-9]e[0-9]{1,3}|"[a-z \\]{0,9}"|null|true|\[\]|\{\})"#),
                0..6,
            ),
        ) {
            let fields: Vec<_> = fields.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            parse_as_everything(format!("{{{}}}", fields.join(",")).as_bytes())?;
        }
    }

    /// Parses a body as every kind of request, and checks accepted ones against the limits.
    fn parse_as_everything(body: &[u8]) -> Result<(), TestCaseError> {
        if let Ok(request) = GetRequest::parse(body) {
            for offset in [Some(request.start), request.end, request.credit, request.chunk_max].into_iter().flatten() {
                prop_assert!(offset <= OFFSET_MAX);
            }
            prop_assert!(request.end.is_none_or(|end| request.start <= end));
            prop_assert!(request.chunk_max != Some(0));
            let again = serde_json::to_vec(&request).unwrap();
            prop_assert_eq!(GetRequest::parse(&again), Ok(request));
        }

        if let Ok(control) = Control::parse(body) {
            prop_assert!(control.credit <= OFFSET_MAX);
        }
        if let Ok(request) = ListRequest::parse(body) {
            prop_assert!(request.limit != Some(0));
        }
        if let Ok(request) = StatRequest::parse(body) {
            prop_assert!(request.key.as_str().len() <= Key::MAX_BYTES);
        }

        Ok(())
    }
}
