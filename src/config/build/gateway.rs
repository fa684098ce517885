//! Builds the options of the HTTP front.

use std::time::Duration;

use gantry_http as front;
use gantry_upstream as upstream;

use super::Build;
use crate::config::{AccessLog, Gateway, keys};

impl Build {
    pub(super) fn gateway(&mut self, keys: keys::Gateway, log_keys: bool) -> Gateway {
        let tls = self.pair("gateway", ("tls_cert_file", keys.tls_cert_file), ("tls_key_file", keys.tls_key_file));
        let id = ("access_key_id_file", keys.access_key_id_file);
        let secret = ("secret_access_key_file", keys.secret_access_key_file);
        let access_key = self.pair("gateway", id, secret);

        let mut front = front::Options::default();
        front.header_bytes_max = keys.header_bytes_max;
        front.header_read_timeout = Duration::from_millis(keys.header_timeout_ms);
        front.idle_timeout = Duration::from_millis(keys.idle_timeout_ms);
        front.send_timeout = Duration::from_millis(keys.send_timeout_ms);
        front.drain_timeout = Duration::from_millis(keys.drain_grace_ms);
        front.connections_max = keys.connections_max;
        front.anonymous = keys.anonymous;
        front.hosts = keys.hosts.unwrap_or_default();
        front.s3_domain = keys.s3_domain;
        front.s3_region = keys.s3_region;
        front.cors_origins = cors_origins(keys.cors_origins.unwrap_or_default());
        front.log_keys = log_keys;

        let mut upstream = upstream::Options::default().ahead_total(keys.read_ahead_bytes);
        upstream.description_age = Duration::from_millis(keys.description_age_ms);

        Gateway {
            // The value has passed the check of the table.
            listen: keys.listen.and_then(|listen| listen.parse().ok()),
            tls,
            access_key,
            front,
            upstream,
            access_log: access_log(&keys.access_log),
        }
    }
}

fn cors_origins(origins: Vec<String>) -> front::CorsOrigins {
    if origins.iter().any(|origin| origin == "*") {
        front::CorsOrigins::Any
    } else if origins.is_empty() {
        front::CorsOrigins::None
    } else {
        front::CorsOrigins::These(origins)
    }
}

fn access_log(format: &str) -> Option<AccessLog> {
    match format {
        "common" => Some(AccessLog::Common),
        "json" => Some(AccessLog::Json),
        _ => None,
    }
}
