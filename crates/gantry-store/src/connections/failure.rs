//! Classifies failed connections.

use std::error::Error as StdError;
use std::io;

use rustls::{CertificateError, InvalidMessage};

use crate::ranged::{About, Failure, Retry, excerpt};
use crate::{Error, UnavailableKind};

/// Maximum number of lines of a cause in a message. The AWS SDK looks for credentials in fewer places.
const CAUSE_MAX_LINES: usize = 10;

/// Classifies a failed connection to a service of this name.
pub(crate) fn unreachable<C>(error: &(dyn StdError + 'static), about: &About, service: &str) -> Failure<C> {
    let cause = innermost(error);
    let failed = |kind, text: &str| Error::unavailable_because(kind, about.with_cause(text, &cause));

    match links(error).find_map(|link| link.downcast_ref::<rustls::Error>()) {
        // The signature is bad if another authority of the same name is trusted.
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            let text = format!("the relay does not trust the authority that issued the certificate of {service}");
            Failure::is_final(failed(UnavailableKind::UnknownAuthority, &text))
        }
        Some(rustls::Error::InvalidCertificate(_)) => Failure::is_final(failed(
            UnavailableKind::InvalidCertificate,
            &format!("the certificate of {service} is not valid"),
        )),
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            let text = format!("can't reach {service}");
            Failure { error: failed(UnavailableKind::TlsNotOffered, &text), retry: Retry::Later }
        }
        Some(_) | None => {
            let text = format!("can't reach {service}");
            Failure { error: failed(UnavailableKind::Other, &text), retry: Retry::Later }
        }
    }
}

/// Returns the first cause in a chain of errors, on one line. The outer errors only state that something failed.
pub(crate) fn innermost(error: &(dyn StdError + 'static)) -> String {
    one_line(&links(error).last().map_or_else(String::new, ToString::to_string))
}

/// Joins the first lines of a text, which may be an answer of a store. The AWS SDK writes one line for each place where
/// it looked for credentials.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.take(CAUSE_MAX_LINES).map(excerpt).collect::<Vec<_>>().join("; ")
}

/// Iterates over an error and its causes. An [`io::Error`] returns the source of the error in it, and not that error.
pub(crate) fn links<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&link| match link.downcast_ref::<io::Error>() {
        Some(outer) => outer.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
        None => link.source(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_of_several_lines_becomes_one_bounded_line() {
        assert_eq!(
            one_line("no provider:\n  environment: unset\n\n  profile: none\n"),
            "no provider:; environment: unset; profile: none"
        );
        assert_eq!(one_line("connection refused"), "connection refused");
        assert!(one_line(&"a long line\n".repeat(1000)).len() < 200);
        assert!(one_line(&"x".repeat(1_000_000)).len() < 200);
    }
}
