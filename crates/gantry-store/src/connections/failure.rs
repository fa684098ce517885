//! Classifies failed connections.

use std::error::Error as StdError;
use std::io;

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, InvalidMessage};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ranged::{About, Failure, Retry, excerpt};
use crate::{Error, UnavailableKind};

/// Maximum number of lines of a cause in a message. The AWS SDK looks for credentials in fewer places.
const CAUSE_MAX_LINES: usize = 10;

/// Why no connection can be established through a proxy. It contains no password of the proxy.
#[derive(Debug, thiserror::Error)]
#[error("the proxy {proxy}: {cause}")]
pub(super) struct Broken {
    pub(super) proxy: String,
    pub(super) cause: String,
}

/// Classifies a failed connection to a service of this name.
pub(crate) fn unreachable<C>(error: &(dyn StdError + 'static), about: &About, service: &str) -> Failure<C> {
    if let Some(cause) = wrong_time(error) {
        let text = format!("by the relay's clock, the certificate of {service} is not valid now");
        let message = about.with_cause(&text, &cause);
        return Failure::is_final(Error::unavailable_because(UnavailableKind::CertificateTime, message));
    }

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
            let is_of_proxy = links(error).any(|link| link.is::<Broken>());
            let kind = if is_of_proxy { UnavailableKind::Proxy } else { UnavailableKind::Other };
            Failure { error: failed(kind, &format!("can't reach {service}")), retry: Retry::Later }
        }
    }
}

/// Describes a certificate that is not valid at the time of this machine's clock. Returns `None` for other problems.
fn wrong_time(error: &(dyn StdError + 'static)) -> Option<String> {
    let invalid = links(error).find_map(|link| match link.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(error)) => Some(error),
        Some(_) | None => None,
    });

    #[expect(clippy::wildcard_enum_match_arm, reason = "all other problems have nothing to do with the time")]
    match invalid? {
        CertificateError::ExpiredContext { time, not_after } => {
            Some(format!("it expired at {}, and the clock shows {}", shown(*not_after), shown(*time)))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            Some(format!("it is valid from {}, and the clock shows {}", shown(*not_before), shown(*time)))
        }
        CertificateError::Expired => Some("it has expired".to_owned()),
        CertificateError::NotValidYet => Some("it is not valid yet".to_owned()),
        _ => None,
    }
}

fn shown(time: UnixTime) -> String {
    let time = i64::try_from(time.as_secs()).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

/// Returns the first cause in a chain of errors, on one line. The outer errors only state that something failed.
pub(crate) fn innermost(error: &(dyn StdError + 'static)) -> String {
    if let Some(problem) = wrong_time(error) {
        return format!("by the relay's clock, the certificate is not valid now: {problem}");
    }
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

    /// A failed handshake, as hyper's connector returns it.
    fn failed(error: CertificateError) -> io::Error {
        io::Error::other(rustls::Error::InvalidCertificate(error))
    }

    #[test]
    fn a_certificate_at_the_wrong_time_is_reported_with_the_clock() {
        let at = |secs| UnixTime::since_unix_epoch(std::time::Duration::from_secs(secs));
        let (early, late) = (at(0), at(1_800_000_000));
        for (error, expected) in [
            (
                CertificateError::NotValidYetContext { time: early, not_before: late },
                "it is valid from 2027-01-15T08:00:00Z, and the clock shows 1970-01-01T00:00:00Z",
            ),
            (
                CertificateError::ExpiredContext { time: late, not_after: early },
                "it expired at 1970-01-01T00:00:00Z, and the clock shows 2027-01-15T08:00:00Z",
            ),
            (CertificateError::Expired, "it has expired"),
            (CertificateError::NotValidYet, "it is not valid yet"),
        ] {
            let error = failed(error);
            assert!(innermost(&error).ends_with(expected) && innermost(&error).contains("clock"), "{error}");

            let operator = About::Operator("bucket \"b\"".to_owned());
            let failure: Failure<()> = unreachable(&error, &operator, "S3");
            let Error::Unavailable { kind, message, .. } = failure.error else { panic!("{error}") };
            assert_eq!((kind, failure.retry), (UnavailableKind::CertificateTime, Retry::Never));
            let text = "bucket \"b\": by the relay's clock, the certificate of S3 is not valid now: ";
            assert_eq!(message, format!("{text}{expected}"));
        }

        let other: Failure<()> =
            unreachable(&failed(CertificateError::NotValidForName), &About::Operator(String::new()), "S3");
        assert!(matches!(other.error, Error::Unavailable { kind: UnavailableKind::InvalidCertificate, .. }));
    }

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
