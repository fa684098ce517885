//! The names of the headers that carry a trace.

/// The names of the headers, which are lower-case on NATS as well.
pub const NAMES: [&str; 2] = ["traceparent", "tracestate"];
