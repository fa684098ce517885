//! The label sets of metrics.

use prometheus_client::encoding::EncodeLabelSet;

/// Identifies a store. The configuration bounds its values.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StoreLabel {
    /// The store's name.
    pub store: String,
}

/// Identifies a store and the outcome of a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// The store's name.
    pub store: String,
    /// `completed`, `cancelled`, `consumer_gone`, `drained`, `aborted`, or a wire code.
    pub outcome: &'static str,
}

/// Identifies a store and what its transfers wait for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WaitLabel {
    /// The store's name.
    pub store: String,
    /// `store`, `bus`, `credit` or `limits`.
    pub cause: &'static str,
}

/// Identifies a request to a relay and its result.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabel {
    /// `get`, `stat` or `list`.
    pub operation: &'static str,
    /// The store's name.
    pub store: String,
    /// `ok` or a wire code.
    pub result: &'static str,
}

/// Identifies one of the relay's connections to NATS.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConnectionLabel {
    /// `requests` or `data`.
    pub connection: &'static str,
}

/// Identifies the reason of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// `reply_subject`, `control`, or a wire code.
    pub reason: &'static str,
}

/// Identifies an action that nats-server denied.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ActionLabel {
    /// `publish` or `subscribe`.
    pub action: &'static str,
}

/// Identifies a result.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabel {
    /// `ok` or `failed`.
    pub result: &'static str,
}

/// Identifies a store and how a request found its object's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SharedLabel {
    /// The store's name.
    pub store: String,
    /// `hit`, `join`, `miss` or `stale`.
    pub result: &'static str,
}

/// Identifies a kind of request to S3.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct S3Label {
    /// The store's name.
    pub store: String,
    /// `get`, `head`, `list`, `probe`, `attributes` or `part`.
    pub operation: &'static str,
}

/// Identifies a kind of request to S3 and its result.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct S3ResultLabel {
    /// The store's name.
    pub store: String,
    /// `get`, `head`, `list`, `probe`, `attributes` or `part`.
    pub operation: &'static str,
    /// `ok`, a wire code, or `abandoned`.
    pub result: &'static str,
}
