//! Builds the options of stores that other relays serve.

use gantry_proto::StoreName;
use gantry_proto::subject::Prefix;

use super::Build;
use crate::config::error::Problem;
use crate::config::layer::DEFAULTS;
use crate::config::{Settings, Uplink, UplinkKeys, address, keys};

impl Build {
    pub(super) fn uplink(&mut self, name: &StoreName, store: StoreName, settings: &Settings) -> Option<Uplink> {
        let keys = settings.uplinks.stores.get(name)?.nats.clone()?;
        self.report_circle(name, &store, &keys, settings);

        let section = format!("stores.{name}.nats");
        let mut nats = self.nats(&section, keys.nats);
        if self.origin(&format!("{section}.connection_name")) == DEFAULTS {
            nats.name = format!("{} upstream of {name}", nats.name);
        }
        let prefix = Prefix::new(keys.prefix).unwrap_or_default();
        Some(Uplink { store, prefix, nats })
    }

    /// Reports a store whose upstream relay would be this one.
    fn report_circle(&mut self, name: &StoreName, store: &StoreName, keys: &UplinkKeys, settings: &Settings) {
        let own = &settings.sections.nats;
        let shares_server = servers(&keys.nats).iter().any(|server| servers(own).contains(server));
        let is_own =
            shares_server && credentials(&keys.nats) == credentials(own) && keys.prefix == settings.root.prefix;
        if !is_own || name != store {
            return;
        }

        let url = format!("stores.{name}.url");
        let cure = format!(
            "would ask this relay itself, which serves {store} on the same server with the same prefix: set \
             `stores.{name}.nats.url` or `stores.{name}.nats_context` to the upstream server, or \
             `stores.{name}.nats.prefix`"
        );
        self.value(&url, &format!("nats:{store}"), cure);
    }

    /// Reports keys of an upstream connection on a store of another kind.
    pub(super) fn report_uplink_keys(&mut self, name: &StoreName) {
        let section = format!("stores.{name}.nats.");
        let set = self.origins.iter().filter(|(key, origin)| key.starts_with(&section) && *origin != DEFAULTS);
        let url = format!("stores.{name}.url");
        let url = format!("`{url}` ({})", self.origin(&url));

        let conflicts = set.map(|(key, place)| Problem::Conflict {
            keys: format!("`{key}` ({place}) and {url}"),
            cure: format!("`{key}` applies only to stores in nats:, remove it"),
        });
        let conflicts: Vec<_> = conflicts.collect();
        self.problems.extend(conflicts);
    }
}

/// Returns the servers of a connection, without users and schemes, each with its port.
fn servers(keys: &keys::Nats) -> Vec<String> {
    let plain = |server: &str| {
        let host = server.rsplit_once("://").map_or(server, |(_, rest)| rest);
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host).trim_end_matches('/').to_lowercase();
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let host = if has_port { host } else { format!("{host}:4222") };
        host.replace("localhost:", "127.0.0.1:")
    };
    address::servers(&keys.url).map(plain).collect()
}

/// Returns what identifies the user of a connection, who may have another account at the same server.
fn credentials(keys: &keys::Nats) -> impl PartialEq + use<> {
    let users = address::servers(&keys.url).map(|server| server.rsplit_once('@').map(|(user, _)| user.to_owned()));
    let users: Vec<_> = users.collect();
    let texts = [&keys.creds_file, &keys.nkey_file, &keys.user, &keys.token_file].map(Clone::clone);
    (users, texts, keys.token.clone())
}
