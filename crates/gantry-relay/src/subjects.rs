//! The subjects of one relay.

use uuid::Uuid;

use gantry_proto::subject::{Operation, Prefix};
use gantry_proto::{StoreName, TransferId};

/// The subjects of one relay.
#[derive(Debug)]
pub(crate) struct Subjects {
    prefix: Prefix,
    /// The service id, and a token of every control subject.
    instance: String,
    /// A token of every message's reply subject. It is not published anywhere else.
    secret: String,
}

impl Subjects {
    /// Chooses the tokens of a new relay.
    pub(crate) fn new(prefix: Prefix) -> Self {
        let token = || Uuid::new_v4().simple().to_string();
        Self { prefix, instance: token(), secret: token() }
    }

    pub(crate) const fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// Returns the subject where requests arrive.
    pub(crate) fn request(&self, operation: Operation, store: &StoreName) -> String {
        self.prefix.request(operation, store)
    }

    /// Returns the subject where the consumer of `transfer` sends credit and cancel.
    pub(crate) fn control(&self, transfer: TransferId) -> String {
        self.prefix.control(&self.instance, transfer)
    }

    /// Returns the subject where all control messages of this relay arrive.
    pub(crate) fn controls(&self) -> String {
        self.prefix.controls(&self.instance)
    }

    /// Returns the subject where nats-server reports that nobody receives the messages of `transfer`.
    pub(crate) fn gone(&self, transfer: TransferId) -> String {
        self.prefix.gone(&self.secret, transfer)
    }

    /// Returns the subject where all of nats-server's reports arrive.
    pub(crate) fn all_gone(&self) -> String {
        self.prefix.all_gone(&self.secret)
    }
}
