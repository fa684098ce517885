//! Questions about relays and their answers (NATS services API, ADR-32), as far as consumers and other relays need
//! them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::json::object;
use super::limits::SERVICE_MAX_BYTES;
use super::message::json;
use super::names::StoreName;
use super::subject::{Prefix, SERVICE};

/// The longest question that a relay reads, in bytes. Longer ones are answered as if they were empty.
const QUESTION_MAX_BYTES: usize = 8 * 1024;

/// The maximum number of stores that a relay names in a question. Source: [`QUESTION_MAX_BYTES`].
const STORES_MAX: usize = 100;

/// The name of the metadata in which a relay confirms that the requested store exists: see [`Answer::has_left`].
pub const LEFT: &str = "left";

/// A question about relays. Its body is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The store that the asking consumer can't find.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreName>,
    /// The prefix of the asking relay's subjects.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// The stores that the asking relay serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<StoreName>,
}

impl Question {
    /// Creates the question of a consumer that can't find a store.
    #[must_use]
    pub const fn about(store: StoreName) -> Self {
        Self { store: Some(store), prefix: String::new(), stores: Vec::new() }
    }

    /// Creates the question of a relay that serves these stores, or as many of them as a question can hold.
    #[must_use]
    pub fn of_relay(prefix: &Prefix, stores: impl IntoIterator<Item = StoreName>) -> Self {
        Self { store: None, prefix: prefix.to_string(), stores: stores.into_iter().take(STORES_MAX).collect() }
    }

    /// Encodes the body.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        json(self)
    }

    /// Parses a body. An invalid one counts as empty.
    #[must_use]
    pub fn parse(body: &[u8]) -> Self {
        if body.is_empty() || body.len() > QUESTION_MAX_BYTES {
            return Self::default();
        }
        let mut question: Self = object(body).unwrap_or_default();
        question.stores.truncate(STORES_MAX);
        question
    }
}

/// A relay's answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Answer {
    name: String,
    metadata: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "super::json::array")]
    endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Endpoint {
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

impl Answer {
    /// Parses an answer. Returns `None` if it is not from a relay.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        if body.len() > SERVICE_MAX_BYTES {
            return None;
        }
        let answer: Self = object(body).ok()?;
        (answer.name == SERVICE && answer.metadata.contains_key("prefix")).then_some(answer)
    }

    /// Returns the prefix of the relay's subjects.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.metadata.get("prefix").map_or("", String::as_str)
    }

    /// Returns whether this store was served a short time ago: by another relay, or by this one before a gap in its
    /// connection.
    #[must_use]
    pub fn has_left(&self, store: &StoreName) -> bool {
        self.metadata.get(LEFT).is_some_and(|left| left == store.as_str())
    }

    /// Returns the stores that the relay serves, if it describes them. A store may be repeated.
    pub fn stores(&self) -> impl Iterator<Item = StoreName> {
        self.endpoints.iter().filter_map(|endpoint| endpoint.metadata.get("store")?.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(name: &str) -> StoreName {
        name.parse().unwrap()
    }

    #[test]
    fn an_answer_names_prefix_and_stores() {
        let body = br#"{"type":"x","name":"gantry","id":"1","metadata":{"prefix":"site.a","left":"b"},
            "endpoints":[{"name":"get-a","metadata":{"store":"a"}},{"metadata":{"store":"not valid"}},{}]}"#;
        let answer = Answer::parse(body).unwrap();

        assert_eq!(answer.prefix(), "site.a");
        assert!(answer.has_left(&store("b")) && !answer.has_left(&store("a")));
        assert_eq!(answer.stores().collect::<Vec<_>>(), [store("a")]);
    }

    #[test]
    fn only_a_relay_answers() {
        let deep = "[".repeat(100_000);
        for other in
            ["", "{}", "hello", r#"{"name":"other","metadata":{"prefix":"gantry"}}"#, r#"{"name":"gantry"}"#, &deep]
        {
            assert_eq!(Answer::parse(other.as_bytes()), None);
        }
    }

    #[test]
    fn an_invalid_question_counts_as_empty() {
        let question = Question::about(store("a"));
        assert_eq!(Question::parse(&question.encode()), question);
        let of_relay = Question::of_relay(&Prefix::default(), (0..200).map(|n| store(&format!("{n:064}"))));
        assert_eq!(Question::parse(&of_relay.encode()), of_relay);
        assert_eq!(of_relay.stores.len(), STORES_MAX);

        let long = format!("{{\"store\":\"{}\"}}", " ".repeat(QUESTION_MAX_BYTES));
        for body in ["", "x", r#"{"store":"a b"}"#, r#"{"stores":1}"#, &long] {
            assert_eq!(Question::parse(body.as_bytes()), Question::default(), "{body}");
        }
    }
}
