//! The proxies that the environment names.

use std::error::Error as StdError;

use hyper_util::client::proxy::matcher::Intercept;
use rustls::Error as TlsError;

use super::failure::{Broken, innermost, links};

impl Broken {
    /// Blames a proxy for a failure, unless TLS with the server behind it failed. `is_tls` concerns that server.
    pub(super) fn blame(
        error: Box<dyn StdError + Send + Sync>,
        proxy: &Intercept,
        is_tls: bool,
    ) -> Box<dyn StdError + Send + Sync> {
        if links(&*error).any(|link| link.is::<TlsError>()) {
            return error;
        }
        Box::new(Self { proxy: described(proxy, is_tls), cause: innermost(&*error) })
    }

    /// Rejects a proxy of a kind that is not supported.
    pub(super) fn check(proxy: &Intercept, is_tls: bool) -> Result<(), Self> {
        let scheme = proxy.uri().scheme_str().unwrap_or_default();
        if !scheme.starts_with("socks") {
            return Ok(());
        }
        let cause = "SOCKS is not supported, only http:// and https://".to_owned();
        Err(Self { proxy: described(proxy, is_tls), cause })
    }
}

/// Names a proxy without its password, and the variable that names it.
fn described(proxy: &Intercept, is_tls: bool) -> String {
    let url = proxy.uri();
    let port = url.port_u16().map_or_else(String::new, |port| format!(":{port}"));
    let variable = variable(is_tls).map_or_else(String::new, |name| format!(" of {name}"));
    format!("{}{port}{variable}", url.host().unwrap_or_default())
}

/// Returns the variable that names the proxy for servers with or without TLS, if one is set.
#[must_use]
pub fn variable(is_tls: bool) -> Option<&'static str> {
    let own = if is_tls { ["HTTPS_PROXY", "https_proxy"] } else { ["HTTP_PROXY", "http_proxy"] };
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    own.into_iter().chain(["ALL_PROXY", "all_proxy"]).find(is_set)
}
