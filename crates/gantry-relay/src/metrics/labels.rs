//! What the series of a metric are told apart by.

use prometheus_client::encoding::EncodeLabelSet;

/// A store. Bounded by the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StoreLabel {
    /// The store's name.
    pub store: String,
}

/// A store and how a transfer from it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// The store's name.
    pub store: String,
    /// `completed`, `cancelled`, `consumer_gone`, `drained`, `aborted`, or a wire code.
    pub outcome: &'static str,
}

/// What was asked of a relay, and the answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabel {
    /// `get`, `stat` or `list`.
    pub operation: &'static str,
    /// The store's name.
    pub store: String,
    /// `ok` or a wire code.
    pub result: &'static str,
}

/// One of the relay's connections to NATS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConnectionLabel {
    /// `requests` or `data`.
    pub connection: &'static str,
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// `reply_subject`, `control`, or a wire code.
    pub reason: &'static str,
}

/// What the relay may not do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ActionLabel {
    /// `publish` or `subscribe`.
    pub action: &'static str,
}

/// How something went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabel {
    /// `ok` or `failed`.
    pub result: &'static str,
}

/// A request to S3.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct S3Label {
    /// The store's name.
    pub store: String,
    /// `get`, `head`, `list`, `probe`, `attributes` or `part`.
    pub operation: &'static str,
}

/// A request to S3 and its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct S3ResultLabel {
    /// The store's name.
    pub store: String,
    /// `get`, `head`, `list`, `probe`, `attributes` or `part`.
    pub operation: &'static str,
    /// `ok`, a wire code, or `abandoned`.
    pub result: &'static str,
}
