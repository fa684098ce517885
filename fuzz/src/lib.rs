//! Feeds arbitrary bytes to everything that a peer or a file can feed us.
//!
//! A target takes bytes, never fails on them, and panics if our code does or breaks one of its promises. Each has its
//! folder in `corpus/` with inputs to begin with.

mod gantry;
mod machine;
mod runtime;
mod targets;

/// One entrance for arbitrary bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also of its folder in `corpus/`.
    pub name: &'static str,
    /// Takes the bytes.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "addresses", run: targets::addresses::run },
    Target { name: "check", run: targets::check::run },
    Target { name: "client", run: targets::client::run },
    Target { name: "config", run: targets::config::run },
    Target { name: "context", run: targets::context::run },
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

/// Returns the target of this name.
#[must_use]
pub fn find(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.name == name)
}
