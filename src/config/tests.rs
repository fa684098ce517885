use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;

/// A folder with a configuration file, and what else a test says.
struct Setup {
    folder: TempDir,
    sources: Sources,
}

impl Setup {
    fn new(toml: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("gantry.toml");
        fs::write(&file, toml).unwrap();
        let config_home = Some(folder.path().to_owned());
        Self { sources: Sources { file: Some(file), config_home, ..Sources::default() }, folder }
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn flag(mut self, key: &str, value: &str, flag: &str) -> Self {
        self.sources.flags.set(key, value, flag);
        self
    }

    fn context(self, name: &str, json: &str) -> Self {
        let contexts = self.folder.path().join("nats/context");
        fs::create_dir_all(&contexts).unwrap();
        fs::write(contexts.join(format!("{name}.json")), json).unwrap();
        self
    }

    fn select(self, name: &str) -> Self {
        fs::create_dir_all(self.folder.path().join("nats")).unwrap();
        fs::write(self.folder.path().join("nats/context.txt"), format!("{name}\n")).unwrap();
        self
    }

    fn choose(mut self, choice: ContextChoice) -> Self {
        self.sources.context = choice;
        self
    }

    fn load(self) -> Result<Config, Error> {
        self.sources.load()
    }

    fn ok(self) -> Config {
        self.load().unwrap()
    }

    fn error(self) -> String {
        self.load().unwrap_err().to_string()
    }
}

fn servers(config: &Config) -> Vec<&str> {
    config.nats.servers.iter().map(Secret::expose).collect()
}

fn example() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/gantry.example.toml"))
}

#[test]
fn nothing_set_gives_the_documented_defaults() {
    let config = Sources::default().load().unwrap();
    assert_eq!(config.prefix, Prefix::default());
    assert_eq!(servers(&config), ["nats://127.0.0.1:4222"]);
    assert_eq!(config.nats.auth, Auth::None);
    assert_eq!(config.nats.connect_timeout, Duration::from_secs(4));
    assert_eq!(config.relay.delivery_allow, DeliveryAllow::default());
    assert!(config.stores.is_empty());
    assert_eq!(config.log, Log { level: None, format: LogFormat::Text });
}

#[test]
fn each_layer_overrides_the_one_below() {
    let toml = "[relay]\ntransfers_max = 2\n";
    let setup = || Setup::new(toml);
    assert_eq!(setup().ok().relay.transfers_max, 2);
    let env = || setup().env("GANTRY_RELAY__TRANSFERS_MAX", "3");
    assert_eq!(env().ok().relay.transfers_max, 3);
    assert_eq!(env().flag("relay.transfers_max", "4", "--transfers-max").ok().relay.transfers_max, 4);
}

#[test]
fn the_connection_takes_selected_context_file_named_context_and_variables_in_that_order() {
    let context = r#"{"url": "nats://context:4222", "user": "", "nsc": "", "color_scheme": "red"}"#;
    let bare = || Setup::new("").context("one", context).select("one");
    assert_eq!(servers(&bare().ok()), ["nats://context:4222"]);
    assert_eq!(servers(&bare().choose(ContextChoice::Never).ok()), ["nats://127.0.0.1:4222"]);

    let file = || Setup::new("[nats]\nurl = \"nats://file:4222\"\n").context("one", context).select("one");
    assert_eq!(servers(&file().ok()), ["nats://file:4222"]);
    let named = || file().choose(ContextChoice::Named("one".to_owned()));
    assert_eq!(servers(&named().ok()), ["nats://context:4222"]);
    let nats = || named().env("NATS_URL", "nats://nats-env:4222");
    assert_eq!(servers(&nats().ok()), ["nats://nats-env:4222"]);
    let own = || nats().env("GANTRY_NATS__URL", "nats://own-env:4222, nats://second:4222");
    assert_eq!(servers(&own().ok()), ["nats://own-env:4222", "nats://second:4222"]);
    assert_eq!(servers(&own().flag("nats.url", "nats://flag:4222", "--server").ok()), ["nats://flag:4222"]);
}

#[test]
fn the_highest_layer_that_names_a_way_to_authenticate_decides() {
    let context = r#"{"url": "nats://context:4222", "user": "ann", "password": "low"}"#;
    let setup = || Setup::new("").context("one", context).select("one");
    let user = |user: &str, password: &str| Auth::UserPassword {
        user: user.to_owned(),
        password: SecretSource::Inline(Secret::new(password)),
    };
    assert_eq!(setup().ok().nats.auth, user("ann", "low"));
    let with_token = setup().env("NATS_TOKEN", "t0ken").ok().nats.auth;
    assert_eq!(with_token, Auth::Token(SecretSource::Inline(Secret::new("t0ken"))));
    let with_flags = setup().env("NATS_TOKEN", "t0ken").flag("nats.user", "bob", "--user");
    let with_flags = with_flags.flag("nats.password", "high", "--password").ok().nats.auth;
    assert_eq!(with_flags, user("bob", "high"));
    let from_env = setup().env("NATS_USER", "eve").env("NATS_PASSWORD", "env").ok().nats.auth;
    assert_eq!(from_env, user("eve", "env"));
}

#[test]
fn a_user_without_password_is_a_token_as_for_the_nats_command() {
    let auth = Setup::new("").env("NATS_USER", "t0ken").ok().nats.auth;
    assert_eq!(auth, Auth::Token(SecretSource::Inline(Secret::new("t0ken"))));
}

/// The user was once taken for a token before the other layers had been asked for a password.
#[test]
fn a_user_is_no_token_when_another_layer_has_the_password() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let expected = Auth::UserPassword { user: "u".to_owned(), password: SecretSource::File(path.into()) };
    let foreign = Setup::new("").env("NATS_USER", "u").env("GANTRY_NATS__PASSWORD_FILE", path);
    assert_eq!(foreign.ok().nats.auth, expected);
    let flag = Setup::new("").flag("nats.user", "u", "--user").env("GANTRY_NATS__PASSWORD_FILE", path);
    assert_eq!(flag.ok().nats.auth, expected);
}

/// What was wrong with an address was once told with the password in it.
#[test]
fn a_wrong_address_is_told_without_its_credentials() {
    for (file, variable) in [
        ("[stores.s]\nurl = \"s3://b\"\nendpoint_url = \"ftp://key:hush@h\"\n", None),
        ("[stores.s]\nurl = \"ftp://key:hush@h\"\n", None),
        ("[relay]\ntransfers_max = \"http://key:hush@h\"\n", None),
        ("", Some(("GANTRY_HTTP__LISTEN", "http://key:hush@h"))),
    ] {
        let setup = Setup::new(file);
        let setup = variable.iter().fold(setup, |setup, (name, value)| setup.env(name, value));
        let error = setup.error();
        assert!(error.contains("[redacted]@h") && !error.contains("hush"), "{error}");
    }
}

#[test]
fn two_ways_to_authenticate_in_one_layer_conflict() {
    let error = Setup::new("").env("NATS_CREDS", "/x").env("NATS_TOKEN", "t0ken").error();
    assert_eq!(
        error,
        "`nats.creds_file` (NATS_CREDS) and `nats.token` (NATS_TOKEN) are set together: keep one way to authenticate"
    );
}

#[test]
fn a_context_with_what_is_not_supported_says_so() {
    for (json, says) in [
        (r#"{"nsc": "nsc://o/a/u"}"#, "its field `nsc` is not supported: use `creds`"),
        (r#"{"socks_proxy": "socks5://x"}"#, "its field `socks_proxy` is not supported"),
        (r#"{"creds": "op://vault/item"}"#, "its field `creds` names no file: op:// is not supported"),
        ("{", "EOF while parsing"),
    ] {
        let error = Setup::new("").context("one", json).choose(ContextChoice::Named("one".to_owned())).error();
        assert!(error.starts_with("NATS context \"one\": ") && error.contains(says), "{error}");
    }
    let error = Setup::new("").choose(ContextChoice::Named("none".to_owned())).error();
    assert!(
        error.contains("NATS context \"none\": there is no ") && error.contains("nats/context/none.json"),
        "{error}"
    );
    let error = Setup::new("").choose(ContextChoice::Named("../x".to_owned())).error();
    assert!(error.contains("is not a context's name"), "{error}");
}

#[test]
fn a_context_may_be_a_file_and_its_tilde_is_the_home() {
    let mut setup = Setup::new("").context("one", r#"{"creds": "~/me.creds", "tls_first": true}"#);
    fs::write(setup.folder.path().join("me.creds"), "x").unwrap();
    setup.sources.home = Some(setup.folder.path().to_owned());
    let path = setup.folder.path().join("nats/context/one.json").display().to_string();
    let creds = setup.folder.path().join("me.creds");
    let nats = setup.sources.context(ContextChoice::Named(path)).load().unwrap().nats;
    assert_eq!(nats.auth, Auth::Credentials(creds));
    assert!(nats.tls_first);
}

impl Sources {
    fn context(mut self, choice: ContextChoice) -> Self {
        self.context = choice;
        self
    }
}

#[test]
fn a_store_is_read_from_file_variables_and_flags() {
    let toml = "[stores.firmware]\nurl = \"s3://bucket/a%20b\"\nregion = \"eu-1\"\nrange_bytes = 1048576\n";
    let mut setup = Setup::new(toml).env("GANTRY_STORES__FIRMWARE__ENDPOINT_URL", "http://127.0.0.1:9000");
    setup.sources.flags.set_store(&"Local-1".parse().unwrap(), "file:///srv/x");
    let config = setup.ok();
    let firmware = &config.stores[&"firmware".parse().unwrap()];
    assert_eq!(firmware.place, Place::S3 { bucket: "bucket".to_owned(), prefix: "a b/".to_owned() });
    assert_eq!(firmware.s3.endpoint_url.as_deref(), Some("http://127.0.0.1:9000"));
    assert_eq!(firmware.s3.region.as_deref(), Some("eu-1"));
    assert_eq!((firmware.s3.range_bytes, firmware.s3.concurrency_max), (1 << 20, 4));
    let local = &config.stores[&"Local-1".parse().unwrap()];
    assert_eq!(local.place, Place::File { dir: "/srv/x".into() });
}

/// Consumers take a longer beat for 10 s, and would find the relay lost after three of them.
#[test]
fn a_beat_that_is_too_slow_for_failover_is_rejected() {
    let error = Setup::new("[relay]\nbeat_interval_ms = 60000\nidle_timeout_ms = 200000").error();
    assert!(error.contains("`relay.beat_interval_ms` = 60000"), "{error}");
    assert!(error.contains("must be an integer between 50 and 10000"), "{error}");
}

#[test]
fn wrong_configurations_name_key_value_place_and_cure() {
    for (toml, says) in [
        (
            "[relay]\nchunk_max_bytes = 0",
            "`relay.chunk_max_bytes` = 0 in {file}: must be an integer between 1024 and 8388608",
        ),
        (
            "[relay]\ntransfers_max = \"many\"",
            "`relay.transfers_max` = \"many\" in {file}: must be an integer between 1 and",
        ),
        (
            "[relay]\ntransfer_max = 1",
            "`relay.transfer_max` in {file} is not a configuration key; did you mean `relay.transfers_max`?",
        ),
        (
            "chunk_max_bytes = 4096",
            "`chunk_max_bytes` in {file} is not a configuration key; did you mean `relay.chunk_max_bytes`?",
        ),
        ("prefx = \"x\"", "`prefx` in {file} is not a configuration key; did you mean `prefix`?"),
        ("prefix = \"a b\"", "`prefix` = \"a b\" in {file}: must be tokens with dots between them"),
        ("relay = 5", "`relay` = 5 in {file}: is a section: put its keys below `[relay]`"),
        ("[stores.a]", "`stores.a.url` is missing: set it to `s3://bucket/prefix` or `file:///dir`"),
        ("[stores.a]\nregion = \"x\"", "`stores.a.url` is missing"),
        (
            "[stores.a]\nurl = \"gs://x\"",
            "`stores.a.url` = \"gs://x\" in {file}: must be s3://bucket/prefix or file:///dir, not gs://",
        ),
        ("[stores.a]\nurl = \"file://dir\"", "must be an absolute path after three slashes, as in file:///dir"),
        ("[stores.a]\nurl = \"s3://b?region=x\"", "takes no options after \"?\""),
        ("[stores.a]\nurl = \"s3://b\"\nendpoint = \"x\"", "did you mean `stores.a.endpoint_url`?"),
        (
            "[stores.a]\nurl = \"s3://b\"\nendpoint_url = \"127.0.0.1:9000\"",
            "must begin with http:// or https:// and name a host",
        ),
        (
            "[stores.\"a b\"]\nurl = \"s3://b\"",
            "`stores.a b.url` = \"a b\" in {file}: store name \"a b\" is not 1 to 64 characters",
        ),
        (
            "[stores.a]\nurl = \"s3://b\"\naccess_key_id_file = \"/x\"",
            "`stores.a.secret_access_key_file` is missing: `access_key_id_file` needs it",
        ),
        (
            "[relay]\nidle_timeout_ms = 1500",
            "`relay.idle_timeout_ms` = 1500 in {file}: must be at least twice `relay.beat_interval_ms`, 1000",
        ),
        (
            "[relay]\nwindow_max_bytes = 65536",
            "`relay.window_max_bytes` = 65536 in {file}: must be at least `relay.chunk_max_bytes`",
        ),
        ("[relay]\ndelivery_allow = [\"_INBOX.>\"]", "`relay.delivery_allow` = \"_INBOX.>\" in {file}: "),
        ("[relay]\ndelivery_allow = [1]", "`relay.delivery_allow` = a list in {file}: must be a list of texts"),
        ("[nats]\nuser = \"x\"", "`nats.password` is missing: `nats.user` needs it, or `nats.password_file`"),
        ("[nats]\ncreds_file = \"/none/x\"", "`nats.creds_file` = \"/none/x\" in {file}: can't be read: No such file"),
        ("[nats]\ntls_cert_file = \"/x\"", "`nats.tls_key_file` is missing: `nats.tls_cert_file` needs it"),
        ("[nats]\npassword = 5", "`nats.password` = [redacted] in {file}: must be text, in quotes"),
        ("[nats]\ntls_first = \"yes\"", "`nats.tls_first` = \"yes\" in {file}: must be true or false"),
        ("[nats]\nurl = \"\"", "`nats.url` = \"\" in {file}: must not be empty: remove the key instead"),
        ("[log]\nformat = \"xml\"", "`log.format` = \"xml\" in {file}: must be one of text, json"),
        ("[log]\nlevel = \"loud=x=y\"", "`log.level` = \"loud=x=y\" in {file}: "),
        ("prefix =", "configuration file {file}: line 1, column "),
    ] {
        let setup = Setup::new(toml);
        let says = says.replace("{file}", &setup.folder.path().join("gantry.toml").display().to_string());
        let error = setup.error();
        assert!(error.contains(&says), "{toml:?}\n says: {error}\n want: {says}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

/// The rows of the documentation's table: a configuration file or `NAME=value` of the environment.
const WRONG: &[&str] = &[
    "relay.transfer_max = 100",
    "GANTRY_RELAY_TRANSFERS_MAX=100",
    "nats.tls_first = \"yes\"",
    "relay.chunk_max_bytes = 0",
    "relay.idle_timeout_ms = 1500",
    "prefix =",
    "stores.files.region = \"eu-west-1\"",
    "stores.files.url = \"gs://bucket\"",
    "stores.files = { url = \"s3://bucket\", endpoint_url = \"minio:9000\" }",
    "stores.files = { url = \"s3://bucket\", access_key_id_file = \"/run/s3/id\" }",
    "nats = { creds_file = \"/run/nats/relay.creds\", token_file = \"/run/nats/token\" }",
    "nats.creds_file = \"/run/nats/relay.creds\"",
    "nats.user = \"relay\"",
    "http.listen = \"8080\"",
    "log.format = \"xml\"",
    "telemetry.otlp_endpoint = \"https://collector:4318\"",
    "stores.files.url = \"s3://me:secret@bucket\"",
    "stores.files = { url = \"s3://bucket\", region = \"EU WEST\" }",
    "stores.files = { url = \"s3://bucket\", endpoint_url = \"http://me:secret@minio:9000\" }",
];

/// Returns what a configuration gives, with its file at one place.
fn told(wrong: &str) -> String {
    let setup = match wrong.split_once('=') {
        Some((name, value)) if name.starts_with(ENV_PREFIX) => Setup::new("").env(name, value),
        _ => Setup::new(wrong),
    };
    let folder = setup.folder.path().display().to_string();
    setup.error().replace(&folder, "/etc/gantry")
}

#[test]
fn the_documentation_shows_what_wrong_configurations_give() {
    let rows: String = WRONG.iter().map(|wrong| format!("| `{wrong}` | `` {} `` |\n", told(wrong))).collect();
    let page = include_str!("../../docs/CONFIGURATION.md");
    assert!(page.contains(&rows), "docs/CONFIGURATION.md must hold:\n{rows}");
}

#[test]
fn all_problems_are_told_at_once() {
    let error = Setup::new("prefx = 1\n[relay]\ntransfers_max = 0\n").env("GANTRY_RELAY__CHUNK_MAX_BYTES", "1").error();
    assert_eq!(error.lines().count(), 3, "{error}");
    // What only shows between keys was once told when all else was right.
    let between = "[relay]\nchunk_max_bytes = 0\n[http]\nlisten = \"8080\"\n[stores.a]\nurl = 5\n";
    let error = Setup::new(between).error();
    assert!(error.contains("`http.listen`") && error.lines().count() == 3, "{error}");
}

#[test]
fn variables_are_checked_like_the_file() {
    let error = Setup::new("").env("GANTRY_RELAY_TRANSFERS_MAX", "1").error();
    assert_eq!(
        error,
        "`GANTRY_RELAY_TRANSFERS_MAX` in the environment is not a configuration key; did you mean `GANTRY_RELAY__TRANSFERS_MAX`?"
    );
    let error = Setup::new("").env("GANTRY_PREFX", "x").error();
    assert!(error.ends_with("did you mean `GANTRY_PREFIX`?"), "{error}");
    let error = Setup::new("").env("GANTRY_COLOUR", "x").error();
    assert!(error.ends_with("is not a configuration key"), "{error}");
    let error = Setup::new("").env("GANTRY_RELAY__TRANSFERS_MAX", "-1").error();
    assert_eq!(
        error,
        "`relay.transfers_max` = \"-1\" in GANTRY_RELAY__TRANSFERS_MAX: must be an integer between 1 and 100000"
    );
    let error = Setup::new("").env("NATS_TIMEOUT", "5 parsecs").error();
    assert!(error.contains("\"5 parsecs\" in NATS_TIMEOUT: must be a duration such as"), "{error}");
}

#[test]
fn variables_of_kubernetes_services_named_gantry_are_not_ours() {
    let setup = Setup::new("")
        .env("GANTRY_PORT", "tcp://10.0.0.1:80")
        .env("GANTRY_SERVICE_HOST", "10.0.0.1")
        .env("GANTRY_SERVICE_PORT_METRICS", "9090")
        .env("GANTRY_PORT_9090_TCP_ADDR", "10.0.0.1")
        .env("GANTRY_METRICS_SERVICE_HOST", "10.0.0.1")
        .env("GANTRY_METRICS_PORT_9090_TCP", "tcp://10.0.0.1:9090")
        .env("GANTRY_PREFIX", "");
    assert_eq!(setup.ok().prefix, Prefix::default());
}

#[test]
fn durations_are_read_as_the_nats_command_writes_them() {
    for (text, ms) in [("5s", Some(5000)), ("500ms", Some(500)), ("1m30s", Some(90_000)), ("2h", Some(7_200_000))] {
        assert_eq!(parse_duration_ms(text).ok(), ms, "{text}");
    }
    for text in ["", "5", "s", "5x", "-1s", "0s", "1.5s", "99999999999999999999s", "18446744073709551615h"] {
        assert!(parse_duration_ms(text).is_err(), "{text}");
    }
    assert_eq!(Setup::new("").env("NATS_TIMEOUT", "2s").ok().nats.connect_timeout, Duration::from_secs(2));
}

#[test]
fn debug_shows_no_secret() {
    let toml = "[nats]\nurl = \"nats://u:hidden@host\"\nuser = \"u\"\npassword = \"hidden\"\n";
    let shown = format!("{:?}", Setup::new(toml).ok());
    assert!(!shown.contains("hidden") && shown.contains("[redacted]"), "{shown}");
}

#[test]
fn secrets_come_from_files_without_their_newline() {
    let setup = Setup::new("");
    let path = setup.folder.path().join("password");
    fs::write(&path, "s3cret\n").unwrap();
    let setup = setup.env("GANTRY_NATS__PASSWORD_FILE", &path.display().to_string()).env("GANTRY_NATS__USER", "u");
    let config = setup.sources.load().unwrap();
    let Auth::UserPassword { password, .. } = config.nats.auth else { panic!("{:?}", config.nats.auth) };
    assert_eq!(password.read().unwrap().expose(), "s3cret");
    fs::write(&path, "\n").unwrap();
    assert!(password.read().is_err());
}

#[test]
fn the_example_file_loads_and_holds_every_key_commented_with_its_default() {
    let text = fs::read_to_string(example()).unwrap();
    let sources = Sources { file: Some(example().to_owned()), ..Sources::default() };
    assert!(!sources.load().unwrap().stores.is_empty());

    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.trim_start_matches(['#', ' ']).strip_prefix('[')
            && let Some(name) = name.strip_suffix(']')
        {
            section = format!("{name}.");
        } else if let Some((key, value)) = line.trim_start_matches('#').split_once(" = ")
            && !key.starts_with(' ')
        {
            found.push((format!("{section}{key}"), value.to_owned()));
        }
    }
    for spec in KEYS {
        let values: Vec<_> = found
            .iter()
            .filter(|(name, _)| generic_name(name) == spec.name)
            .map(|(_, value)| value.trim_matches('"').to_owned())
            .collect();
        assert!(!values.is_empty(), "{} is not in the example", spec.name);
        if let Some(default) = spec.default.filter(|_| spec.kind != Kind::List) {
            assert!(values.iter().any(|value| value == default), "{} has no default {default}: {values:?}", spec.name);
        }
        assert!(text.contains(spec.meaning), "the example does not say of {}: {}", spec.name, spec.meaning);
    }
    for (name, _) in found {
        assert!(KEYS.iter().any(|spec| spec.name == generic_name(&name)), "{name} is not a key");
    }
}

fn generic_name(name: &str) -> String {
    match name.split('.').collect::<Vec<_>>().as_slice() {
        ["stores", _, key] => format!("stores.NAME.{key}"),
        _ => name.to_owned(),
    }
}

#[test]
fn every_key_of_the_table_is_taken() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    for spec in KEYS {
        let key = spec.name.replace("NAME", "a");
        let value = match spec.kind {
            Kind::Path => file.display().to_string(),
            Kind::Switch => "true".to_owned(),
            Kind::Integer { max, .. } => max.to_string(),
            Kind::Choice(words) => words[0].to_owned(),
            Kind::Text | Kind::Secret | Kind::List => match spec.name {
                "stores.NAME.url" => "s3://bucket".to_owned(),
                "stores.NAME.endpoint_url" => "http://host".to_owned(),
                "relay.delivery_allow" => "_X.".to_owned(),
                "http.listen" => "off".to_owned(),
                "telemetry.otlp_endpoint" => "http://host:4318".to_owned(),
                _ => "x".to_owned(),
            },
        };
        let mut sources = Sources::default();
        sources.flags.set("stores.a.url", "s3://bucket", "--store");
        sources.flags.set(&key, value, "test");
        // Some keys need another; what must not happen is that the table and the types disagree.
        match sources.load() {
            Ok(_) => {}
            Err(error) => assert!(error.problems.iter().all(|problem| !error_is_of_types(problem)), "{key}: {error}"),
        }
    }
}

fn error_is_of_types(problem: &Problem) -> bool {
    matches!(problem, Problem::Unknown { .. })
        || matches!(problem, Problem::Missing { key, .. } if key == "configuration")
}

#[test]
fn addresses_are_read() {
    let s3 = |bucket: &str, prefix: &str| Ok(Place::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() });
    assert_eq!(Place::parse("s3://b"), s3("b", ""));
    assert_eq!(Place::parse("s3://b/"), s3("b", ""));
    assert_eq!(Place::parse("s3://b/p"), s3("b", "p/"));
    let access_point = "arn:aws:s3:eu-west-1:123456789012:accesspoint:point";
    assert_eq!(Place::parse(&format!("s3://{access_point}/p")), s3(access_point, "p/"));
    assert_eq!(Place::parse("s3://b/p/q/"), s3("b", "p/q/"));
    assert_eq!(Place::parse("s3://b/%3F%25"), s3("b", "?%/"));
    assert_eq!(Place::parse("file:///a%20b/c"), Ok(Place::File { dir: "/a b/c".into() }));
    for wrong in [
        "",
        "b",
        "s3://",
        "s3:///p",
        "s3://b c/p",
        "file://a",
        "file:",
        "s3://b/%zz",
        "s3://b/%f",
        "file:///%ff",
        "s3://b#x",
    ] {
        assert!(Place::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_documentation_lists_every_key() {
    let page = include_str!("../../docs/CONFIGURATION.md");
    assert!(page.contains(&tables()), "docs/CONFIGURATION.md must hold:\n{}", tables());
}

#[test]
fn effective_settings_name_their_origin_and_hide_secrets() {
    let setup = Setup::new("[stores.a]\nurl = \"s3://b\"\n").env("NATS_PASSWORD", "hush").env("NATS_USER", "u");
    let setup = setup.env("NATS_URL", "nats://u:hush@h:1");
    let lines = setup.sources.read().1;
    let line = |key: &str| lines.iter().find(|line| line.key == key).unwrap().to_string();
    assert_eq!(line("nats.password"), "nats.password = \"[redacted]\"  # NATS_PASSWORD");
    assert_eq!(line("nats.url"), "nats.url = \"nats://[redacted]@h:1\"  # NATS_URL");
    assert_eq!(line("stores.a.concurrency_max"), "stores.a.concurrency_max = 4  # defaults");
    assert!(line("stores.a.url").starts_with("stores.a.url = \"s3://b\"  # /"));
    assert!(lines.iter().all(|line| !line.to_string().contains("hush")));
}

#[test]
fn the_operators_pages_are_on_loopback_unless_told_otherwise() {
    let http = |setup: Setup| setup.ok().http;
    let default = Http { listen: Some("127.0.0.1:8080".parse().unwrap()), chosen: false };
    assert_eq!(http(Setup::new("")), default);
    assert_eq!(http(Setup::new("").flag("http.listen", "127.0.0.1:8080", "--http")), Http { chosen: true, ..default });
    assert_eq!(http(Setup::new("[http]\nlisten = \"off\"\n")).listen, None);
    let error = Setup::new("[http]\nlisten = \"8080\"\n").error();
    assert!(error.starts_with("`http.listen` = \"8080\" in /") && error.contains("127.0.0.1:8080"), "{error}");
}

/// A variable that a platform puts into every container once stopped every command.
#[test]
fn an_inherited_collector_that_is_of_no_use_costs_the_traces_only() {
    let telemetry = |setup: Setup| setup.ok().telemetry;
    let (general, special) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    let own = "[telemetry]\notlp_endpoint = \"http://own:4318/\"\n";

    let found = telemetry(Setup::new("").env(general, "https://h"));
    assert!(found.traces_url.is_none() && found.ignored.is_some());
    let found = telemetry(Setup::new(own).env(general, "https://h"));
    let expected =
        Telemetry { traces_url: Some("http://own:4318/v1/traces".to_owned()), inherited: false, ignored: None };
    assert_eq!(found, expected);
    let found = telemetry(Setup::new(own).env(general, "http://h:1"));
    assert_eq!((found.traces_url.as_deref(), found.inherited), (Some("http://h:1/v1/traces"), true));
    let found = telemetry(Setup::new("").env(general, "http://h:1").env(special, "http://h:2/own"));
    assert_eq!(found.traces_url.as_deref(), Some("http://h:2/own"));
    assert_eq!(telemetry(Setup::new(own).env("OTEL_SDK_DISABLED", "true")).traces_url, None);

    let error = Setup::new("").env("GANTRY_TELEMETRY__OTLP_ENDPOINT", "https://u:hush@h").error();
    assert!(error.contains("GANTRY_TELEMETRY__OTLP_ENDPOINT") && !error.contains("hush"), "{error}");
}

/// Addresses without a scheme, with `/`, `?` or `#` in a password, and of wrong stores once showed their passwords.
#[test]
fn no_form_of_an_address_shows_its_password() {
    let bucket = "[stores.d]\nurl = \"s3://b\"\n";
    let urls = [
        "s3://me:hush@demo",
        "s3://me:hush/hush@demo",
        "s3://me:hush,hush@demo",
        "s3://me:x?hush@demo",
        "s3://me:x#hush@demo",
        "file://me:hush@h/x",
        "me:hush@demo",
        "me:hush@demo://x",
        "gs://me:hush@demo",
    ];
    let stores = urls.iter().map(|url| Setup::new(&format!("[stores.d]\nurl = \"{url}\"\n")));
    let endpoints = ["http://me:hush@h", "http://me:hush/x@h", "me:hush@h"];
    let endpoints = endpoints.iter().map(|url| Setup::new(&format!("{bucket}endpoint_url = \"{url}\"\n")));
    let collectors = ["http://me:hush@h", "me:hush@h", "https://me:hush/x@h"];
    let collectors = collectors.iter().map(|url| Setup::new(&format!("telemetry.otlp_endpoint = \"{url}\"\n")));
    let servers =
        ["c:hush@h", "nats://a@h,c:hush@h", "nats://me:hush/pw@h", "nats://me:x#hush@h", "nats://me:x?hush@h"];
    let servers = servers.iter().map(|url| Setup::new("").env("NATS_URL", url));
    for setup in stores.chain(endpoints).chain(collectors).chain(servers) {
        let (config, effective) = setup.sources.read();
        let told = config.err().map(|error| error.to_string()).unwrap_or_default();
        let lines = effective.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(!told.contains("hush") && !lines.contains("hush"), "{told}\n{lines}");
    }
}

/// A pipe was read a second time, when it was empty, for what `--check` prints.
#[cfg(unix)]
#[test]
fn what_applies_and_what_is_shown_are_read_at_once() {
    use std::io::Write as _;
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"prefix = \"piped\"\n").unwrap();
    drop(writer);
    let file = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
    let (config, effective) = Sources { file: Some(file.into()), ..Sources::default() }.read();
    assert_eq!(config.unwrap().prefix, Prefix::new("piped".to_owned()).unwrap());
    assert_eq!(effective.iter().find(|line| line.key == "prefix").unwrap().value, "\"piped\"");
}
