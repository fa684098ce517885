//! The addresses of servers of objects.

use hyper::Uri;
use url::{ParseError, Url};

const FORM: &str = "must begin with http:// or https:// and name a host";
const PORT: &str = "must have a port from 1 to 65535";

/// Checks that an address is a URL with a host and a valid port. Two parsers must accept it: that of the connections,
/// and that of Azure's signatures, which panics for addresses that it rejects.
///
/// # Errors
/// If it is not. The error describes a valid address, and contains no part of this one.
pub fn check(address: &str) -> Result<(), String> {
    let rest = address.strip_prefix("http://").or_else(|| address.strip_prefix("https://"));
    if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with(['/', '\\'])) {
        return Err(FORM.to_owned());
    }

    let url = Url::parse(address).map_err(|error| {
        if error == ParseError::InvalidPort {
            PORT.to_owned()
        } else if error == ParseError::EmptyHost {
            FORM.to_owned()
        } else {
            format!("must name a valid host: {error}")
        }
    })?;
    if url.port() == Some(0) {
        return Err(PORT.to_owned());
    }
    address.parse::<Uri>().map(drop).map_err(|_| "must contain only characters that URLs permit".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_with_a_valid_host_and_port_are_accepted() {
        for address in
            ["http://127.0.0.1:10000/acct", "https://a.blob.core.windows.net", "http://[::1]:9/x", "http://minio"]
        {
            assert_eq!(check(address), Ok(()), "{address}");
        }
        for (address, problem) in [
            ("http://127.0.0.1:99999/acct", PORT),
            ("http://127.0.0.1:x/acct", PORT),
            ("http://127.0.0.1:0", PORT),
            ("http://:9/acct", FORM),
            ("http:///c", FORM),
            ("minio:9000", FORM),
            ("http://1.2.3.999/acct", "must name a valid host: invalid IPv4 address"),
            ("http://xn--/acct", "must name a valid host: invalid international domain name"),
            ("http://[::1/acct", "must name a valid host: invalid IPv6 address"),
            ("http://exa<mple:9", "must name a valid host: "),
            ("http://%41:9/acct", "must contain only characters that URLs permit"),
        ] {
            let error = check(address).unwrap_err();
            assert!(error.starts_with(problem), "{address}: {error}");
        }
    }
}
