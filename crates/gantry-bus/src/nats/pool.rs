//! The servers that a bus may connect to: those in the options, and the other members of their cluster.

use std::net::IpAddr;

use async_nats::ServerAddr;

use super::options::{Auth, OptionKind, Options, without_credentials};
use crate::Error;

/// The maximum number of remembered cluster members. Anyone on the path may change an unencrypted message that names
/// them.
const DISCOVERED_MAX: usize = 64;

/// The servers that a bus may connect to, and the options of the connection.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    servers: Vec<Server>,
    /// The user information of the first address that has any.
    pub(super) url_auth: Auth,
    /// Whether a connection without TLS must be refused. TLS with one server means TLS with all.
    pub(super) needs_tls: bool,
}

/// A server in a [`Pool`].
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) addr: ServerAddr,
    /// Whether another server has named it.
    pub(super) is_discovered: bool,
    /// The number of successive failed attempts.
    failures: u32,
}

impl Pool {
    /// Parses the addresses in the options.
    pub(super) fn new(options: &Options) -> Result<Self, Error> {
        let mut servers = Vec::new();
        let mut url_auth = Auth::None;
        for address in options.addresses() {
            let (addr, auth) = parse(address)?;
            if url_auth == Auth::None {
                url_auth = auth;
            }
            servers.push(Server { addr, is_discovered: false, failures: 0 });
        }

        let needs_tls = options.needs_tls() || servers.iter().any(|server| uses_tls(&server.addr));
        if needs_tls && let Some(plain) = servers.iter().find(|server| server.addr.scheme() == "ws") {
            let reason = "TLS is required, so use wss:// instead of ws://";
            return Err(unusable(plain.addr.as_url_str(), reason));
        }
        Ok(Self { servers, url_auth, needs_tls })
    }

    /// Returns the addresses in the options, without credentials.
    pub(super) fn names(&self) -> String {
        let names: Vec<_> = self.configured().map(|addr| without_credentials(addr.as_url_str())).collect();
        names.join(",")
    }

    /// Returns the hosts in the options. A certificate for one of them is valid for every member of the cluster.
    pub(super) fn hosts(&self) -> Vec<String> {
        self.configured().map(|addr| addr.host().to_owned()).collect()
    }

    fn configured(&self) -> impl Iterator<Item = &ServerAddr> {
        self.servers.iter().filter(|server| !server.is_discovered).map(|server| &server.addr)
    }

    /// Returns the servers in the order in which to try them: those with the fewest failures first, then those in the
    /// options, otherwise in random order.
    pub(super) fn in_order(&self) -> Vec<Server> {
        let mut servers: Vec<_> = self.servers.iter().map(|server| (uuid::Uuid::new_v4(), server)).collect();
        servers.sort_by_key(|(random, server)| (server.failures, server.is_discovered, *random));
        servers.into_iter().map(|(_, server)| server.clone()).collect()
    }

    /// Records that a server could not be reached, or is about to close.
    pub(super) fn note_failure(&mut self, addr: &ServerAddr) {
        for server in self.servers.iter_mut().filter(|server| server.addr == *addr) {
            server.failures = server.failures.saturating_add(1);
        }
    }

    /// Records a connection to a server.
    pub(super) fn note_success(&mut self, addr: &ServerAddr) {
        for server in self.servers.iter_mut().filter(|server| server.addr == *addr) {
            server.failures = 0;
        }
    }

    /// Returns whether there is another server than this one.
    pub(super) fn has_other_than(&self, addr: &ServerAddr) -> bool {
        self.servers.iter().any(|server| server.addr != *addr)
    }

    /// Replaces the discovered servers by `members`, each a host and a port, which the server at `by` has named.
    pub(super) fn discover(&mut self, by: &ServerAddr, members: &[String]) {
        let earlier: Vec<_> = self.servers.extract_if(.., |server| server.is_discovered).collect();
        for addr in members.iter().take(DISCOVERED_MAX).filter_map(|member| member_addr(by, member)) {
            if self.servers.iter().any(|server| is_same(&server.addr, &addr)) {
                continue;
            }
            let failures = earlier.iter().find(|server| server.addr == addr).map_or(0, |server| server.failures);
            self.servers.push(Server { addr, is_discovered: true, failures });
        }
    }
}

impl Server {
    /// Returns whether the server's certificate is likely to be for another name: nats-server names the members of its
    /// cluster by their IP addresses.
    pub(super) fn needs_other_names(&self) -> bool {
        self.is_discovered && self.addr.host().parse::<IpAddr>().is_ok()
    }
}

/// Returns whether connections to this address always use TLS.
pub(super) fn uses_tls(addr: &ServerAddr) -> bool {
    addr.tls_required() || addr.scheme() == "wss"
}

fn is_same(one: &ServerAddr, other: &ServerAddr) -> bool {
    one.host() == other.host() && one.port() == other.port() && one.is_websocket() == other.is_websocket()
}

/// Returns the address of a cluster member that the server at `by` has named.
///
/// A server may name others with any scheme. It does so before TLS starts, when anyone on the path may change the
/// message. async-nats would send the user and the password in plain text to a server with `ws://`, even if TLS is
/// required.
fn member_addr(by: &ServerAddr, member: &str) -> Option<ServerAddr> {
    if by.is_websocket() {
        let host = Some(member).filter(|member| !member.contains("://"))?;
        let addr: ServerAddr = format!("{}://{host}", by.scheme()).parse().ok()?;
        return (!addr.has_user_pass() && !addr.host().is_empty()).then_some(addr);
    }

    let addr: ServerAddr = member.parse().ok()?;
    (!addr.is_websocket() && !addr.has_user_pass() && !addr.host().is_empty()).then_some(addr)
}

/// Parses an address, and separates the user information from it.
fn parse(address: &str) -> Result<(ServerAddr, Auth), Error> {
    let addr: ServerAddr = address.parse().map_err(|error: std::io::Error| unusable(address, &error.to_string()))?;
    if addr.host().is_empty() {
        return Err(unusable(address, "it has no host"));
    }

    let auth = match (addr.username(), addr.password()) {
        (Some(user), Some(password)) => {
            Auth::UserPassword { user: percent_decoded(user), password: percent_decoded(password) }
        }
        (Some(token), None) => Auth::Token(percent_decoded(token)),
        (None, _) => Auth::None,
    };

    let mut url = addr.into_inner();
    if url.set_username("").and_then(|()| url.set_password(None)).is_err() {
        return Err(unusable(address, "it can't contain a user"));
    }
    let addr = ServerAddr::from_url(url).map_err(|error| unusable(address, &error.to_string()))?;
    Ok((addr, auth))
}

fn unusable(address: &str, reason: &str) -> Error {
    let address = without_credentials(address);
    Error::option(OptionKind::Address, format!("nats-server address {address:?} is unusable: {reason}"))
}

/// Decodes the percent encoding of a URL's user information. Invalid parts stay unchanged.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, encoded)) = rest.split_once('%') {
        bytes.extend_from_slice(plain.as_bytes());
        let byte = encoded.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(b'%'));
        rest = if byte.is_some() { encoded.get(2..).unwrap_or("") } else { encoded };
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(servers: &str) -> Options {
        Options { servers: vec![servers.to_owned()], ..Options::default() }
    }

    fn pool(servers: &str) -> Pool {
        Pool::new(&of(servers)).unwrap()
    }

    fn urls(pool: &Pool) -> Vec<&str> {
        pool.servers.iter().map(|server| server.addr.as_url_str()).collect()
    }

    fn discovered(by: &str, members: &[&str]) -> Vec<String> {
        let mut pool = pool(by);
        let by = pool.servers[0].addr.clone();
        pool.discover(&by, &members.iter().map(|member| (*member).to_owned()).collect::<Vec<_>>());
        urls(&pool)[1..].iter().map(|url| (*url).to_owned()).collect()
    }

    #[test]
    fn user_information_is_separated_from_the_address() {
        let pool = pool("localhost, nats://us%40er:p%3Ass%@[::1]:1,tls://c");
        assert_eq!(urls(&pool), ["nats://localhost", "nats://[::1]:1", "tls://c"]);
        assert_eq!(pool.url_auth, Auth::UserPassword { user: "us@er".to_owned(), password: "p:ss%".to_owned() });
        assert_eq!(Pool::new(&of("nats://tok@a")).unwrap().url_auth, Auth::Token("tok".to_owned()));
    }

    #[test]
    fn errors_about_invalid_addresses_contain_no_password() {
        for address in ["http://u:s3cret@a", "nats://u:s3cret@a:port", "nats://", "wss://b,ws://u:s3cret@a"] {
            let Err(Error::Options { reason, .. }) = Pool::new(&of(address)) else { panic!("{address} was accepted") };
            assert!(!reason.contains("s3cret"), "{reason}");
        }
    }

    #[test]
    fn tls_with_one_server_means_tls_with_all() {
        assert!(!pool("a,ws://b").needs_tls);
        assert!(pool("a,tls://b").needs_tls);
        assert!(pool("a,wss://b").needs_tls);
        for options in [of("tls://a,ws://b"), Options { tls_required: true, ..of("ws://b") }] {
            let refused = Pool::new(&options);
            assert!(matches!(&refused, Err(Error::Options { reason, .. }) if reason.contains("wss://")), "{refused:?}");
        }
    }

    #[test]
    fn members_are_dialled_like_the_server_that_named_them() {
        assert_eq!(discovered("a", &["a:4222", "1.2.3.4:4222"]), ["nats://1.2.3.4:4222"]);
        assert_eq!(discovered("tls://a", &["ws://b", "nats://u:p@c", "[::1]:5"]), ["nats://[::1]:5"]);
        assert_eq!(discovered("wss://a", &["1.2.3.4:443", "ws://b:80", "nats://c"]), ["wss://1.2.3.4/"]);
    }

    #[test]
    fn members_that_left_the_cluster_are_forgotten() {
        let mut pool = pool("a");
        let by = pool.servers[0].addr.clone();
        pool.discover(&by, &["b:1".to_owned(), "c:1".to_owned()]);
        pool.discover(&by, &["c:1".to_owned(), "d:1".to_owned()]);
        assert_eq!(urls(&pool), ["nats://a", "nats://c:1", "nats://d:1"]);
    }

    #[test]
    fn servers_that_failed_are_tried_last() {
        let mut pool = pool("a,b");
        let by = pool.servers[0].addr.clone();
        pool.discover(&by, &["c:1".to_owned()]);
        pool.note_failure(&by);
        let order: Vec<_> = pool.in_order().iter().map(|server| server.addr.as_url_str().to_owned()).collect();
        assert_eq!(order, ["nats://b", "nats://c:1", "nats://a"]);

        pool.note_success(&by);
        assert_eq!(pool.in_order()[2].addr.as_url_str(), "nats://c:1");
    }
}
