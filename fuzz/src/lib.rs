//! Feeds arbitrary bytes to every function that handles input from a peer or a file.
//!
//! A target accepts any bytes. It panics if the code under test panics or violates an invariant. Each target has a
//! folder in `corpus/` with initial inputs.

mod gantry;
mod machine;
mod runtime;
mod targets;

/// One entry point for arbitrary bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The target's name, which is also the name of its folder in `corpus/`.
    pub name: &'static str,
    /// Runs the target on the bytes.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "addresses", run: targets::addresses::run },
    Target { name: "check", run: targets::check::run },
    Target { name: "client", run: targets::client::run },
    Target { name: "config", run: targets::config::run },
    Target { name: "context", run: targets::context::run },
    Target { name: "http", run: targets::http::run },
    Target { name: "identity", run: targets::identity::run },
    Target { name: "list", run: targets::list::run },
    Target { name: "messages", run: targets::messages::run },
    Target { name: "part", run: targets::part::run },
    Target { name: "printable", run: targets::printable::run },
    Target { name: "receiver", run: targets::receiver::run },
    Target { name: "relay", run: targets::relay::run },
    Target { name: "requests", run: targets::requests::run },
    Target { name: "s3", run: targets::s3::run },
    Target { name: "sender", run: targets::sender::run },
    Target { name: "subjects", run: targets::subjects::run },
    Target { name: "trace", run: targets::trace::run },
    Target { name: "verify", run: targets::verify::run },
];

/// Returns the target with this name.
#[must_use]
pub fn find(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.name == name)
}
