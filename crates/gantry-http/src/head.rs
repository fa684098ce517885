//! What the head of a request says, apart from its target.

use std::time::Duration;

use hyper::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TE, TRANSFER_ENCODING};
use hyper::http::uri::{Authority, PathAndQuery};
use hyper::{Method, Version};

use gantry_proto::{Headers, StoreName};
use percent_encoding::percent_decode_str;

use crate::fault::Fault;
use crate::listener::Peer;
use crate::observe::Finished;

/// The maximum number of headers of a request. More are answered with 431.
pub(crate) const HEADERS_MAX: usize = 100;

/// The longest value of a trace header that is passed on. Source: W3C Trace Context, section 3.3.
const TRACE_MAX_BYTES: usize = 512;

/// The ports of a host that is named without one.
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// Returns the host's name, without a port. `None` for HTTP/1.0 without one.
///
/// # Errors
/// 400 if a request of HTTP/1.1 does not have exactly one `Host`, if one of HTTP/2 has neither `:authority` nor `Host`,
/// if the target has a user or another scheme than HTTP's, and if the target and `Host` name different hosts. Source: RFC
/// 9110, section 4.2.4, RFC 9112, section 3.2, and RFC 9113, section 8.3.1.
pub(crate) fn host(uri: &hyper::Uri, headers: &HeaderMap, version: Version) -> Result<Option<String>, Fault> {
    if uri
        .scheme_str()
        .is_some_and(|scheme| !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https"))
    {
        return Err(Fault::invalid_request("the request's target has another scheme than http or https"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Fault::invalid_request("the request's target contains a user"));
    }

    let mut values = headers.get_all(HOST).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(Fault::invalid_request("the request has more than one Host header"));
    }

    if value.is_none() && version >= Version::HTTP_11 {
        return Err(Fault::invalid_request("the request has no Host header"));
    }
    // The store may depend on the target's host, and a signature covers the header.
    if let (Some(authority), Some(value)) = (uri.authority(), value)
        && !is_same_host(authority, value, default_port(uri))
    {
        let target = if version == Version::HTTP_2 { ":authority" } else { "target" };
        return Err(Fault::invalid_request(format!("the request's {target} and Host differ, or are invalid")));
    }

    if let Some(host) = uri.host() {
        return Ok(Some(host.to_owned()));
    }
    let Some(value) = value else { return Ok(None) };

    let authority = value.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
    match authority {
        Some(authority) if !authority.as_str().contains('@') => Ok(Some(authority.host().to_owned())),
        _ if value.is_empty() => Ok(None),
        Some(_) | None => Err(Fault::invalid_request("the Host header is invalid")),
    }
}

fn default_port(uri: &hyper::Uri) -> u16 {
    if uri.scheme_str() == Some("http") { HTTP_PORT } else { HTTPS_PORT }
}

/// Returns whether a `Host` header means the same as the authority of a target.
fn is_same_host(authority: &Authority, host: &HeaderValue, default_port: u16) -> bool {
    let Some(host) = host.to_str().ok().and_then(|text| text.parse::<Authority>().ok()) else { return false };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default_port);

    let has_user = authority.as_str().contains('@') || host.as_str().contains('@');
    !has_user && host.host().eq_ignore_ascii_case(authority.host()) && port(&host) == port(authority)
}

/// Returns whether the headers announce a body. hyper removes `Content-Length` where both are given.
pub(crate) fn has_body(headers: &HeaderMap) -> bool {
    let is_empty = |value: &HeaderValue| value.as_bytes() == b"0";
    headers.contains_key(TRANSFER_ENCODING) || headers.get_all(CONTENT_LENGTH).iter().any(|value| !is_empty(value))
}

/// Source: RFC 9110, section 10.1.4.
pub(crate) fn accepts_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(TE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|list| list.split(',')).any(|item| item.trim().eq_ignore_ascii_case("trailers"))
}

/// Returns the headers of a trace.
pub(crate) fn trace(headers: &HeaderMap) -> Headers {
    let mut trace = Headers::default();
    for name in ["traceparent", "tracestate"] {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(value) = value.filter(|value| value.len() <= TRACE_MAX_BYTES) {
            trace.push(name, value);
        }
    }
    trace
}

pub(crate) fn finished(
    method: &Method,
    uri: &hyper::Uri,
    version: Version,
    headers: &HeaderMap,
    peer: Peer,
    store: Option<&StoreName>,
) -> Finished {
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    Finished {
        peer,
        method: method.to_string(),
        target: without_signature(uri.path_and_query().map_or("", PathAndQuery::as_str)),
        version: match version {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2.0",
            _ => "HTTP/1.1",
        },
        store: store.map(|store| store.as_str().to_owned()),
        access_key: None,
        user_agent: text(hyper::header::USER_AGENT),
        referer: text(hyper::header::REFERER).map(|referer| without_signature(&referer)),
        status: 0,
        bytes: 0,
        first_byte: Duration::ZERO,
        duration: Duration::ZERO,
        proof: None,
        aborted: None,
    }
}

/// Returns an address without what would let others repeat a presigned request.
fn without_signature(address: &str) -> String {
    let Some((path, query)) = address.split_once('?') else { return address.to_owned() };
    let is_secret = |parameter: &&str| {
        let name = parameter.split('=').next().unwrap_or_default();
        let name = percent_decode_str(name).decode_utf8_lossy();
        ["X-Amz-Signature", "X-Amz-Security-Token", "Signature"].iter().any(|secret| name.eq_ignore_ascii_case(secret))
    };

    let kept: Vec<_> = query.split('&').filter(|parameter| !is_secret(parameter)).collect();
    format!("{path}?{}", kept.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_reported_without_its_signature() {
        for (address, reported) in [
            ("/a", "/a"),
            ("/a?b=c&d", "/a?b=c&d"),
            ("/a?X-Amz-Signature=s&b=c", "/a?b=c"),
            ("/a?b=c&x-amz-signature=s", "/a?b=c"),
            ("/a?X%2DAmz%2dSignature=s&b=c&X-Amz-Securit%79-Token=t", "/a?b=c"),
            ("https://h/a?Signatur%65=s&b=%20", "https://h/a?b=%20"),
        ] {
            assert_eq!(without_signature(address), reported, "{address}");
        }
    }
}
