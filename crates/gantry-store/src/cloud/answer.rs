//! Answers that report an error.

use std::time::SystemTime;

use hyper::body::Incoming;
use hyper::{HeaderMap, Response, StatusCode};

use super::header;
use super::xml::{self, Element};
use crate::ranged::{About, excerpt};
use http_body_util::{BodyExt as _, Limited};

/// Maximum length of an error, in bytes. The clouds' have less than 2 KiB, but the pages of gateways are longer.
const ERROR_MAX_BYTES: usize = 256 * 1024;

/// The subject of a request. It decides what some answers mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// An object.
    Object {
        /// The request is for the version with an `ETag`. If there is no object, it was deleted.
        is_pinned: bool,
        /// The request names a version.
        has_version: bool,
    },
    /// A listing.
    Listing,
}

/// An error of a cloud. It has neither code nor message if it has no body.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) about: &'a About,
    pub(crate) subject: Subject,
    /// The bucket or container. A consumer must not learn its name.
    pub(crate) place: &'a str,
    document: Option<Element>,
}

impl<'a> Answer<'a> {
    /// Reads an answer with a status of failure.
    pub(super) async fn read(response: Response<Incoming>, about: &'a About, subject: Subject, place: &'a str) -> Self {
        let (head, body) = response.into_parts();
        // Without the body, the status decides.
        let body = Limited::new(body, ERROR_MAX_BYTES).collect().await.map(http_body_util::Collected::to_bytes);
        let document = body.ok().and_then(|body| xml::parse(&body).ok());
        Self { status: head.status, headers: head.headers, about, subject, place, document }
    }

    #[cfg(test)]
    pub(crate) fn of_parts(status: u16, headers: HeaderMap, body: &str, about: &'a About, subject: Subject) -> Self {
        let document = xml::parse(body.as_bytes()).ok();
        Self { status: status.try_into().unwrap(), headers, about, subject, place: "place", document }
    }

    /// Returns the cloud's code of the error. Azure sends it in a header, too, which an answer to a HEAD has.
    pub(crate) fn code(&self) -> &str {
        header(&self.headers, "x-ms-error-code").or_else(|| self.text("Code")).unwrap_or_default()
    }

    /// Returns the time of the cloud's clock.
    pub(crate) fn date(&self) -> Option<SystemTime> {
        header(&self.headers, "date").and_then(|text| httpdate::parse_http_date(text).ok())
    }

    /// Returns a text in the body.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.document.as_ref()?.text_of(name).map(str::trim).filter(|text| !text.is_empty())
    }

    /// Returns the status and the code.
    pub(crate) fn label(&self) -> String {
        match self.code() {
            "" => self.status.as_u16().to_string(),
            code => format!("{} {}", self.status.as_u16(), excerpt(code)),
        }
    }

    /// Returns the status, the code, and the first line of the cloud's message, unless the message repeats the request's
    /// credentials, or goes to a consumer and names a place.
    pub(crate) fn reason(&self) -> String {
        let is_for_consumer = matches!(self.about, About::Consumer(_));
        let names_place = |text: &str| [self.place, "://", "@"].iter().any(|part| text.contains(part));

        let said = self.text("Details").or_else(|| self.text("Message")).and_then(|text| text.lines().next());
        let said = said.filter(|text| !(repeats_credentials(text) || is_for_consumer && names_place(text)));
        said.map_or_else(|| self.label(), |text| format!("{}: {}", self.label(), excerpt(text)))
    }

    /// Returns whether the answer is a web page, so that it does not come from the cloud.
    pub(super) fn is_page(&self) -> bool {
        let media_type = header(&self.headers, "content-type").and_then(|text| text.split(';').next());
        media_type.is_some_and(|name| name.trim().eq_ignore_ascii_case("text/html"))
    }
}

/// Returns whether a message contains a signature or a header with credentials, as those of some proxies do.
fn repeats_credentials(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["sig=", "signature=", "bearer ", "sharedkey "].iter().any(|mark| text.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_repeats_credentials_is_recognised() {
        for text in ["/c?sv=1&sig=hush", "X-Goog-Signature=hush", "token Bearer hush", "SharedKey acct:hush"] {
            assert!(repeats_credentials(text), "{text}");
        }
        assert!(!repeats_credentials("Make sure that the Authorization header includes the signature."));
    }
}
