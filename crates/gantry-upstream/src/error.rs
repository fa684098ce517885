//! Converts the client's errors to those of a store.

use gantry_client::{Cause, Code, Error, WireError};
use gantry_store as store;
use gantry_store::UnavailableKind;

/// Returns the store's error for an error of the client.
///
/// The client has used up its retries, so an error that may pass is [`store::Error::Unavailable`].
pub(crate) fn of_client(error: &Error) -> store::Error {
    match error {
        Error::Refused(refusal) | Error::GaveUp { cause: Cause::Refused(refusal), .. } => of_relay(refusal),
        Error::NoStore { .. } => store::Error::NoBucket(error.to_string()),
        Error::Changed(message) => store::Error::Changed(message.clone()),
        Error::NotPermitted { .. } => store::Error::Denied(error.to_string()),
        Error::Address(_) => store::Error::Invalid(error.to_string()),
        Error::Mismatch(_) | Error::Malformed(_) => store::Error::Protocol(error.to_string()),
        Error::NoRelay { .. }
        | Error::StoreLeft(_)
        | Error::Unanswered { .. }
        | Error::GaveUp { .. }
        | Error::Bus(_)
        | Error::Cancelled
        // A store writes no files. The client may gain errors.
        | Error::Part(_)
        | _ => store::Error::unavailable(error.to_string()),
    }
}

/// Returns the store's error for a relay's refusal. A range that starts past the end becomes [`store::Error::Invalid`],
/// since the refusal does not contain the size as a number.
fn of_relay(refusal: &WireError) -> store::Error {
    let message = refusal.message.clone();

    match refusal.code {
        Code::NotFound => store::Error::NotFound(message),
        Code::Denied => store::Error::Denied(message),
        Code::Changed => store::Error::Changed(message),
        Code::BadRequest | Code::Range => store::Error::Invalid(message),
        Code::StoreUnavailable if !refusal.retryable => store::Error::Protocol(message),
        Code::Idle | Code::Ended | Code::Busy | Code::StoreUnavailable | Code::Draining | Code::Internal => {
            let retry_after = refusal.retry_after();
            let needs_operator = refusal.needs_operator.unwrap_or_default();
            let kind = if needs_operator { UnavailableKind::Upstream } else { UnavailableKind::Other };
            store::Error::Unavailable { kind, message, retry_after }
        }
    }
}

/// Returns whether the range of a request starts past the object's end.
pub(crate) fn is_past_the_end(error: &Error) -> bool {
    matches!(error, Error::Refused(refusal) if refusal.code == Code::Range)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn refusals_keep_their_code() {
        for code in Code::ALL {
            let converted = of_client(&Error::Refused(WireError::new(code, "m")));

            let expected = match code {
                Code::Range => Code::BadRequest,
                Code::Idle | Code::Ended | Code::Busy | Code::Draining | Code::Internal => Code::StoreUnavailable,
                Code::BadRequest | Code::Denied | Code::NotFound | Code::Changed | Code::StoreUnavailable => code,
            };
            assert_eq!((converted.code(), converted.is_retryable()), (expected, code.is_retryable()), "{code}");
        }
    }

    #[test]
    fn a_busy_relay_states_how_long_to_wait() {
        let busy = WireError::new(Code::Busy, "m").with_retry_after_ms(700);

        let converted = of_client(&Error::GaveUp { cause: Cause::Refused(busy), requests: 3 });

        let store::Error::Unavailable { retry_after, .. } = converted else { panic!("{converted:?}") };
        assert_eq!(retry_after, Some(Duration::from_millis(700)));
    }

    #[test]
    fn the_need_for_an_operator_is_passed_on() {
        let refused = WireError { needs_operator: Some(true), ..WireError::new(Code::StoreUnavailable, "m") };

        let converted = of_client(&Error::GaveUp { cause: Cause::Refused(refused), requests: 3 });

        assert_eq!(converted.to_wire().needs_operator, Some(true));
    }

    #[test]
    fn a_missing_store_is_no_bucket_and_a_missing_relay_may_return() {
        let store: gantry_client::StoreName = "s".parse().unwrap();
        let no_store = Error::NoStore { store: store.clone(), stores: Vec::new() };
        let no_relay = Error::NoRelay { prefix: String::new(), server: String::new() };

        assert!(matches!(of_client(&no_store), store::Error::NoBucket(_)));
        assert!(of_client(&no_relay).is_retryable() && of_client(&Error::StoreLeft(store)).is_retryable());
    }

    #[test]
    fn invalid_answers_are_final() {
        let invalid = WireError { retryable: false, ..WireError::new(Code::StoreUnavailable, "m") };

        for error in [Error::Refused(invalid), Error::Malformed(String::new())] {
            assert!(matches!(of_client(&error), store::Error::Protocol(_)), "{error:?}");
        }
    }
}
