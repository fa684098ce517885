//! From configuration to connections: NATS and the stores.

use std::sync::Arc;

use super::exit::{Exit, Failure};
use crate::bus::Bus;
use crate::bus::nats;
use crate::config::{Auth, Nats, SecretSource};

/// Connects to NATS.
pub(super) async fn nats(config: &Nats) -> Result<Arc<dyn Bus>, Failure> {
    let bus = nats::connect(options(config)?).await?;
    Ok(bus)
}

fn options(config: &Nats) -> Result<nats::Options, Failure> {
    let (tls_cert, tls_key) = config.tls_client.clone().unzip();
    Ok(nats::Options {
        servers: config.servers.iter().map(|server| server.expose().to_owned()).collect(),
        name: config.connection_name.clone(),
        auth: auth(&config.auth)?,
        tls_ca: config.tls_ca_file.clone(),
        tls_cert,
        tls_key,
        tls_required: config.tls_required,
        tls_first: config.tls_first,
        inbox_prefix: config.inbox_prefix.clone(),
        connect_timeout: config.connect_timeout,
        ..nats::Options::default()
    })
}

fn auth(auth: &Auth) -> Result<nats::Auth, Failure> {
    Ok(match auth {
        Auth::None => nats::Auth::None,
        Auth::UserPassword { user, password } => {
            nats::Auth::UserPassword { user: user.clone(), password: read("nats.password_file", password)? }
        }
        Auth::Token(token) => nats::Auth::Token(read("nats.token_file", token)?),
        Auth::Credentials(path) => nats::Auth::Credentials(path.clone()),
        Auth::Nkey(path) => nats::Auth::Nkey(path.clone()),
    })
}

fn read(key: &str, secret: &SecretSource) -> Result<String, Failure> {
    let secret = secret.read().map_err(|error| Failure::new(Exit::Usage, format!("`{key}`: {error}")))?;
    Ok(secret.expose().to_owned())
}
