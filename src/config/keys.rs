//! The table of configuration keys: name, type, meaning, bounds, default, variables and option of each.
//!
//! To add a key, add an entry here and use its field in [`build`](super::build). The documentation, the example file
//! and `--help` follow from the entry; tests name the lines to add to the first two.

use std::time::Duration;

use gantry_bus::nats;
use gantry_client as consumer;
use gantry_http as front;
use gantry_proto::limits;
use gantry_relay as relay;
use gantry_store::{s3, shared};
use gantry_upstream as upstream;
use serde::Deserialize;

use super::check;
use super::redact::Secret;
use super::table::{Key, Kind, Scope, keys};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const fn text() -> Key {
    Key::new(Kind::Text)
}

const fn secret() -> Key {
    Key::new(Kind::Secret)
}

const fn path() -> Key {
    Key::new(Kind::Path)
}

const fn switch() -> Key {
    Key::new(Kind::Switch)
}

const fn integer(min: u64, max: u64) -> Key {
    Key::new(Kind::Integer { min, max })
}

const fn bytes(min: u64, max: u64) -> Key {
    integer(min, max).unit("bytes")
}

const fn bytes_per_s() -> Key {
    integer(1024, 1024 * GIB).unit("bytes/s")
}

#[expect(clippy::cast_possible_truncation, reason = "the bounds are an hour at most")]
const fn ms(bound: Duration) -> u64 {
    bound.as_millis() as u64
}

const fn millis(min: u64, max: u64) -> Key {
    Key::new(Kind::Millis { min, max })
}

keys! {
    /// Keys outside every section.
    Root "" {
        prefix: String = "First tokens of every subject; relay and consumers must use the same",
            text().default_of(|| relay::Options::default().prefix.to_string())
                .check(check::prefix)
                .flag(Scope::Global, "prefix", "PREFIX");
        await_relay_ms: u64 =
            "How long consumers retry while no relay is listening, as when a site has no uplink, and at least wait for a silent one",
            millis(100, 86_400_000)
                .default_of(|| consumer::Options::default().no_relay_patience.as_millis().to_string())
                .flag(Scope::Global, "await-relay", "DURATION");
    }

    /// The connection to NATS.
    Nats "nats." {
        url: String = "Addresses of nats-server, separated by commas",
            text().default_of(|| nats::Options::default().servers.join(","))
                .check(check::servers)
                .variable("NATS_URL")
                .flag(Scope::Nats, "server", "URL").short('s');
        connection_name: String = "Name of the connection in nats-server's reports",
            text().default_of(|| nats::Options::default().name)
                .flag(Scope::Nats, "connection-name", "NAME");
        creds_file: Option<String> = "Credentials file, with a JWT and a seed",
            path().variable("NATS_CREDS").flag(Scope::Nats, "creds", "FILE");
        nkey_file: Option<String> = "File with an nkey seed",
            path().variable("NATS_NKEY").flag(Scope::Nats, "nkey", "FILE");
        user: Option<String> =
            "User name; if it comes from `NATS_USER` or `--user` and no password is set anywhere, it is used as a token",
            text().variable("NATS_USER").flag(Scope::Nats, "user", "USER");
        password: Option<Secret> = "Password of `nats.user`; prefer `nats.password_file`",
            secret().variable("NATS_PASSWORD").flag(Scope::Nats, "password", "PASSWORD");
        password_file: Option<String> = "File with the password of `nats.user`",
            path();
        token: Option<Secret> = "Token; prefer `nats.token_file`",
            secret().variable("NATS_TOKEN").flag(Scope::Nats, "token", "TOKEN");
        token_file: Option<String> = "File with the token",
            path();
        tls_ca_file: Option<String> = "Certificate authorities to trust instead of the system's, PEM",
            path().variable("NATS_CA").flag(Scope::Nats, "tlsca", "FILE");
        tls_cert_file: Option<String> = "Client certificate, PEM; requires `nats.tls_key_file`",
            path().variable("NATS_CERT").flag(Scope::Nats, "tlscert", "FILE");
        tls_key_file: Option<String> = "Client key, PEM; requires `nats.tls_cert_file`",
            path().variable("NATS_KEY").flag(Scope::Nats, "tlskey", "FILE");
        tls_required: bool = "Refuse connections without TLS; a `tls://` address, a TLS file, or a first server that requires TLS does so, too",
            switch().default("false");
        tls_first: bool = "Start TLS before the server's greeting",
            switch().default("false").flag(Scope::Nats, "tlsfirst", "");
        ignore_discovered_servers: bool =
            "Connect only to the servers of `nats.url`, not to others of their cluster",
            switch().default("false");
        inbox_prefix: String =
            "Prefix of reply subjects, for private inboxes; the relay's `relay.delivery_allow` must cover it",
            text().default_of(|| nats::Options::default().inbox_prefix)
                .check(check::inbox_prefix)
                .flag(Scope::Nats, "inbox-prefix", "PREFIX");
        connect_timeout_ms: u64 = "Time limit for the first connection",
            millis(100, 600_000)
                .default_of(|| nats::Options::default().connect_timeout.as_millis().to_string())
                .variable("NATS_TIMEOUT")
                .flag(Scope::Nats, "timeout", "DURATION");
    }

    /// Limits and timers of the relay.
    Relay "relay." {
        transfers_max: usize = "Concurrent transfers; further requests are answered with `busy`",
            integer(1, 100_000).default_of(|| relay::Options::default().transfers_max.to_string());
        memory_budget_bytes: u64 =
            "Memory for object data, shared by all transfers; each reserves at least 1.5 MiB, and requests that find no room are answered with `busy`",
            bytes(8 * MIB, 1024 * GIB)
                .default_of(|| relay::Options::default().budget.total_bytes().to_string());
        chunk_max_bytes: usize = "Largest chunk; nats-server's `max_payload` may lower it",
            bytes(limits::CHUNK_MIN_BYTES, limits::CHUNK_MAX_BYTES)
                .default_of(|| relay::Options::default().chunk_max_bytes.to_string());
        window_max_bytes: u64 = "Most bytes in flight to one consumer: sent, but not yet written by it",
            bytes(64 << 10, GIB).default_of(|| relay::Options::default().window_max_bytes.to_string());
        beat_interval_ms: u64 = "Interval of heartbeats on a transfer that has nothing to send",
            millis(ms(limits::BEAT_MIN), ms(limits::BEAT_MAX))
                .default_of(|| relay::Options::default().beat_interval.as_millis().to_string());
        idle_timeout_ms: u64 = "Silence of a consumer after which its transfer ends",
            millis(ms(limits::IDLE_MIN), ms(limits::IDLE_MAX))
                .default_of(|| relay::Options::default().idle_timeout.as_millis().to_string());
        drain_grace_ms: u64 = "Time that transfers have to finish after the first SIGTERM",
            millis(0, 86_400_000)
                .default_of(|| relay::Options::default().drain_grace.as_millis().to_string());
        rate_max_bytes_per_s: Option<u64> = "Rate limit for all transfers together; unset: no limit",
            bytes_per_s();
        transfer_rate_max_bytes_per_s: Option<u64> = "Rate limit for each transfer; unset: no limit",
            bytes_per_s();
        delivery_allow: Vec<String> =
            "Prefixes of the reply subjects that the relay publishes to, each with its final dot",
            Key::new(Kind::List)
                .default_of(|| {
                    let allow = relay::Options::default().delivery_allow;
                    allow.prefixes().collect::<Vec<_>>().join(",")
                })
                .check(check::delivery_allow);
    }

    /// One store.
    Store "stores.NAME." {
        url: Option<String> =
            "Location of the objects: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `file:///dir`, or `nats:STORE` for a store of other relays; required",
            text().check(check::store_url);
        endpoint_url: Option<String> =
            "Server of the objects; unset: for S3 `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, AWS; for Google `STORAGE_EMULATOR_HOST`, Google; for Azure the account's public address",
            text().check(check::endpoint);
        region: Option<String> = "S3 region; unset: `AWS_REGION`, the profile's, else us-east-1",
            text().check(check::region);
        path_style: Option<bool> =
            "Put the bucket into the path of the URL; unset: true if an S3 server is set, false for AWS",
            switch();
        tls_ca_file: Option<String> =
            "Certificate authorities of the server to trust instead of the system's, PEM; unset: for S3 `AWS_CA_BUNDLE`",
            path();
        profile: Option<String> = "Profile of the AWS configuration files; unset: `AWS_PROFILE`",
            text();
        access_key_id_file: Option<String> =
            "File with the id of the S3 access key; unset: AWS's default credential chain",
            path();
        secret_access_key_file: Option<String> = "File with the S3 secret access key",
            path();
        session_token_file: Option<String> = "File with the S3 session token of temporary keys",
            path();
        anonymous: bool = "Send requests without credentials, for public buckets and containers",
            switch().default("false");
        requester_pays: bool = "Accept the costs of requests, which S3 buckets with requester pays demand",
            switch().default("false");
        credentials_file: Option<String> =
            "File with the key of a Google service account; unset: Google's application default credentials",
            path();
        billing_project: Option<String> =
            "Google project that pays for requests, which buckets with requester pays demand",
            text().check(check::project);
        account: Option<String> = "Azure storage account; unset: `AZURE_STORAGE_ACCOUNT`",
            text().check(check::account);
        account_key_file: Option<String> = "File with a key of the Azure account; unset: credentials of the environment",
            path();
        sas_token_file: Option<String> = "File with an Azure shared access signature",
            path();
        tenant_id: Option<String> = "Azure tenant of `client_id`; unset: `AZURE_TENANT_ID`",
            text().check(check::tenant);
        client_id: Option<String> = "Azure application or managed identity; unset: `AZURE_CLIENT_ID`",
            text().check(check::application);
        client_secret_file: Option<String> = "File with the secret of the Azure application",
            path();
        federated_token_file: Option<String> =
            "File with the token of an Azure workload identity; unset: `AZURE_FEDERATED_TOKEN_FILE`",
            path();
        azure_cli: bool = "Use the account of the command `az`, for a developer's machine",
            switch().default("false");
        range_bytes: u64 = "Size of one ranged read; several run concurrently",
            bytes(64 << 10, GIB).default_of(|| s3::Limits::default().range_bytes.to_string());
        concurrency_max: usize = "Concurrent ranged reads for one transfer",
            integer(1, 64).default_of(|| s3::Limits::default().concurrency_max.to_string());
        answer_timeout_ms: u64 = "Time after which an unanswered request to the server is sent again; the first answer counts",
            millis(1000, 600_000)
                .default_of(|| s3::Limits::default().answer_timeout.as_millis().to_string());
        shared_reads: Option<bool> =
            "Read an object once for all consumers that request it at about the same time; has no effect on directories; unset: true for `nats:STORE`, else false",
            switch();
        shared_reads_bytes: Option<u64> =
            "Most memory for the bytes that are kept for several consumers, a part of `relay.memory_budget_bytes`; unset: what transfers and read-ahead leave",
            bytes(MIB, 1024 * GIB);
        shared_reads_first_bytes: u64 =
            "How much of an object is kept while only one consumer has requested it, for others that follow within seconds",
            bytes(0, 1024 * GIB).default_of(|| shared::Limits::default().first_bytes.to_string());
        nats_context: Option<String> =
            "Context of the `nats` command line for the connection of `nats:STORE`; unset: the keys `stores.NAME.nats.*`, which are those of `[nats]` and `prefix`; without `stores.NAME.nats.url`, the relay's own connection",
            text();
        cache_dir: Option<String> =
            "Folder on disk that keeps what was read from the store, for a store behind a thin link; it belongs to this store and this process alone; unset: no cache",
            path();
        cache_bytes: u64 = "Most bytes on disk in `cache_dir`; what was not used for longest is removed first",
            bytes(2 * MIB, 1024 * 1024 * GIB).default("10737418240");
        cache_files: u64 = "Most files in `cache_dir`; an object needs one for each MiB, and one more with `serve_stale`",
            integer(1, 4_000_000).default("100000");
        serve_stale: bool =
            "While the store is unreachable, serve complete objects from `cache_dir` that match their stored checksum; they may have been replaced meanwhile",
            switch().default("false");
    }

    /// The HTTP front: `gantry gateway`, or `gantry serve --gateway`.
    Gateway "gateway." {
        listen: Option<String> =
            "Address of the HTTP front, or `unix:PATH`; unset: `127.0.0.1:9000` for gateway, no front for serve",
            text().check(check::front).flag(Scope::Gateway, "listen", "ADDRESS");
        tls_cert_file: Option<String> = "Certificate for HTTPS, PEM; requires `gateway.tls_key_file`",
            path();
        tls_key_file: Option<String> = "Key for HTTPS, PEM; requires `gateway.tls_cert_file`",
            path();
        access_key_id_file: Option<String> =
            "File with the id of the access key with which S3 clients must sign; unset: clients on this machine need not sign",
            path();
        secret_access_key_file: Option<String> = "File with the secret of that access key",
            path();
        anonymous: bool = "Serve requests without a signature although an access key is set",
            switch().default("false");
        hosts: Option<Vec<String>> =
            "Names by which clients may call the front, besides `localhost` and IP addresses; empty: any",
            Key::new(Kind::List);
        s3_domain: Option<String> = "Domain below which each store has a host of its own, as in `STORE.s3.example.com`",
            text();
        s3_region: String = "Region that S3 clients see",
            text().default_of(|| front::Options::default().s3_region).check(check::region);
        cors_origins: Option<Vec<String>> =
            "Origins whose scripts may read responses in a browser, or `*` for all",
            Key::new(Kind::List);
        connections_max: usize = "Concurrent connections; further ones wait",
            integer(1, 100_000).default_of(|| front::Options::default().connections_max.to_string());
        header_bytes_max: usize = "Largest head of a request",
            bytes(8 << 10, MIB).default_of(|| front::Options::default().header_bytes_max.to_string());
        header_timeout_ms: u64 = "Time limit for the head of a request",
            millis(100, 600_000)
                .default_of(|| front::Options::default().header_read_timeout.as_millis().to_string());
        idle_timeout_ms: u64 = "Time that a connection may be without a request",
            millis(100, 3_600_000).default_of(|| front::Options::default().idle_timeout.as_millis().to_string());
        send_timeout_ms: u64 = "Time that a client may take no bytes of a response",
            millis(1000, 3_600_000).default_of(|| front::Options::default().send_timeout.as_millis().to_string());
        drain_grace_ms: u64 = "Time that responses have to finish after the first SIGTERM",
            millis(0, 86_400_000)
                .default_of(|| front::Options::default().drain_timeout.as_millis().to_string());
        description_age_ms: u64 =
            "How long the description of an object from NATS is used again; a replaced object may be described as it was for as long",
            millis(0, 60_000)
                .default_of(|| upstream::Options::default().description_age.as_millis().to_string());
        read_ahead_bytes: u64 = "Memory for reading ahead of clients that request one small range after the other",
            bytes(MIB, GIB).default_of(|| upstream::Options::default().ahead_total_bytes().to_string());
        access_log: String = "Access log on stdout: one line per response, in the common format or as JSON",
            Key::new(Kind::Choice(&["off", "common", "json"])).default("off");
    }

    /// The HTTP pages for operators.
    Http "http." {
        listen: String =
            "Address of `/livez`, `/readyz`, `/metrics` and `/transfers`, or `off`; the pages require no authentication",
            text().default("127.0.0.1:8080")
                .check(check::listen)
                .flag(Scope::Pages, "http", "ADDRESS");
    }

    /// Logging.
    Log "log." {
        level: Option<String> =
            "`error`, `warn`, `info`, `debug`, `trace` or `off`, or levels by module as in `info,gantry_relay=debug`; unset: `info` for serve and gateway, `gantry=warn` otherwise",
            text().check(check::log_level)
                .alias("GANTRY_LOG")
                .flag(Scope::Global, "log-level", "LEVEL");
        format: String = "Log format: lines of text, or one JSON object per event",
            Key::new(Kind::Choice(&["text", "json"]))
                .default("text")
                .flag(Scope::Global, "log-format", "FORMAT");
        keys: bool =
            "A relay logs keys at INFO, and shows them and the consumers' correlations on `/transfers`",
            switch().default("false");
    }

    /// Traces.
    #[derive(Default)]
    Telemetry "telemetry." {
        otlp_endpoint: Option<String> =
            "Collector for traces over OTLP/HTTP, as in `http://127.0.0.1:4318`; unset: no traces",
            text().check(check::collector).variable("OTEL_EXPORTER_OTLP_ENDPOINT");
    }
}
