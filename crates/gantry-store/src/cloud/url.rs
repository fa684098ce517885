//! Writes URLs.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{Error, endpoint};

/// Characters that are encoded in a query: all but the unreserved ones of RFC 3986, section 2.3.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Characters that are encoded in a path. The slash separates its segments.
const IN_PATH: &AsciiSet = &IN_QUERY.remove(b'/');

/// Returns the path of an object in a URL. Returns `None` if no URL can name it.
///
/// Software on the way removes segments `.` and `..`. The slashes of such a name are therefore encoded, so that it is
/// one segment.
pub(crate) fn encoded(name: &str) -> Option<String> {
    if matches!(name, "." | "..") {
        return None;
    }

    let has_dots = name.split('/').any(|segment| matches!(segment, "." | ".."));
    Some(utf8_percent_encode(name, if has_dots { IN_QUERY } else { IN_PATH }).to_string())
}

/// Returns a text that is encoded as in a query.
pub(crate) fn encoded_text(text: &str) -> String {
    utf8_percent_encode(text, IN_QUERY).to_string()
}

/// The query of a URL.
#[derive(Debug, Default)]
pub(crate) struct Query(String);

impl Query {
    /// Adds a parameter.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(name);
        self.0.push('=');
        self.0.extend(utf8_percent_encode(value, IN_QUERY));
        self
    }

    /// Adds a parameter, if it has a value.
    #[must_use]
    pub(crate) fn with_some(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Appends the query to a URL without one.
    pub(crate) fn append_to(self, url: String) -> String {
        url + &self.0
    }
}

/// Returns the address of a server without its final slash.
///
/// # Errors
/// [`Error::Invalid`] if it is not an `http://` or `https://` URL with a host and without credentials.
pub(crate) fn check_endpoint(url: &str) -> Result<String, Error> {
    check_address(url).map_err(|problem| Error::Invalid(format!("the endpoint URL {problem}")))?;
    Ok(url.trim_end_matches('/').to_owned())
}

/// Checks the address of a server, which has neither credentials nor options.
///
/// # Errors
/// If it is not valid. The error describes a valid address.
pub(crate) fn check_address(url: &str) -> Result<(), String> {
    if url.contains(['@', '?', '#']) {
        return Err("must begin with http:// or https:// and name a host, without credentials and options".to_owned());
    }
    endpoint::check(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_own_path() {
        for (name, path) in [
            ("a/b c.txt", Some("a/b%20c.txt")),
            ("a//b", Some("a//b")),
            ("/a/", Some("/a/")),
            ("100%/%20?x=1#f", Some("100%25/%2520%3Fx%3D1%23f")),
            ("a+b&c=d;e", Some("a%2Bb%26c%3Dd%3Be")),
            ("grüße", Some("gr%C3%BC%C3%9Fe")),
            ("a/../b", Some("a%2F..%2Fb")),
            ("./b", Some(".%2Fb")),
            ("a...b", Some("a...b")),
            ("..", None),
        ] {
            assert_eq!(encoded(name).as_deref(), path, "{name}");
        }
    }

    #[test]
    fn a_query_is_encoded() {
        let query = Query::default().with("prefix", "a b/ü+&").with_some("token", None).with("n", "1");
        assert_eq!(query.append_to("http://h/b".to_owned()), "http://h/b?prefix=a%20b%2F%C3%BC%2B%26&n=1");
        assert_eq!(Query::default().append_to("http://h/b".to_owned()), "http://h/b");
    }

    #[test]
    fn endpoints_are_checked() {
        assert_eq!(check_endpoint("http://127.0.0.1:4443/x/").unwrap(), "http://127.0.0.1:4443/x");
        for url in [
            "",
            "h",
            "ftp://h",
            "https://",
            "http://u:p@h",
            "https://h?sig=x",
            "https://h#x",
            "http://a b",
            "http://h:x",
        ] {
            assert!(matches!(check_endpoint(url), Err(Error::Invalid(_))), "{url}");
        }
    }
}
