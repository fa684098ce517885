//! Controls what a panic inside async-nats prints.

use std::panic;

/// Keeps panics of async-nats' own tasks out of the output of the whole process. Any client can cause one with a lone CR in
/// a header value. The bus reports the lost connection and replaces it. Other panics are printed as before.
pub fn quieten_panics() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if info.location().is_some_and(|location| is_in_async_nats(location.file())) {
            tracing::debug!(panic = %info, "a connection of async-nats has died");
        } else {
            report(info);
        }
    }));
}

fn is_in_async_nats(file: &str) -> bool {
    file.split(['/', '\\']).any(|part| part.starts_with("async-nats-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_panics_of_async_nats() {
        assert!(is_in_async_nats("/registry/src/index/async-nats-0.51.0/src/header.rs"));
        assert!(!is_in_async_nats("src/nats/link.rs"));
    }
}
