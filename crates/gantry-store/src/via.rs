//! The relays that the current request has passed.
//!
//! A front states them around its work on a request, and an upstream store passes them on. They belong to the task, since
//! the decorators in between need not know of them. A read that several requests share states those of one of them.

use gantry_proto::Via;

tokio::task_local! {
    static VIA: Via;
}

/// Runs work for a request that has passed these relays.
pub async fn scope<T>(via: Via, work: impl Future<Output = T>) -> T {
    VIA.scope(via, work).await
}

/// Returns the relays that the current request has passed; none outside of [`scope`].
#[must_use]
pub fn current() -> Via {
    VIA.try_with(Clone::clone).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_path_belongs_to_one_request() {
        let one = scope(Via::default().and("a"), async { current().to_string() });
        let other = scope(Via::default().and("b"), async { current().to_string() });

        assert_eq!(tokio::join!(one, other), ("a".to_owned(), "b".to_owned()));
        assert!(current().is_empty());
    }
}
