//! What a request's target names: a store, an object in it, and the parameters of the query.

use std::borrow::Cow;

use hyper::Uri;

use gantry_proto::{Key, StoreName};

use crate::fault::Fault;

/// The maximum number of parameters of a query. S3's requests have a dozen.
const PARAMETERS_MAX: usize = 100;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// All stores: `/`.
    Service,
    /// A store: `/{store}` or `/{store}/`.
    Store(StoreName),
    /// An object: `/{store}/{key}`.
    Object(StoreName, Key),
}

impl Place {
    pub(crate) const fn store(&self) -> Option<&StoreName> {
        match self {
            Self::Service => None,
            Self::Store(name) | Self::Object(name, _) => Some(name),
        }
    }
}

/// The target of a request.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) place: Place,
    pub(crate) query: Query,
    /// The decoded path.
    pub(crate) path: String,
    /// What precedes a key in the path of a link: `/{store}/`, or `/` if the store is in the host's name.
    pub(crate) base: String,
}

impl Target {
    /// Parses a target. `host` is the host's name without a port, and `domain` that below which stores have hosts.
    ///
    /// Each part is decoded exactly once, after the path is split at its first slash.
    ///
    /// # Errors
    /// 400 for a broken escape, text that is not UTF-8, a segment `.` or `..` and an invalid key. 404 for a name that no
    /// store can have.
    pub(crate) fn parse(uri: &Uri, host: Option<&str>, domain: Option<&str>) -> Result<Self, Fault> {
        let raw = uri.path();
        if raw == "*" {
            let (query, path, base) = (Query::default(), raw.to_owned(), "/".to_owned());
            return Ok(Self { place: Place::Service, query, path, base });
        }

        let path = decode(raw).ok_or_else(|| Fault::invalid_uri("the path has an invalid percent escape"))?;
        let query = Query::parse(uri.query().unwrap_or_default())?;

        let rest = raw.strip_prefix('/').ok_or_else(|| Fault::invalid_uri("the path does not begin with a slash"))?;
        let label = domain.and_then(|domain| label_of(host?, domain));

        let (name, raw_key, base) = match label {
            Some(label) => (Cow::Borrowed(label), rest, "/".to_owned()),
            None if rest.is_empty() => {
                return Ok(Self { place: Place::Service, query, path: path.into_owned(), base: "/".to_owned() });
            }
            None => {
                let (name, key) = rest.split_once('/').unwrap_or((rest, ""));
                let name = decode(name).ok_or_else(|| Fault::invalid_uri("the path has an invalid percent escape"))?;
                let base = format!("/{name}/");
                (name, key, base)
            }
        };

        let name = store_name(&name)?;
        let place = if raw_key.is_empty() { Place::Store(name) } else { Place::Object(name, key(raw_key)?) };
        Ok(Self { place, query, path: path.into_owned(), base })
    }
}

/// Returns the part of a host's name before the domain.
fn label_of<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    let at = host.len().checked_sub(domain.len() + 1)?;
    let (label, rest) = host.split_at_checked(at)?;
    (!label.is_empty() && rest.starts_with('.') && rest[1..].eq_ignore_ascii_case(domain)).then_some(label)
}

fn store_name(name: &str) -> Result<StoreName, Fault> {
    // No browser or proxy agrees with another on what these mean.
    if matches!(name, "" | "." | "..") || name.contains(['\0', '\r', '\n', '/', '\\']) {
        return Err(Fault::invalid_uri("the path does not begin with the name of a store"));
    }
    name.parse().map_err(|_| Fault::no_such_store(name))
}

fn key(raw: &str) -> Result<Key, Fault> {
    let text = decode(raw).ok_or_else(|| Fault::invalid_uri("the key has an invalid percent escape"))?;

    // Clients and proxies resolve such segments, encoded or not, so the key that they mean is uncertain.
    if text.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(Fault::invalid_uri("the key has a segment `.` or `..`, which can't be requested over HTTP"));
    }

    let is_long = text.len() > Key::MAX_BYTES;
    text.parse().map_err(|error| {
        let code = if is_long { "KeyTooLongError" } else { "InvalidURI" };
        Fault::new(hyper::StatusCode::BAD_REQUEST, code, format!("{error}"))
    })
}

/// Decodes percent escapes once. Returns `None` for an invalid escape or text that is not UTF-8.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let digits = rest.as_bytes().get(at + 1..at + 3)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        rest = &rest[at + 3..];
    }
    percent_encoding::percent_decode_str(text).decode_utf8().ok()
}

/// The parameters of a query, decoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// # Errors
    /// 400 for a broken escape, text that is not UTF-8, and more than 100 parameters.
    fn parse(raw: &str) -> Result<Self, Fault> {
        let mut parameters = Vec::new();
        for parameter in raw.split('&').filter(|parameter| !parameter.is_empty()) {
            if parameters.len() == PARAMETERS_MAX {
                return Err(Fault::invalid_uri(format!("the query has more than {PARAMETERS_MAX} parameters")));
            }

            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let pair = decode_form(name).zip(decode_form(value));
            parameters.push(pair.ok_or_else(|| Fault::invalid_uri("the query has an invalid percent escape"))?);
        }
        Ok(Self(parameters))
    }

    /// Returns the first value of a parameter.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns a parameter that is a number.
    ///
    /// # Errors
    /// 400 if it is not a number of 64 bits.
    pub(crate) fn number(&self, name: &'static str) -> Result<Option<u64>, Fault> {
        let Some(text) = self.value(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| is_number);
        number.map(Some).ok_or_else(|| Fault::invalid_argument(format!("`{name}` must be a number")))
    }
}

/// Decodes text of a query, in which `+` is a space.
fn decode_form(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    Some(decode(&spaced)?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(target: &str) -> Result<Place, Fault> {
        Target::parse(&target.parse().unwrap(), Some("models.s3.test"), None).map(|target| target.place)
    }

    fn object(key: &str) -> Place {
        Place::Object("models".parse().unwrap(), key.parse().unwrap())
    }

    #[test]
    fn paths_are_decoded_exactly_once() {
        for (target, key) in [
            ("/models/a/b.bin", "a/b.bin"),
            ("/models/a%2Fb", "a/b"),
            ("/models/a%252Fb", "a%2Fb"),
            ("/models/%25", "%"),
            ("/models/a+b%20c", "a+b c"),
            ("/models//a//", "/a//"),
            ("/models/%C3%A9", "é"),
            ("/models/é", "é"),
            ("/%6dodels/a", "a"),
            ("/models/a...b/..c", "a...b/..c"),
            ("/models/a?b=c", "a"),
            ("http://other/models/a", "a"),
        ] {
            assert_eq!(parse(target).unwrap(), object(key), "{target}");
        }
        assert_eq!(parse("/").unwrap(), Place::Service);
        for target in ["/models", "/models/", "/models?list-type=2"] {
            assert_eq!(parse(target).unwrap(), Place::Store("models".parse().unwrap()), "{target}");
        }
    }

    #[test]
    fn invalid_paths_name_nothing() {
        let long = format!("/models/{}", "a".repeat(1025));
        for target in [
            "//a",
            "/models/..",
            "/models/../a",
            "/models/a/%2e%2E/b",
            "/models/.",
            "/models/a%00b",
            "/models/a%0Ab",
            "/models/%",
            "/models/%2",
            "/models/%zz",
            "/models/%ff",
            "/../a",
            "/%2e%2e/a",
            "/models%2Fa",
            "/a%00/b",
            "/no.store/a",
            "/models/a?x=%",
            long.as_str(),
        ] {
            assert!(parse(target).is_err(), "{target}");
        }
    }

    #[test]
    fn a_host_below_the_domain_is_a_store() {
        let at = |host, path: &str| {
            Target::parse(&path.parse().unwrap(), Some(host), Some("s3.test")).map(|target| target.place)
        };
        assert_eq!(at("models.s3.test", "/a/b").unwrap(), object("a/b"));
        assert_eq!(at("models.S3.test", "/").unwrap(), Place::Store("models".parse().unwrap()));
        assert_eq!(at("s3.test", "/models/a").unwrap(), object("a"));
        assert_eq!(at("xs3.test", "/models/a").unwrap(), object("a"));
        assert_eq!(at(".s3.test", "/models/a").unwrap(), object("a"));
        assert!(at("a.b.s3.test", "/a").is_err());
    }
}
