//! The text that is signed. Source: the S3 API reference, "Create a canonical request".

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{EMPTY_SHA256, Signed, UNSIGNED, sha256};

/// The characters without an escape in a query.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The characters without an escape in a path.
const PATH: &AsciiSet = &QUERY.remove(b'/');

pub(super) struct Canonical<'a> {
    pub(super) request: &'a Signed<'a>,
    pub(super) signed_headers: &'a [String],
    pub(super) is_query: bool,
}

impl Canonical<'_> {
    /// Returns the hash of the canonical request.
    pub(super) fn hash(&self) -> String {
        sha256(&self.text())
    }

    pub(super) fn text(&self) -> String {
        let path = utf8_percent_encode(self.request.path, PATH);
        let headers: String =
            self.signed_headers.iter().map(|name| format!("{name}:{}\n", self.header(name))).collect();

        format!(
            "{}\n{path}\n{}\n{headers}\n{}\n{}",
            self.request.method,
            self.query(),
            self.signed_headers.join(";"),
            self.payload(),
        )
    }

    fn query(&self) -> String {
        let encode = |text| utf8_percent_encode(text, QUERY).to_string();
        let mut pairs: Vec<_> = self
            .request
            .query
            .pairs()
            .filter(|(name, _)| !self.is_query || *name != "X-Amz-Signature")
            .map(|(name, value)| (encode(name), encode(value)))
            .collect();
        pairs.sort();

        let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("&")
    }

    /// Returns the values of a header, with single spaces only.
    fn header(&self, name: &str) -> String {
        let values = self.request.headers.get_all(name).iter().map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
        });
        values.collect::<Vec<_>>().join(",")
    }

    fn payload(&self) -> &str {
        let stated = self.request.headers.get("x-amz-content-sha256").and_then(|value| value.to_str().ok());
        match stated {
            Some(stated) => stated,
            None if self.is_query => UNSIGNED,
            None => EMPTY_SHA256,
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        hex.push_str(&format!("{byte:02x}"));
        hex
    })
}
