//! Establishes a connection: converts the options, tries the servers one after another, and classifies failures.
//!
//! async-nats gets one address at a time, and never reconnects by itself. Its own server selection has four faults: it
//! tries only the first address of a name, checks the certificates of a cluster's members against their IP addresses,
//! reports the kinds of failures without their reasons, and does not stop when the credentials are refused.

use std::error::Error as _;
use std::net::IpAddr;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, ServerAddr, rustls};
use futures_util::future::join_all;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::auth::authenticate;
use super::options::{Auth, OptionKind, Options, without_credentials};
use super::pool::{Pool, Server};
use super::tls;
use crate::Error;
use crate::clock::Clock;

/// Interval of pings on an idle connection. The connection is abandoned at the third ping without an answer, after 30
/// s. This detects a silently cut link, and on a slow link leaves time for a large message ahead of the answers.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Maximum duration of one attempt at one address.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);

/// Minimum duration of one attempt when several addresses share the timeout of the first connection.
const ATTEMPT_MIN: Duration = Duration::from_secs(1);

/// Maximum wait between attempts, before jitter.
const BACKOFF_LIMIT: Duration = Duration::from_secs(2);

/// The wait before the second attempt, before jitter. It doubles with each attempt.
const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// An address without a listener. async-nats tries this address instead of reconnecting, and then gives up.
const NOWHERE: &str = "nats://127.0.0.1:0";

/// An established connection.
pub(super) struct Dialled {
    pub(super) client: Client,
    pub(super) addr: ServerAddr,
}

/// Establishes the first connection. Retries until `connect_timeout` if a server may still appear, and tries every
/// address at least once.
///
/// # Errors
/// - [`Error::Options`] if an option, or a file that it names, is invalid, or if the TLS handshake fails.
/// - [`Error::Unauthorized`] if the server refuses the credentials.
/// - [`Error::Unreachable`] if no server answers.
pub(super) async fn dial_first(
    options: &Options,
    pool: &mut Pool,
    mut finish: impl FnMut(ConnectOptions) -> ConnectOptions,
) -> Result<Dialled, Error> {
    let clock = Clock::start();
    let mut last = match clock.timeout(Duration::MAX, Box::pin(dial(options, pool, &mut finish))).await {
        Some(Err(error @ Error::Unreachable { .. })) => error,
        dialled => return dialled.unwrap_or(Err(Error::Closed)),
    };

    let retries = async {
        for attempt in 2.. {
            tokio::time::sleep(backoff(attempt)).await;
            match dial(options, pool, &mut finish).await {
                Err(error @ Error::Unreachable { .. }) => last = error,
                dialled => return dialled,
            }
        }
        Err(Error::Closed)
    };
    let rest = options.connect_timeout.saturating_sub(clock.now());
    clock.timeout(rest, Box::pin(retries)).await.unwrap_or(Err(last))
}

/// Tries every server once, until one accepts the connection.
///
/// TLS with one server means TLS with all. It is required if one address asks for it. If the first server requests it,
/// the connection is established again with TLS required. Otherwise the user and the password would be sent in plain
/// text to a server that is discovered later.
///
/// # Errors
/// The most significant failure: [`Error::Unauthorized`] or [`Error::Options`] if a server in the options refuses the
/// connection for good, otherwise [`Error::Unreachable`].
pub(super) async fn dial(
    options: &Options,
    pool: &mut Pool,
    finish: &mut impl FnMut(ConnectOptions) -> ConnectOptions,
) -> Result<Dialled, Error> {
    options.check().await?;
    let servers = pool.in_order();
    let attempt_limit = attempt_limit(options, count_addresses(&servers, options.connect_timeout).await);

    let mut failure = None;
    for server in &servers {
        match try_server(options, pool, server, attempt_limit, finish).await {
            Ok(client) => {
                pool.note_success(&server.addr);
                let addr = server.addr.clone();
                return Ok(Dialled { client, addr });
            }
            Err(error) => {
                tracing::debug!(server = server.addr.as_url_str(), %error, "no connection to nats-server");
                pool.note_failure(&server.addr);
                failure = Some(more_significant(failure, error));
            }
        }
    }
    Err(failure.unwrap_or(Error::Closed))
}

/// Counts the addresses of all servers. A name without any counts as one.
async fn count_addresses(servers: &[Server], limit: Duration) -> usize {
    let counts = servers.iter().map(|server| async move {
        if server.addr.host().parse::<IpAddr>().is_ok() {
            return 1;
        }
        match timeout(limit, lookup_host((server.addr.host(), server.addr.port()))).await {
            Ok(Ok(found)) => found.count().max(1),
            Ok(Err(_)) | Err(_) => 1,
        }
    });
    join_all(counts).await.into_iter().sum()
}

/// Returns the time for one attempt, so that all addresses are tried within the timeout of the first connection.
fn attempt_limit(options: &Options, addresses: usize) -> Duration {
    let share = options.connect_timeout / u32::try_from(addresses.max(1)).unwrap_or(u32::MAX);
    let least = ATTEMPT_MIN.min(options.connect_timeout);
    share.max(least).min(ATTEMPT_LIMIT)
}

/// Tries all addresses of one server.
async fn try_server(
    options: &Options,
    pool: &mut Pool,
    server: &Server,
    attempt_limit: Duration,
    finish: &mut impl FnMut(ConnectOptions) -> ConnectOptions,
) -> Result<Client, Error> {
    loop {
        let auth = if options.auth == Auth::None { &pool.url_auth } else { &options.auth };
        let mut prepared = prepare(authenticate(auth).await?, options, attempt_limit).require_tls(pool.needs_tls);
        if pool.needs_tls && server.needs_other_names() {
            prepared = prepared.tls_client_config(tls::config_for_member(options, &pool.hosts()).await?);
        }

        let connected = finish(prepared).connect(server.addr.clone()).await;
        let client = connected.map_err(|error| judge(&error, server, pool))?;
        if client.server_info().tls_required && !pool.needs_tls && !server.addr.is_websocket() {
            pool.needs_tls = true;
            continue;
        }

        // If the connection has already ended, its guard reports it.
        drop(client.set_server_pool(NOWHERE).await);
        return Ok(client);
    }
}

/// Returns the failure that best explains why no connection could be established.
fn more_significant(earlier: Option<Error>, later: Error) -> Error {
    let rank = |error: &Error| match error {
        Error::Unauthorized { .. } => 2,
        Error::Options { .. } => 1,
        Error::Unreachable { .. } | Error::TooLarge { .. } | Error::Subject(_) | Error::Header(_) | Error::Closed => 0,
    };
    match earlier {
        Some(earlier) if rank(&earlier) >= rank(&later) => earlier,
        _ => later,
    }
}

/// Returns the wait before an attempt. The attempts are counted from 1. There is no wait before the first; then it
/// doubles. Jitter reduces it by up to half, so that the clients of a restarted server do not all connect at once.
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

/// Converts the options to async-nats'.
fn prepare(auth: ConnectOptions, options: &Options, attempt_limit: Duration) -> ConnectOptions {
    let mut prepared = auth
        .name(&options.name)
        .custom_inbox_prefix(&options.inbox_prefix)
        .client_capacity(options.queue_messages)
        .subscription_capacity(options.subscription_messages)
        .connection_timeout(attempt_limit)
        .ping_interval(PING_INTERVAL)
        .ignore_discovered_servers()
        // The smallest possible value: see `NOWHERE`.
        .max_reconnects(1);

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

/// Classifies a failure. Only a server in the options can show that a retry is pointless.
fn judge(error: &ConnectError, server: &Server, pool: &Pool) -> Error {
    let servers = pool.names();
    let address = without_credentials(server.addr.as_url_str());
    // async-nats repeats the phrase.
    let is_violation = error.kind() == ConnectErrorKind::AuthorizationViolation;
    let reason = if is_violation { "authorization violation".to_owned() } else { error.to_string() };
    let reason = if servers == address { reason } else { format!("{address}: {reason}") };
    if server.is_discovered {
        return Error::Unreachable { servers, reason };
    }

    if let Some(cause) = tls_error(error) {
        return tls_failed(option_of_tls(cause), &servers, &reason);
    }
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => Error::Unauthorized { servers, reason },
        ConnectErrorKind::Authentication => {
            let reason = format!("the nkey or credentials can't sign for nats-server at {servers}: {reason}");
            Error::option(OptionKind::Credentials, reason)
        }
        ConnectErrorKind::Tls => tls_failed(OptionKind::TlsHandshake, &servers, &reason),
        ConnectErrorKind::ServerParse => {
            let reason = format!("nats-server at {servers} can't be used: {reason}");
            Error::option(OptionKind::Address, reason)
        }
        ConnectErrorKind::Io if refuses_credentials(&reason) => Error::Unauthorized { servers, reason },
        ConnectErrorKind::Io | ConnectErrorKind::Dns | ConnectErrorKind::TimedOut | ConnectErrorKind::MaxReconnects => {
            Error::Unreachable { servers, reason }
        }
    }
}

/// Returns whether a server's message is about the credentials, such as "User Authentication Expired". An
/// "Authentication Timeout" is not: they did not arrive in time, which a slow link or a busy machine can cause.
fn refuses_credentials(reason: &str) -> bool {
    let reason = reason.to_lowercase();
    reason.contains("authentication") && !reason.contains("authentication timeout")
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

/// Returns the option at fault. If the server does not offer TLS at all, its greeting in plain text arrives instead of
/// a handshake.
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

    #[test]
    fn all_addresses_share_the_timeout_of_the_first_connection() {
        let options = Options { connect_timeout: Duration::from_secs(4), ..Options::default() };
        let seconds = |addresses| attempt_limit(&options, addresses).as_secs_f64();
        assert_eq!([seconds(1), seconds(2), seconds(4), seconds(9)], [4.0, 2.0, 1.0, 1.0]);

        let short = Options { connect_timeout: Duration::from_millis(700), ..Options::default() };
        assert_eq!(attempt_limit(&short, 2), Duration::from_millis(700));
        let long = Options { connect_timeout: Duration::from_secs(60), ..Options::default() };
        assert_eq!(attempt_limit(&long, 1), ATTEMPT_LIMIT);
    }
}
