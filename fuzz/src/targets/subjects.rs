//! Subjects, prefixes and the delivery allow-list: no allowed subject is outside the list, and subjects built from
//! checked parts are valid.

use crate::gantry::{DeliveryAllow, Operation, Prefix, StoreName, subject};

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('|');
    let (first, second) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());

    for allow in [Ok(DeliveryAllow::default()), DeliveryAllow::new(vec![second.to_owned()])].into_iter().flatten() {
        if allow.allows(first) {
            assert!(subject::is_literal(first));
            assert!(!first.contains([' ', '\t', '\r', '\n', '\0']) && !first.split('.').any(str::is_empty));
            assert!(allow.prefixes().any(|prefix| first.starts_with(prefix) && first.len() > prefix.len()));
            assert!(allow.prefixes().all(|prefix| prefix.ends_with('.') && !has_wildcard(prefix)));
        }
    }
    if let (Ok(prefix), Ok(store)) = (Prefix::new(first), second.parse::<StoreName>()) {
        for operation in Operation::ALL {
            let request = prefix.request(operation, &store);
            assert!(subject::is_literal(&request) && !has_wildcard(&request), "{request:?}");
        }
    }
    if let Some(transfer) = subject::transfer_of_control(first) {
        assert!(first.ends_with(&transfer.to_string()) || first.rsplit('.').next().is_some_and(|id| id.len() >= 32));
    }
}

/// Returns whether nats-server would treat the subject as a pattern: a wildcard is a token of its own.
fn has_wildcard(subject: &str) -> bool {
    subject.split('.').any(|token| token == "*" || token == ">")
}
