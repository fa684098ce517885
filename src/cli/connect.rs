//! From configuration to connections: NATS and the stores.

use std::sync::Arc;

use super::exit::Failure;
use crate::config::{Auth, Nats, SecretSource};
use gantry_bus::nats;
use gantry_bus::{self as bus, Bus};
use gantry_relay::Buses;

/// Connects to NATS.
pub(super) async fn nats(config: &Nats) -> Result<Arc<dyn Bus>, Failure> {
    Ok(try_nats(config).await?)
}

/// Connects to NATS, and says what went wrong as the bus does.
pub(super) async fn try_nats(config: &Nats) -> Result<Arc<dyn Bus>, bus::Error> {
    let bus = nats::connect(options(config)).await?;
    Ok(bus)
}

/// Makes the two connections of a relay, named so that `nats server report connections` shows which is which.
pub(super) async fn try_buses(config: &Nats) -> Result<Buses, bus::Error> {
    let named = |connection: &str| {
        let name = format!("{} {connection}", config.connection_name);
        Box::pin(nats::connect(nats::Options { name, ..options(config) }))
    };
    let (requests, data) = tokio::try_join!(named("requests"), named("data"))?;
    Ok(Buses { requests, data })
}

fn options(config: &Nats) -> nats::Options {
    let (tls_cert, tls_key) = config.tls_client.clone().unzip();
    nats::Options {
        servers: config.servers.iter().map(|server| server.expose().to_owned()).collect(),
        name: config.connection_name.clone(),
        auth: auth(&config.auth),
        tls_ca: config.tls_ca_file.clone(),
        tls_cert,
        tls_key,
        tls_required: config.tls_required,
        tls_first: config.tls_first,
        ignore_discovered_servers: config.ignore_discovered_servers,
        inbox_prefix: config.inbox_prefix.clone(),
        connect_timeout: config.connect_timeout,
        ..nats::Options::default()
    }
}

fn auth(auth: &Auth) -> nats::Auth {
    match auth {
        Auth::None => nats::Auth::None,
        Auth::UserPassword { user, password } => match password {
            SecretSource::Inline(password) => {
                nats::Auth::UserPassword { user: user.clone(), password: password.expose().to_owned() }
            }
            SecretSource::File(password) => {
                nats::Auth::UserPasswordFile { user: user.clone(), password: password.clone() }
            }
        },
        Auth::Token(SecretSource::Inline(token)) => nats::Auth::Token(token.expose().to_owned()),
        Auth::Token(SecretSource::File(token)) => nats::Auth::TokenFile(token.clone()),
        Auth::Credentials(path) => nats::Auth::Credentials(path.clone()),
        Auth::Nkey(path) => nats::Auth::Nkey(path.clone()),
    }
}
