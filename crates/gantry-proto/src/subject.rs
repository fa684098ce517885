//! The subjects of protocol v1, and the subjects that a relay may deliver to.

use super::VERSION;
use super::error::Malformed;
use super::limits::INSTANCE_MAX_BYTES;
use super::names::{StoreName, TransferId};

/// The name of the relays' service in the NATS services API.
pub const SERVICE: &str = "gantry";

/// The queue group of all relays with the same prefix.
pub const QUEUE_GROUP: &str = "gantry";

/// An operation that consumers request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Starts a transfer.
    Get,
    /// Describes an object.
    Stat,
    /// Lists keys.
    List,
}

impl Operation {
    /// All operations.
    pub const ALL: [Self; 3] = [Self::Get, Self::Stat, Self::List];

    /// Returns the operation's token in subjects and endpoint names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Stat => "stat",
            Self::List => "list",
        }
    }
}

/// The first tokens of every subject; `gantry` by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// Validates a prefix: one or more tokens without wildcards or white space, and not reserved.
    ///
    /// # Errors
    /// If no valid subject can start with it.
    pub fn new(prefix: impl Into<String>) -> Result<Self, Malformed> {
        let prefix = prefix.into();
        if !is_literal(&prefix) || prefix.starts_with('$') || prefix.starts_with('_') || prefix.len() > 128 {
            return Err(Malformed::subject(&prefix));
        }
        Ok(Self(prefix))
    }

    /// Returns the subject of requests for `operation` on `store`.
    #[must_use]
    pub fn request(&self, operation: Operation, store: &StoreName) -> String {
        format!("{}.v{VERSION}.{}.{store}", self.0, operation.name())
    }

    /// Returns the subject to which the consumer of `transfer` sends credit and cancel.
    #[must_use]
    pub fn control(&self, instance: &str, transfer: TransferId) -> String {
        format!("{}.v{VERSION}.ctl.{instance}.{transfer}", self.0)
    }

    /// Returns the subject that the relay `instance` subscribes to for all its control messages.
    #[must_use]
    pub fn controls(&self, instance: &str) -> String {
        format!("{}.v{VERSION}.ctl.{instance}.*", self.0)
    }
}

impl Prefix {
    /// Returns the reply subject of a transfer's messages, where nats-server reports that nobody received them.
    ///
    /// `secret` is one token chosen by the relay that publishes the messages. Consumers do not publish here.
    #[must_use]
    pub fn gone(&self, secret: &str, transfer: TransferId) -> String {
        format!("{}.v{VERSION}.gone.{secret}.{transfer}", self.0)
    }

    /// Returns the subject that a relay subscribes to for all these reports.
    #[must_use]
    pub fn all_gone(&self, secret: &str) -> String {
        format!("{}.v{VERSION}.gone.{secret}.*", self.0)
    }
}

impl Default for Prefix {
    fn default() -> Self {
        Self("gantry".to_owned())
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns whether `text` is a valid instance: one token of bounded length from letters, digits, `_` and `-`.
#[must_use]
pub fn is_instance(text: &str) -> bool {
    (1..=INSTANCE_MAX_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Returns the transfer id in a control subject or in the reply subject of a transfer's messages.
#[must_use]
pub fn transfer_of_control(subject: &str) -> Option<TransferId> {
    subject.rsplit('.').next()?.parse().ok()
}

/// The reply subjects that a relay publishes to.
///
/// nats-server does not check whether a requester may use its reply subject. Without this list, a requester could make
/// the relay publish to another user's subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryAllow(Vec<String>);

impl DeliveryAllow {
    /// Allows subjects with these prefixes, which must end in a dot: `_INBOX.` allows `_INBOX.a` and `_INBOX.a.b`.
    ///
    /// # Errors
    /// If a prefix does not end in a dot, or contains a wildcard, white space or an empty token.
    pub fn new(prefixes: Vec<String>) -> Result<Self, Malformed> {
        for prefix in &prefixes {
            let fits = prefix.strip_suffix('.').is_some_and(is_literal);
            if !fits {
                return Err(Malformed::subject(prefix));
            }
        }
        Ok(Self(prefixes))
    }

    /// Returns the prefixes, each with its final dot.
    pub fn prefixes(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Returns whether the relay may publish to `subject`.
    #[must_use]
    pub fn allows(&self, subject: &str) -> bool {
        is_literal(subject) && self.0.iter().any(|prefix| subject.len() > prefix.len() && subject.starts_with(prefix))
    }
}

impl Default for DeliveryAllow {
    /// Inboxes, and the subjects to which nats-server maps the replies of a cross-account import.
    fn default() -> Self {
        Self(vec!["_INBOX.".to_owned(), "_R_.".to_owned()])
    }
}

/// Returns whether `subject` can be published to: no empty token, wildcard, white space or control character.
#[must_use]
pub fn is_literal(subject: &str) -> bool {
    // Check bytes first: this runs twice for each message, and nearly every subject is ASCII.
    subject.len() <= 1024
        && subject.as_bytes().split(|byte| *byte == b'.').all(|token| !matches!(token, b"" | b"*" | b">"))
        && (subject.bytes().all(|byte| byte.is_ascii_graphic())
            || !subject.chars().any(|c| c.is_whitespace() || c.is_control()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_is_refused_outside_the_inboxes() {
        let allow = DeliveryAllow::default();
        for subject in ["_INBOX.x", "_INBOX.x.1", "_R_.abc"] {
            assert!(allow.allows(subject), "{subject}");
        }
        for subject in [
            "$JS.API.x",
            "gantry.v1.get.x",
            "orders.new",
            "_INBOX.*",
            "_INBOX.>",
            "_INBOX.",
            "_INBOX",
            "_INBOX..a",
            "_INBOX.a b",
            "_INBOXES.a",
            "",
            "_INBOX.a\r\nPUB x",
            "_R_.*",
        ] {
            assert!(!allow.allows(subject), "{subject:?}");
        }
    }

    #[test]
    fn a_control_subject_names_its_transfer() {
        let transfer = TransferId(uuid::Uuid::from_u128(7));
        let subject = Prefix::default().control("abc", transfer);
        assert_eq!(transfer_of_control(&subject), Some(transfer));
        assert_eq!(transfer_of_control("gantry.v1.ctl.abc.x"), None);
    }
}
