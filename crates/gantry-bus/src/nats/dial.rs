//! Makes a connection: converts the options, retries, and classifies failures.

use std::error::Error as _;
use std::time::Duration;

use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, ReconnectToServer, Server, ServerAddr, rustls,
};

use super::auth::authenticate;
use super::options::{Auth, OptionKind, Options, without_credentials};
use crate::Error;

/// Interval of pings on an idle connection. The connection is abandoned at the third ping without an answer, after 30 s.
/// So a silently cut link is noticed, and on a slow link a large message ahead of the answers has time to pass.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Maximum duration of one attempt at one address, including reconnects.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);

/// Minimum duration of one attempt when several addresses share the timeout of the first connection.
const ATTEMPT_MIN: Duration = Duration::from_secs(1);

/// Maximum wait between attempts, before jitter.
const BACKOFF_LIMIT: Duration = Duration::from_secs(2);

/// The wait before the second attempt, before jitter. It doubles with each attempt.
const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Makes a connection, and retries until `connect_timeout` if the server may still appear.
///
/// `discovered` are servers of the cluster that an earlier connection has discovered. Returns the connection, and whether
/// it uses TLS. TLS with one server means TLS with all. It is required if one address asks for it. If the first server
/// requests it, the connection is made again with TLS required. Otherwise the user and the password would be sent in plain
/// text to a server that is discovered later.
///
/// # Errors
/// - [`Error::Options`] if an option, or a file that it names, is invalid, or if the TLS handshake fails.
/// - [`Error::Unauthorized`] if the server refuses the credentials.
/// - [`Error::Unreachable`] if no server answers within `connect_timeout`.
pub(super) async fn dial(
    options: &Options,
    discovered: &[String],
    mut finish: impl FnMut(ConnectOptions) -> ConnectOptions,
) -> Result<(Client, bool), Error> {
    options.check().await?;
    let (mut servers, url_auth) = parse(options)?;
    let auth = if options.auth == Auth::None { url_auth } else { options.auth.clone() };
    let mut needs_tls = options.needs_tls() || servers.iter().any(ServerAddr::tls_required);
    let names = servers.iter().map(|server| without_credentials(server.as_url_str())).collect::<Vec<_>>().join(",");
    servers.extend(discovered.iter().filter_map(|address| discovered_server(address)));

    let share = options.connect_timeout / u32::try_from(servers.len()).unwrap_or(u32::MAX);
    let attempt_limit = share.max(ATTEMPT_MIN).min(ATTEMPT_LIMIT);

    let mut last = None;
    let attempts = async {
        for attempt in 1.. {
            let prepared = prepare(authenticate(&auth).await?, options, attempt_limit).require_tls(needs_tls);
            match finish(prepared).connect(servers.as_slice()).await {
                Ok(client) if !needs_tls && client.server_info().tls_required => {
                    needs_tls = true;
                    continue;
                }
                Ok(client) => return Ok((client, needs_tls)),
                Err(error) => {
                    last = Some(judge(&error, &names)?);
                    tracing::debug!(attempt, %error, servers = names, "no connection to nats-server yet");
                }
            }
            tokio::time::sleep(backoff(attempt + 1)).await;
        }
        Err(Error::Closed)
    };

    if let Ok(outcome) = tokio::time::timeout(options.connect_timeout, attempts).await {
        return outcome;
    }
    let reason = last.unwrap_or_else(|| format!("no answer within {:?}", options.connect_timeout));
    Err(Error::Unreachable { servers: names, reason })
}

/// Parses the address of a cluster member as nats-server reports it: a host and a port.
fn discovered_server(address: &str) -> Option<ServerAddr> {
    let server: ServerAddr = address.parse().ok()?;
    (!server.is_websocket() && !server.has_user_pass()).then_some(server)
}

/// Returns the server to connect to, or `None` to leave the choice to async-nats.
///
/// A server may report others with any scheme, and it does so before TLS starts, when anyone on the path may change the
/// message. async-nats would send the user and the password in plain text to a server with `ws://`, even if TLS is
/// required.
fn choose(pool: &[Server]) -> Option<ReconnectToServer> {
    if !pool.iter().any(|server| server.addr.is_websocket()) {
        return None;
    }
    let usable = pool.iter().filter(|server| !server.addr.is_websocket());
    let addr = usable.min_by_key(|server| server.failed_attempts)?.addr.clone();
    Some(ReconnectToServer { addr, delay: None })
}

/// Returns the wait before an attempt, counted from 1. There is none before the first; then it doubles. Jitter reduces it
/// by up to half, so that the clients of a restarted server do not all connect at once.
pub(super) fn backoff(attempt: usize) -> Duration {
    let Some(doublings) = attempt.checked_sub(2) else { return Duration::ZERO };
    let doublings = u32::try_from(doublings).unwrap_or(u32::MAX);
    let due = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(doublings)).min(BACKOFF_LIMIT);
    due.mul_f64(0.5 + jitter() / 2.0)
}

/// Returns a random number from 0 to 1.
fn jitter() -> f64 {
    let (_, bits) = uuid::Uuid::new_v4().as_u64_pair();
    f64::from(u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

/// Parses the addresses, and separates the user information from them.
fn parse(options: &Options) -> Result<(Vec<ServerAddr>, Auth), Error> {
    let mut servers = Vec::new();
    let mut auth = Auth::None;
    for address in options.addresses() {
        let unusable = |reason: &str| {
            let address = without_credentials(address);
            Error::option(OptionKind::Address, format!("nats-server address {address:?} is unusable: {reason}"))
        };
        let server: ServerAddr = address.parse().map_err(|error: std::io::Error| unusable(&error.to_string()))?;
        if server.is_websocket() {
            return Err(unusable("WebSocket is not supported"));
        }
        if server.host().is_empty() {
            return Err(unusable("it has no host"));
        }

        if auth == Auth::None {
            auth = match (server.username(), server.password()) {
                (Some(user), Some(password)) => {
                    Auth::UserPassword { user: percent_decoded(user), password: percent_decoded(password) }
                }
                (Some(token), None) => Auth::Token(percent_decoded(token)),
                (None, _) => Auth::None,
            };
        }

        let mut url = server.into_inner();
        if url.set_username("").and_then(|()| url.set_password(None)).is_err() {
            return Err(unusable("it can't hold a user"));
        }
        servers.push(ServerAddr::from_url(url).map_err(|error| unusable(&error.to_string()))?);
    }
    Ok((servers, auth))
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

/// Converts our options to async-nats'.
fn prepare(auth: ConnectOptions, options: &Options, attempt_limit: Duration) -> ConnectOptions {
    let mut prepared = auth
        .name(&options.name)
        .custom_inbox_prefix(&options.inbox_prefix)
        .client_capacity(options.queue_messages)
        .subscription_capacity(options.subscription_messages)
        .connection_timeout(attempt_limit)
        .ping_interval(PING_INTERVAL)
        .reconnect_delay_callback(backoff)
        .reconnect_to_server_callback(|pool, _| std::future::ready(choose(&pool)))
        .max_reconnects(None);

    if options.ignore_discovered_servers {
        prepared = prepared.ignore_discovered_servers();
    }
    if options.tls_first {
        prepared = prepared.tls_first();
    }
    if let Some(path) = &options.tls_ca {
        prepared = prepared.add_root_certificates(path.clone());
    }
    if let (Some(cert), Some(key)) = (&options.tls_cert, &options.tls_key) {
        prepared = prepared.add_client_certificate(cert.clone(), key.clone());
    }
    prepared
}

/// Classifies a failure. Returns an error if retrying is pointless, and the reason if a retry may help.
fn judge(error: &ConnectError, servers: &str) -> Result<String, Error> {
    let reason = error.to_string();
    if let Some(cause) = tls_error(error) {
        return Err(tls_failed(option_of_tls(cause), servers, &reason));
    }

    let refused = || Error::Unauthorized { servers: servers.to_owned(), reason: reason.clone() };
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => Err(refused()),
        ConnectErrorKind::Authentication => {
            let reason = format!("the nkey or credentials can't sign for nats-server at {servers}: {reason}");
            Err(Error::option(OptionKind::Credentials, reason))
        }
        ConnectErrorKind::Tls => Err(tls_failed(OptionKind::TlsHandshake, servers, &reason)),
        ConnectErrorKind::ServerParse => {
            let reason = format!("nats-server at {servers} can't be used: {reason}");
            Err(Error::option(OptionKind::Address, reason))
        }
        // The server's messages for expired credentials, such as "User Authentication Expired".
        ConnectErrorKind::Io if reason.to_lowercase().contains("authentication") => Err(refused()),
        ConnectErrorKind::Io | ConnectErrorKind::Dns | ConnectErrorKind::TimedOut | ConnectErrorKind::MaxReconnects => {
            Ok(reason)
        }
    }
}

fn tls_failed(option: OptionKind, servers: &str, reason: &str) -> Error {
    Error::option(option, format!("TLS with nats-server at {servers} failed: {reason}"))
}

/// Returns why the TLS handshake failed, which async-nats reports like any other I/O error.
fn tls_error(error: &ConnectError) -> Option<&rustls::Error> {
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let inner = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(found) = error.downcast_ref::<rustls::Error>().or(inner) {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// Returns whether the server does not offer TLS at all: then its greeting in plain text arrives instead of a handshake.
fn option_of_tls(error: &rustls::Error) -> OptionKind {
    if matches!(error, rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) {
        OptionKind::TlsNotOffered
    } else {
        OptionKind::TlsHandshake
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(servers: &str) -> Options {
        Options { servers: vec![servers.to_owned()], ..Options::default() }
    }

    #[test]
    fn user_information_is_separated_from_the_address() {
        let (servers, auth) = parse(&of("localhost, nats://us%40er:p%3Ass%@[::1]:1,tls://c")).unwrap();
        let urls: Vec<_> = servers.iter().map(ServerAddr::as_url_str).collect();
        assert_eq!(urls, ["nats://localhost", "nats://[::1]:1", "tls://c"]);
        assert_eq!(auth, Auth::UserPassword { user: "us@er".to_owned(), password: "p:ss%".to_owned() });
        assert_eq!(parse(&of("nats://tok@a")).unwrap().1, Auth::Token("tok".to_owned()));
    }

    #[test]
    fn errors_about_invalid_addresses_contain_no_password() {
        for address in ["http://u:s3cret@a", "ws://u:s3cret@a", "nats://u:s3cret@a:port", "nats://"] {
            let Err(Error::Options { reason, .. }) = parse(&of(address)) else { panic!("{address} was accepted") };
            assert!(!reason.contains("s3cret"), "{reason}");
        }
    }

    #[test]
    fn backoff_grows_to_its_limit_with_jitter() {
        assert_eq!(backoff(1), Duration::ZERO);
        for (attempt, limit) in
            [(2, BACKOFF_MIN), (4, BACKOFF_MIN * 4), (20, BACKOFF_LIMIT), (usize::MAX, BACKOFF_LIMIT)]
        {
            let wait = backoff(attempt);
            assert!(wait >= limit / 2 && wait <= limit, "attempt {attempt} waits {wait:?}");
        }
    }
}
