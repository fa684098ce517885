use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use gantry_bus::nats::Auth;
use gantry_proto::subject::DeliveryAllow;
use tempfile::TempDir;

use super::environment::Environment;
use super::*;

/// A folder with a configuration file, and the other settings of a test.
struct Setup {
    folder: TempDir,
    sources: Sources,
    variables: Vec<(String, OsString)>,
}

impl Setup {
    fn new(toml: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("gantry.toml");
        fs::write(&file, toml).unwrap();
        let config_home = Some(folder.path().to_owned());
        Self { sources: Sources { file: Some(file), config_home, ..Sources::default() }, folder, variables: Vec::new() }
    }

    fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
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

    fn sources(mut self) -> (Sources, TempDir) {
        self.sources.environment =
            Environment::new(self.variables.into_iter().map(|(name, value)| (name.into(), value)));
        (self.sources, self.folder)
    }

    fn load(self) -> Result<Config, Error> {
        let (sources, _folder) = self.sources();
        sources.load()
    }

    fn ok(self) -> Config {
        self.load().unwrap()
    }

    fn error(self) -> String {
        self.load().unwrap_err().to_string()
    }
}

fn servers(config: &Config) -> &[String] {
    &config.nats.servers
}

fn user_password(user: &str, password: &str) -> Auth {
    Auth::UserPassword { user: user.to_owned(), password: password.to_owned() }
}

fn token(token: &str) -> Auth {
    Auth::Token(token.to_owned())
}

#[test]
fn without_settings_the_documented_defaults_apply() {
    let config = Sources::default().load().unwrap();
    assert_eq!(config.prefix, Prefix::default());
    assert_eq!(servers(&config), ["nats://127.0.0.1:4222"]);
    assert_eq!(config.nats.auth, Auth::None);
    assert_eq!(config.nats.connect_timeout, Duration::from_secs(4));
    assert_eq!(config.relay.delivery_allow, DeliveryAllow::default());
    assert!(config.stores.is_empty());
    assert_eq!(config.log, Log { level: None, format: Format::Text });
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
fn connection_settings_come_from_selected_context_file_named_context_and_variables_in_that_order() {
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
    assert_eq!(setup().ok().nats.auth, user_password("ann", "low"));
    let with_token = setup().env("NATS_TOKEN", "t0ken").ok().nats.auth;
    assert_eq!(with_token, token("t0ken"));
    let with_flags = setup().env("NATS_TOKEN", "t0ken").flag("nats.user", "bob", "--user");
    let with_flags = with_flags.flag("nats.password", "high", "--password").ok().nats.auth;
    assert_eq!(with_flags, user_password("bob", "high"));
    let from_env = setup().env("NATS_USER", "eve").env("NATS_PASSWORD", "env").ok().nats.auth;
    assert_eq!(from_env, user_password("eve", "env"));
}

#[test]
fn a_user_without_password_is_a_token_as_for_the_nats_command() {
    let auth = Setup::new("").env("NATS_USER", "t0ken").ok().nats.auth;
    assert_eq!(auth, token("t0ken"));
}

/// The user was once treated as a token before all layers had been searched for a password.
#[test]
fn a_user_is_not_a_token_if_another_layer_has_the_password() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "s3cret").unwrap();
    let path = file.path().to_str().unwrap();
    let expected = Auth::UserPasswordFile { user: "u".to_owned(), password: path.into() };
    let foreign = Setup::new("").env("NATS_USER", "u").env("GANTRY_NATS__PASSWORD_FILE", path);
    assert_eq!(foreign.ok().nats.auth, expected);
    let flag = Setup::new("").flag("nats.user", "u", "--user").env("GANTRY_NATS__PASSWORD_FILE", path);
    assert_eq!(flag.ok().nats.auth, expected);
}

#[test]
fn invalid_addresses_are_reported_without_credentials() {
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
fn unsupported_and_missing_contexts_are_reported() {
    for (json, says) in [
        (r#"{"nsc": "nsc://o/a/u"}"#, "its field `nsc` is not supported: use `creds`"),
        (r#"{"socks_proxy": "socks5://x"}"#, "its field `socks_proxy` is not supported"),
        (r#"{"creds": "op://vault/item"}"#, "its field `creds` does not name a file: op: is not supported"),
        (r#"{"creds": "env://CREDS"}"#, "its field `creds` does not name a file: env: is not supported"),
        (r#"{"token": "op://vault/item"}"#, "its field `token` is not supported with op:"),
        (r#"{"token": "env://UNSET"}"#, "its field `token` names the variable \"UNSET\", which is not set"),
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
    assert!(error.contains("is not a valid name of a context"), "{error}");
}

/// The reference itself was once sent as the password.
#[test]
fn secrets_of_a_context_may_be_in_variables_and_files() {
    let load = |json: &str| {
        let setup = Setup::new("").context("one", json).select("one");
        setup.env("NATS_TEST_SECRET", "hush").ok().nats.auth
    };
    assert_eq!(load(r#"{"user": "u", "password": "env://NATS_TEST_SECRET"}"#), user_password("u", "hush"));
    assert_eq!(load(r#"{"token": "ENV://NATS_TEST_SECRET"}"#), token("hush"));
    assert_eq!(load(r#"{"token": "a://b"}"#), token("a://b"));

    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "hush").unwrap();
    let json = serde_json::json!({ "token": format!("file://{}", file.path().display()) }).to_string();
    assert_eq!(load(&json), Auth::TokenFile(file.path().into()));
}

#[test]
fn variables_in_the_paths_of_a_context_are_expanded() {
    for path in ["$DIR/me.creds", "${DIR}/me.creds", "file://$DIR/me$UNSET.creds"] {
        let setup = Setup::new("").context("one", &serde_json::json!({ "creds": path }).to_string()).select("one");
        let file = setup.folder.path().join("me.creds");
        fs::write(&file, "x").unwrap();
        let folder = setup.folder.path().to_owned();
        assert_eq!(setup.env("DIR", folder).ok().nats.auth, Auth::Credentials(file), "{path}");
    }
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

    let firmware = s3_store(&config, "firmware");
    assert_eq!((firmware.bucket.as_str(), firmware.prefix.as_str()), ("bucket", "a b/"));
    assert_eq!(firmware.endpoint_url.as_deref(), Some("http://127.0.0.1:9000"));
    assert_eq!(firmware.path_style, None, "the store decides by its endpoint");
    assert_eq!(firmware.region.as_deref(), Some("eu-1"));
    assert_eq!((firmware.limits.range_bytes, firmware.limits.concurrency_max), (1 << 20, 4));

    let Store::File(local) = &config.stores[&"Local-1".parse().unwrap()] else { panic!("not a directory") };
    assert_eq!(local.root, Path::new("/srv/x"));
}

fn s3_store<'a>(config: &'a Config, name: &str) -> &'a s3::Options {
    let Store::S3(options) = &config.stores[&name.parse().unwrap()] else { panic!("{name} is not in S3") };
    options
}

#[test]
fn reads_are_shared_where_this_is_set_but_not_of_directories() {
    let toml = "[stores.s]\nurl = \"s3://models\"\nshared_reads = true\nshared_reads_bytes = 2097152\n\
                [stores.off]\nurl = \"s3://models\"\nshared_reads = false\n\
                [stores.f]\nurl = \"file:///srv/x\"\nshared_reads = true\n";
    let config = Setup::new(toml).ok();

    let names: Vec<_> = config.shared_reads.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["s"]);
    let limits = &config.shared_reads[&"s".parse().unwrap()];
    assert_eq!((limits.bytes_max, limits.first_bytes), (Some(2 << 20), 16 << 20));
}

#[test]
fn a_store_has_its_cache_and_shares_its_folder_with_no_other() {
    let toml = "[stores.s]\nurl = \"s3://models\"\ncache_dir = \"/var/c\"\ncache_bytes = 2097152\nserve_stale = true\n\
                [stores.off]\nurl = \"s3://models\"\n";
    let config = Setup::new(toml).ok();

    let [(name, cache)] = &config.caches.iter().collect::<Vec<_>>()[..] else { panic!("{:?}", config.caches) };
    assert_eq!((name.as_str(), cache.dir.as_path()), ("s", Path::new("/var/c")));
    assert_eq!((cache.limits.bytes_max, cache.limits.files_max), (2 << 20, 100_000));
    assert!(cache.options.serve_stale);

    let toml = "[stores.a]\nurl = \"s3://models\"\ncache_dir = \"/var/c\"\n\
                [stores.b]\nurl = \"s3://models\"\ncache_dir = \"/var/c\"\n\
                [stores.c]\nurl = \"s3://models\"\nserve_stale = true\n";
    let text = Setup::new(toml).load().unwrap_err().to_string();
    assert!(text.contains("`stores.a.cache_dir`") && text.contains("a folder of its own"), "{text}");
    assert!(text.contains("`stores.c.cache_dir` is missing"), "{text}");
}

#[test]
fn a_store_of_other_relays_has_a_connection_of_its_own() {
    let toml = "[nats]\nurl = \"nats://site\"\nuser = \"me\"\npassword = \"hush\"\n\
                [stores.own]\nurl = \"nats:models\"\n\
                [stores.own.nats]\nurl = \"tls://hub\"\ntoken = \"t\"\nconnect_timeout_ms = 700\n\
                [stores.named]\nurl = \"nats:models\"\nnats_context = \"hub\"\n\
                [stores.bypass]\nurl = \"nats:models\"\n[stores.bypass.nats]\nprefix = \"up\"\n";
    let setup = Setup::new(toml).context("hub", r#"{"url": "nats://context", "token": "c", "inbox_prefix": "_I"}"#);
    let config = setup.env("GANTRY_STORES__OWN__NATS__TLS_FIRST", "true").ok();
    let uplink = |name: &str| {
        let store = &config.stores[&name.parse().unwrap()];
        let Store::Nats(uplink) = store else { panic!("{store:?}") };
        uplink.clone()
    };

    let own = uplink("own");
    assert_eq!((own.store.as_str(), own.prefix.to_string().as_str()), ("models", "gantry"));
    assert_eq!((&own.nats.servers[..], own.nats.tls_first), (&["tls://hub".to_owned()][..], true));
    assert_eq!(own.nats.connect_timeout, Duration::from_millis(700));
    assert!(matches!(&own.nats.auth, Auth::Token(token) if token == "t"));

    let named = uplink("named").nats;
    assert_eq!((&named.servers[..], named.inbox_prefix.as_str()), (&["nats://context".to_owned()][..], "_I"));
    assert!(matches!(&named.auth, Auth::Token(token) if token == "c"));

    let bypass = uplink("bypass");
    assert_eq!((bypass.prefix.to_string().as_str(), &bypass.nats.servers[..]), ("up", &["nats://site".to_owned()][..]));
    assert!(matches!(&bypass.nats.auth, Auth::UserPassword { user, .. } if user == "me"));
    assert_eq!(config.shared_reads.len(), 3);
}

#[test]
fn a_store_that_the_relay_itself_would_be_asked_for_is_rejected() {
    let own = "[nats]\nurl = \"nats://localhost\"\n[stores.models]\nurl = \"nats:models\"\n";
    for (toml, problem) in [
        (own.to_owned(), Some("would ask this relay itself")),
        (format!("{own}[stores.models.nats]\nurl = \"nats://127.0.0.1:4222\"\n"), Some("would ask this relay itself")),
        (format!("{own}[stores.models.nats]\nurl = \"nats://127.0.0.1:4222\"\nuser = \"a\"\npassword = \"b\"\n"), None),
        (format!("{own}[stores.models.nats]\nprefix = \"up\"\n"), None),
        (own.replace("nats:models", "nats:others"), None),
        (own.replace("nats:models", "nats://hub/models"), Some("must be nats:STORE")),
        (format!("{own}[stores.models.nats]\nurll = \"nats://hub\"\n"), Some("`stores.models.nats.url`")),
        (
            format!("{own}[stores.f]\nurl = \"file:///f\"\n[stores.f.nats]\nurl = \"nats://hub\"\n")
                .replace("[stores.models]\nurl = \"nats:models\"\n", ""),
            Some("applies only to stores in nats:"),
        ),
    ] {
        match (Setup::new(&toml).load(), problem) {
            (Ok(_), None) => {}
            (Err(error), Some(problem)) => assert!(error.to_string().contains(problem), "{toml}: {error}"),
            (loaded, problem) => panic!("{toml}: {problem:?}, {:?}", loaded.err().map(|error| error.to_string())),
        }
    }
}

#[test]
fn stores_in_google_cloud_and_azure_have_their_options() {
    let toml = "[stores.g]\nurl = \"gs://models/a\"\nbilling_project = \"p\"\nrange_bytes = 1048576\n\
                [stores.z]\nurl = \"az://models/a\"\nanonymous = true\n\
                [stores.s]\nurl = \"s3://models\"\n";
    let setup = Setup::new(toml).env("STORAGE_EMULATOR_HOST", "127.0.0.1:4443").env("AZURE_STORAGE_ACCOUNT", "acct");
    let config = setup.env("AWS_ENDPOINT_URL", "http://aws:1").ok();

    let Store::Gcs(gcs) = &config.stores[&"g".parse().unwrap()] else { panic!("not in Google Cloud") };
    assert_eq!((gcs.bucket.as_str(), gcs.prefix.as_str(), gcs.limits.range_bytes), ("models", "a/", 1 << 20));
    assert_eq!(gcs.endpoint_url.as_deref(), Some("http://127.0.0.1:4443"));
    assert!(matches!(gcs.credentials, gcs::Credentials::Anonymous) && gcs.billing_project.as_deref() == Some("p"));

    let Store::Azure(azure) = &config.stores[&"z".parse().unwrap()] else { panic!("not in Azure") };
    let place = (azure.account.as_str(), azure.container.as_str(), azure.prefix.as_str());
    assert_eq!((place, &azure.endpoint_url), (("acct", "models", "a/"), &None));
    assert!(matches!(azure.credentials, azure::Credentials::Anonymous));
}

#[test]
fn own_settings_precede_those_of_an_emulator_and_the_environment() {
    let setup = Setup::new(
        "[stores.g]\nurl = \"gs://b\"\nanonymous = false\nendpoint_url = \"http://own:1\"\n\
         [stores.z]\nurl = \"az://models\"\naccount = \"own\"\nclient_id = \"c\"\n",
    );
    let config = setup.env("STORAGE_EMULATOR_HOST", "emulator:1").env("AZURE_STORAGE_ACCOUNT", "acct").ok();

    let Store::Gcs(gcs) = &config.stores[&"g".parse().unwrap()] else { panic!("not in Google Cloud") };
    assert_eq!(gcs.endpoint_url.as_deref(), Some("http://own:1"));
    assert!(matches!(gcs.credentials, gcs::Credentials::Default));
    let Store::Azure(azure) = &config.stores[&"z".parse().unwrap()] else { panic!("not in Azure") };
    assert_eq!(azure.account, "own");
    assert!(matches!(azure.credentials, azure::Credentials::ManagedIdentity { client: Some(_) }));
}

#[test]
fn ids_without_an_application_are_rejected() {
    let error =
        |lines: &str| Setup::new(&format!("[stores.z]\nurl = \"az://models\"\naccount = \"acct\"\n{lines}")).error();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    fs::write(&key, "hush").unwrap();

    for way in ["account_key_file", "sas_token_file", "azure_cli", "anonymous"] {
        let value = if way.ends_with("_file") { format!("{key:?}") } else { "true".to_owned() };
        for id in ["client_id", "tenant_id"] {
            let error = error(&format!("{way} = {value}\n{id} = \"id\"\n"));
            assert!(error.contains(&format!("`stores.z.{way}` (")) && error.contains("are set together"), "{error}");
            assert!(error.contains(&format!(": `{id}` belongs to `stores.z.client_secret_file`")), "{error}");
            assert!(error.ends_with("remove it") && error.lines().count() == 1 && !error.contains("hush"), "{error}");
        }
    }

    let alone = error("tenant_id = \"t\"\nclient_id = \"c\"\n");
    assert!(alone.starts_with("`stores.z.client_secret_file` is missing: `stores.z.tenant_id` ("), "{alone}");
}

#[test]
fn variables_of_clouds_that_are_not_read_are_warned_of() {
    let toml = "[stores.z]\nurl = \"az://models\"\naccount = \"acct\"\n[stores.g]\nurl = \"gs://models\"\n";
    let unread = |setup: Setup| {
        let setup = setup.env("AZURE_STORAGE_CONNECTION_STRING", "AccountKey=hush==");
        setup.env("AZURE_CLIENT_CERTIFICATE_PATH", "/hush.pem").env("GOOGLE_CREDENTIALS", "{\"private_key\":\"hush\"}")
    };

    let ignored = unread(Setup::new(toml)).ok().ignored;
    assert_eq!(ignored.len(), 3, "{ignored:?}");
    for expected in [
        "AZURE_STORAGE_CONNECTION_STRING is ignored for `stores.z`: set AZURE_STORAGE_KEY to its AccountKey",
        "AZURE_CLIENT_CERTIFICATE_PATH is ignored for `stores.z`: certificates of applications are not supported",
        "GOOGLE_CREDENTIALS is ignored for `stores.g`: name a file with the credentials",
    ] {
        assert!(ignored.iter().any(|line| line.starts_with(expected) && line.ends_with("or unset it")), "{ignored:?}");
    }
    assert!(!ignored.concat().contains("hush"), "{ignored:?}");

    let others =
        unread(Setup::new(toml)).env("AZURE_STORAGE_KEY", "hush").env("GOOGLE_APPLICATION_CREDENTIALS", "/key");
    assert_eq!(others.ok().ignored, Vec::<String>::new());
}

#[test]
fn settings_that_another_one_overrides_are_warned_of() {
    let toml = "[stores.z]\nurl = \"az://models\"\naccount = \"acct\"\nclient_id = \"mine\"\n";
    let ignored = Setup::new(toml).env("AZURE_CLIENT_SECRET", "hush").ok().ignored;
    assert_eq!(ignored.len(), 1, "{ignored:?}");
    assert!(ignored[0].starts_with("AZURE_CLIENT_SECRET is ignored: `stores.z.client_id` ("), "{ignored:?}");

    let toml = "[stores.s]\nurl = \"s3://models\"\nsession_token_file = \"/run/token\"\n";
    let ignored = Setup::new(toml).ok().ignored;
    assert!(ignored[0].contains("`stores.s.session_token_file` (") && ignored.len() == 1, "{ignored:?}");
    assert!(ignored[0].ends_with("it belongs to `stores.s.access_key_id_file`, set that or remove it"), "{ignored:?}");
}

#[test]
fn the_ids_of_an_application_come_from_the_environment_only_for_its_secret() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "hush").unwrap();
    let toml = format!(
        "[stores.a]\nurl = \"az://models\"\naccount = \"acct\"\nclient_id = \"own\"\nclient_secret_file = {secret:?}\n\
         [stores.e]\nurl = \"az://models\"\naccount = \"acct\"\n"
    );

    let error = Setup::new(&toml).error();
    assert!(error.contains("`stores.a.tenant_id` is missing: `stores.a.client_secret_file` ("), "{error}");
    assert!(error.contains(") requires it, or AZURE_TENANT_ID") && !error.contains("stores.e"), "{error}");
    let error = Setup::new(&toml).env("AZURE_TENANT_ID", "a b").error();
    assert!(error.contains("`stores.a.tenant_id` = \"a b\" in AZURE_TENANT_ID: must be the id of a tenant"), "{error}");

    let config = Setup::new(&toml).env("AZURE_TENANT_ID", "t").env("AZURE_CLIENT_ID", "c").ok();
    let Store::Azure(azure) = &config.stores[&"a".parse().unwrap()] else { panic!("not in Azure") };
    let azure::Credentials::ClientSecret { tenant, client, .. } = &azure.credentials else { panic!("{azure:?}") };
    assert_eq!((tenant.as_deref(), client.as_deref()), (Some("t"), Some("own")));
    let Store::Azure(azure) = &config.stores[&"e".parse().unwrap()] else { panic!("not in Azure") };
    assert!(matches!(azure.credentials, azure::Credentials::Environment));
}

#[test]
fn names_that_can_not_be_sent_are_rejected() {
    for (line, problem) in [
        ("billing_project = \"a b\"", "must be the id or the number of a project"),
        ("endpoint_url = \"http://a b\"", "must begin with http:// or https:// and name a host"),
        ("endpoint_url = \"https:///b\"", "must begin with http:// or https:// and name a host"),
    ] {
        let error = Setup::new(&format!("[stores.g]\nurl = \"gs://b\"\n{line}\n")).error();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn an_address_of_a_server_that_can_not_be_parsed_names_its_key() {
    for (address, problem) in [
        ("http://127.0.0.1:99999/acct", "must have a port from 1 to 65535"),
        ("http://127.0.0.1:x/acct", "must have a port from 1 to 65535"),
        ("http://:9/acct", "must begin with http:// or https:// and name a host"),
        ("http://1.2.3.999/acct", "must name a valid host: invalid IPv4 address"),
        ("http://xn--/acct", "must name a valid host: invalid international domain name"),
        ("http://[::1/acct", "must name a valid host: invalid IPv6 address"),
        ("http://%41:9/acct", "must contain only characters that URLs permit"),
    ] {
        for url in ["az://models", "gs://models", "s3://models"] {
            let setup = Setup::new(&format!("[stores.m]\nurl = {url:?}\nendpoint_url = {address:?}\n"));
            let error = setup.env("AZURE_STORAGE_ACCOUNT", "acct").error();
            assert!(error.starts_with(&format!("`stores.m.endpoint_url` = {address:?} in ")), "{error}");
            assert!(error.ends_with(&format!(":3: {problem}")), "{error}");
        }
    }
    for host in [":4443", "localhost:abc"] {
        let error = Setup::new("[stores.m]\nurl = \"gs://models\"\n").env("STORAGE_EMULATOR_HOST", host).error();
        let place = format!("`stores.m.endpoint_url` = \"http://{host}\" in STORAGE_EMULATOR_HOST: must ");
        assert!(error.starts_with(&place), "{error}");
    }
}

#[test]
fn an_address_of_another_account_is_rejected() {
    for (account, address, problem) in [
        (
            "acct",
            "http://127.0.0.1:10000/devstoreaccount1",
            "the address belongs to the account \"devstoreaccount1\": ",
        ),
        ("acct", "https://other.blob.core.windows.net", "the address belongs to the account \"other\": correct one"),
        ("acct", "https://blob.core.windows.net", "must be https://ACCOUNT.blob.core.windows.net, with the account's"),
        ("acct", "http://127.0.0.1:10000/acct/good", "remove the container from the end of the address, since `url`"),
        ("devstoreaccount1", "", "is the account of Azure's emulators: set it to the emulator's address, as in"),
    ] {
        let line = if address.is_empty() { String::new() } else { format!("endpoint_url = {address:?}\n") };
        let toml = format!("[stores.m]\nurl = \"az://good\"\naccount = {account:?}\n{line}");
        let error = Setup::new(&toml).error();
        assert!(error.contains("`stores.m.endpoint_url`") && error.contains(problem), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    for (account, address) in [
        ("acct", "https://acct-secondary.blob.core.windows.net"),
        ("acct", "https://acct.privatelink.blob.core.windows.net:443"),
        ("acct", "http://127.0.0.1:10000/acct"),
        ("devstoreaccount1", "http://azurite:10000/devstoreaccount1"),
        ("acct", "https://blobs.example.org"),
    ] {
        let toml = format!("[stores.m]\nurl = \"az://good\"\naccount = {account:?}\nendpoint_url = {address:?}\n");
        Setup::new(&toml).ok();
    }
}

#[test]
fn a_variable_for_the_account_that_is_not_read_is_named() {
    for (variable, value, cure) in [
        (
            "AZURE_STORAGE_CONNECTION_STRING",
            "AccountName=acct;AccountKey=hush==",
            "set AZURE_STORAGE_ACCOUNT to its AccountName, and AZURE_STORAGE_KEY to its AccountKey",
        ),
        (
            "AZURE_STORAGE_CONNECTION_STRING",
            "AccountName=acct;SharedAccessSignature=sv=1&sig=hush",
            "set AZURE_STORAGE_ACCOUNT to its AccountName, and AZURE_STORAGE_SAS_TOKEN to its SharedAccessSignature",
        ),
        ("AZURE_STORAGE_ACCOUNT_NAME", "acct", "set AZURE_STORAGE_ACCOUNT in its place"),
    ] {
        let error = Setup::new("[stores.m]\nurl = \"az://models\"\n").env(variable, value).error();
        assert_eq!(error, format!("`stores.m.account` is missing: {variable} is not read: {cure}"));
    }
}

#[test]
fn a_secret_in_place_of_a_name_or_a_server_is_not_printed() {
    let key = format!("{}==", "aB3+hush".repeat(11).split_at(86).0);
    let connection = "AccountName=a;AccountKey=hush==";
    for secret in ["sv=2023-11-03&sig=hush", connection, &key] {
        for toml in [
            format!("{secret:?} = 1\n"),
            format!("[stores.{secret:?}]\nurl = \"s3://b\"\n"),
            format!("[stores.s]\nurl = \"s3://b\"\n{secret:?} = 1\n"),
            format!("nats.url = {secret:?}\n"),
        ] {
            let error = Setup::new(&toml).error();
            assert!(error.contains("[redacted]") && !error.contains("hush"), "{toml}: {error}");
        }
    }
    let error = Setup::new("").env("NATS_URL", "az://models?sv=1&sig=hush%3D").error();
    let expected =
        "`nats.url` = \"az://models?[redacted]\" in NATS_URL: must be addresses such as nats://127.0.0.1:4222";
    assert_eq!(error, expected);
    for url in ["nats://a:1,tls://b", "WSS://h", "127.0.0.1:4222", "me:pw@h"] {
        Setup::new("").env("NATS_URL", url).ok();
    }
}

/// The key for the file of a secret was once suggested only if no other key was more similar.
#[test]
fn names_that_other_programs_have_for_a_key_are_known() {
    for (name, key) in [
        ("account_key", "account_key_file"),
        ("accountKey", "account_key_file"),
        ("azure_storage_account_key", "account_key_file"),
        ("storage_account_name", "account"),
        ("sas_token", "sas_token_file"),
        ("sasUrl", "sas_token_file"),
        ("client_secret", "client_secret_file"),
        ("azure_tenant_id", "tenant_id"),
        ("application_id", "client_id"),
        ("federated_token", "federated_token_file"),
        ("use_azure_cli", "azure_cli"),
        ("skip_signature", "anonymous"),
        ("credentials", "credentials_file"),
        ("service_account", "credentials_file"),
        ("application_credentials", "credentials_file"),
        ("google_application_credentials", "credentials_file"),
        ("user_project", "billing_project"),
        ("access_key_id", "access_key_id_file"),
        ("aws_secret_access_key", "secret_access_key_file"),
        ("session_token", "session_token_file"),
        ("force_path_style", "path_style"),
        ("endpoint", "endpoint_url"),
        ("accountKeyFile", "account_key_file"),
    ] {
        let url = match key {
            "credentials_file" | "billing_project" => "gs://models",
            "access_key_id_file" | "secret_access_key_file" | "session_token_file" | "path_style" => "s3://models",
            _ => "az://models",
        };
        let error = Setup::new(&format!("[stores.s]\nurl = {url:?}\n{name} = \"hush\"\n")).error();
        assert!(error.contains(&format!("did you mean `stores.s.{key}`")), "{error}");
        assert!(error.lines().count() == 1 && !error.contains("hush"), "{error}");

        let is_of_content = key.ends_with("_file") && !name.ends_with("File");
        assert_eq!(error.ends_with(", which takes the path of a file?"), is_of_content, "{error}");
    }

    for (name, cure) in [
        ("connection_string", "set `account` to the AccountName of the connection string, and write its AccountKey to"),
        ("AZURE_STORAGE_CONNECTION_STRING", "set `account` to the AccountName of the connection string"),
        ("container_name", "the bucket or container and the prefix belong to `url`, as in"),
        (
            "prefix",
            "the bucket or container and the prefix belong to `url`, as in s3://bucket/prefix, gs://bucket/prefix or \
             az://container/prefix; that of upstream relays belongs to `nats.prefix`",
        ),
        ("project_id", "reading a bucket requires no project, remove the key; a project that pays"),
        ("use_managed_identity", "the managed identity of the machine is used if no credentials are set"),
    ] {
        let error = Setup::new(&format!("[stores.s]\nurl = \"az://models\"\n{name} = \"hush\"\n")).error();
        let start = format!("`stores.s.{name}` in ");
        assert!(error.starts_with(&start) && error.lines().count() == 1 && !error.contains("hush"), "{error}");
        assert!(error.contains(&format!(" is not a configuration key: {cure}")), "{error}");
    }
}

#[test]
fn a_name_that_no_key_of_the_store_resembles_has_no_hint() {
    for name in [
        "client_certificate_file",
        "key",
        "auth",
        "user",
        "username",
        "password",
        "token",
        "access_token",
        "cloud",
        "allow_http",
        "version_id",
        "subscription",
        "use_emulator",
        "authority_host",
        "secret_access_token",
        "credentials",
        "user_project",
        "force_path_style",
    ] {
        let error = Setup::new(&format!("[stores.s]\nurl = \"az://models\"\n{name} = \"hush\"\n")).error();
        assert!(error.ends_with(" is not a configuration key") && error.lines().count() == 1, "{error}");
    }
    for (name, key) in [("access_key", "account_key_file"), ("acount", "account"), ("endpiont_url", "endpoint_url")] {
        let error = Setup::new(&format!("[stores.s]\nurl = \"az://models\"\n{name} = \"hush\"\n")).error();
        assert!(error.contains(&format!("did you mean `stores.s.{key}`")), "{error}");
    }
    let setup = Setup::new("[stores.s]\nurl = \"az://models\"\n").env("GANTRY_STORES__S__ACCESS_KEY", "hush");
    assert!(setup.error().contains("did you mean `GANTRY_STORES__S__ACCOUNT_KEY_FILE`"));
}

#[test]
fn variables_with_names_of_other_programs_are_known() {
    for (variable, expected) in [
        ("ACCOUNT_KEY", "did you mean `GANTRY_STORES__S__ACCOUNT_KEY_FILE`, which takes the path of a file?"),
        ("ACOUNT", "did you mean `GANTRY_STORES__S__ACCOUNT`?"),
        ("CONNECTION_STRING", "is not a configuration key: set `account` to the AccountName of the connection string"),
    ] {
        let error = Setup::new("").env(&format!("GANTRY_STORES__S__{variable}"), "hush").error();
        assert!(error.contains(expected) && error.lines().count() == 1 && !error.contains("hush"), "{error}");
    }
    for (key, expected) in [("nats.creds", "nats.creds_file"), ("gateway.access_key_id", "gateway.access_key_id_file")]
    {
        let error = Setup::new(&format!("{key} = \"hush\"\n")).error();
        let suggestion = format!("did you mean `{expected}`, which takes the path of a file?");
        assert!(error.ends_with(&suggestion), "{error}");
    }
}

/// The value was once reported, too.
#[test]
fn a_key_of_another_kind_is_one_problem_whatever_its_value() {
    for (url, key, value, kind) in [
        ("gs://models", "account", "my-project", "az://"),
        ("gs://models", "account", "AccountName=a;AccountKey=hush", "az://"),
        ("s3://models", "tenant_id", "a/b", "az://"),
        ("az://models", "billing_project", "a b", "gs://"),
        ("az://models", "region", "EU WEST", "s3://"),
    ] {
        let setup = Setup::new(&format!("[stores.s]\nurl = {url:?}\n{key} = {value:?}\n"));
        let error = setup.env("AZURE_STORAGE_ACCOUNT", "acct").error();
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.ends_with(&format!("`stores.s.{key}` applies only to stores in {kind}, remove it")), "{error}");
        assert!(!error.contains("hush"), "{error}");
    }
}

#[test]
fn a_secret_in_place_of_an_id_or_a_name_has_a_cure() {
    let storage_key = format!("{}==", "aB3+hush".repeat(11).split_at(86).0);
    let storage_key = storage_key.as_str();
    let of_application = "a secret, which belongs to a file that `client_secret_file` names";
    for (url, key, secret, cure) in [
        ("az://models", "tenant_id", "abc8Q~hush.hush", "must be the id of a tenant, not a secret, which belongs to"),
        ("az://models", "tenant_id", "aB3hush+x0123456789aB3hush+x0123456789aB3=", of_application),
        ("az://models", "client_id", "abc8Q~hush.hush", "must be the id of an application, not its secret, which"),
        ("az://models", "account", storage_key, "the key belongs to a file that `account_key_file` names"),
        ("gs://models", "billing_project", "ya29.hush", "credentials belong to a file that `credentials_file` names"),
    ] {
        let setup = Setup::new(&format!("[stores.s]\nurl = {url:?}\n{key} = {secret:?}\n"));
        let setup = if key == "account" { setup } else { setup.env("AZURE_STORAGE_ACCOUNT", "acct") };
        let error = setup.error();
        assert!(error.starts_with(&format!("`stores.s.{key}` = \"[redacted]\" in ")), "{error}");
        assert!(error.contains(cure) && error.lines().count() == 1 && !error.contains("hush"), "{error}");
    }
    let address = Setup::new("[stores.s]\nurl = \"az://models\"\naccount = \"https://Acct.blob.core.windows.net/\"\n");
    assert!(address.error().ends_with("3 to 24 lower-case letters and digits, as in acct"));
}

/// Consumers tolerate at most 10 s per beat, and would consider the relay lost after three of them.
#[test]
fn a_beat_that_is_too_slow_for_failover_is_rejected() {
    let error = Setup::new("[relay]\nbeat_interval_ms = 60000\nidle_timeout_ms = 200000").error();
    assert!(error.contains("`relay.beat_interval_ms` = 60000"), "{error}");
    assert!(error.contains("must be an integer between 50 and 10000"), "{error}");
}

#[test]
fn the_s3_server_of_the_aws_variables_is_a_setting_with_the_lowest_precedence() {
    let toml = "[stores.a]\nurl = \"s3://b\"\n[stores.d]\nurl = \"file:///d\"\n";
    let setup = |toml: &str| Setup::new(toml).env("AWS_ENDPOINT_URL", "http://aws:1");

    let config = setup(toml).ok();
    let a = s3_store(&config, "a");
    assert_eq!(a.endpoint_url, None, "the SDK reads the variable itself");

    let (_, effective) = setup(toml).env("AWS_ENDPOINT_URL_S3", "http://s3:2").sources().0.read();
    let lines: Vec<_> = effective.iter().map(ToString::to_string).collect();
    let line = "stores.a.endpoint_url = \"http://s3:2\"  # AWS_ENDPOINT_URL_S3";
    assert!(lines.iter().any(|found| found == line), "{lines:?}");
    assert!(!lines.iter().any(|found| found.starts_with("stores.d.endpoint_url")), "{lines:?}");

    let own = "[stores.a]\nurl = \"s3://b\"\nendpoint_url = \"http://own\"\n";
    assert_eq!(s3_store(&setup(own).ok(), "a").endpoint_url.as_deref(), Some("http://own"));
    let ignored = setup(toml).env("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true").ok();
    assert_eq!(s3_store(&ignored, "a").endpoint_url, None);
}

#[test]
fn the_certificate_authorities_of_the_aws_variable_are_those_of_stores_without_their_own() {
    let pem = |setup: &Setup, name: &str| {
        let path = setup.folder.path().join(name);
        fs::write(&path, "-----BEGIN CERTIFICATE-----").unwrap();
        path
    };
    let mut setup = Setup::new("");
    let (of_environment, own) = (pem(&setup, "bundle.pem"), pem(&setup, "own.pem"));
    let toml = format!("[stores.a]\nurl = \"s3://b\"\n[stores.c]\nurl = \"s3://b\"\ntls_ca_file = {own:?}\n");
    fs::write(setup.folder.path().join("gantry.toml"), toml).unwrap();
    setup = setup.env("AWS_CA_BUNDLE", &of_environment);

    let config = setup.ok();

    assert_eq!(s3_store(&config, "a").tls_ca_file.as_ref(), Some(&of_environment));
    assert_eq!(s3_store(&config, "c").tls_ca_file.as_ref(), Some(&own));
    let missing = Setup::new("[stores.a]\nurl = \"s3://b\"\n").env("AWS_CA_BUNDLE", "/no/such.pem").error();
    assert!(missing.contains("`stores.a.tls_ca_file` = \"/no/such.pem\" in AWS_CA_BUNDLE"), "{missing}");
}

#[test]
fn requests_are_anonymous_or_signed() {
    let store = |lines: &str| format!("[stores.a]\nurl = \"s3://b\"\n{lines}");

    let config = Setup::new(&store("anonymous = true\nrequester_pays = true\n")).ok();
    let options = s3_store(&config, "a");
    assert!(matches!(options.credentials, s3::Credentials::Anonymous) && options.requester_pays);

    let setup = Setup::new("");
    for name in ["id", "secret"] {
        fs::write(setup.folder.path().join(name), "x").unwrap();
    }
    let path = |name: &str| setup.folder.path().join(name).display().to_string();
    let keys = format!("access_key_id_file = {:?}\nsecret_access_key_file = {:?}\n", path("id"), path("secret"));
    let error = Setup::new(&store(&format!("anonymous = true\n{keys}"))).error();
    assert!(error.contains("`stores.a.anonymous`") && error.contains("`stores.a.access_key_id_file`"), "{error}");
}

/// Asserts that each file causes one problem with its text.
fn assert_problems(cases: &[(&str, &str)]) {
    for (toml, problem) in cases {
        let setup = Setup::new(toml);
        let problem = problem.replace("{file}", &setup.folder.path().join("gantry.toml").display().to_string());
        let error = setup.error();
        assert!(error.contains(&problem), "{toml:?}\n gives: {error}\n  want: {problem}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn problems_name_key_value_line_and_cure() {
    assert_problems(&[
        (
            "[relay]\nchunk_max_bytes = 0",
            "`relay.chunk_max_bytes` = 0 in {file}:2: must be an integer between 1024 and 8388608",
        ),
        (
            "[relay]\ntransfers_max = \"many\"",
            "`relay.transfers_max` = \"many\" in {file}:2: must be an integer between 1 and",
        ),
        (
            "[relay]\ntransfer_max = 1",
            "`relay.transfer_max` in {file}:2 is not a configuration key; did you mean `relay.transfers_max`?",
        ),
        (
            "chunk_max_bytes = 4096",
            "`chunk_max_bytes` in {file}:1 is not a configuration key; did you mean `relay.chunk_max_bytes`?",
        ),
        ("prefx = \"x\"", "`prefx` in {file}:1 is not a configuration key; did you mean `prefix`?"),
        ("prefix = \"a b\"", "`prefix` = \"a b\" in {file}:1: must be tokens separated by dots"),
        ("relay = 5", "`relay` = 5 in {file}:1: is a section: put its keys below `[relay]`"),
        (
            "[relay]\nidle_timeout_ms = 1500",
            "`relay.idle_timeout_ms` = 1500 in {file}:2: must be at least twice `relay.beat_interval_ms`, 1000",
        ),
        (
            "[relay]\nwindow_max_bytes = 65536",
            "`relay.window_max_bytes` = 65536 in {file}:2: must be at least `relay.chunk_max_bytes`",
        ),
        ("[relay]\ndelivery_allow = [\"_INBOX.>\"]", "`relay.delivery_allow` = \"_INBOX.>\" in {file}:2: "),
        ("[relay]\ndelivery_allow = [1]", "`relay.delivery_allow` = a list in {file}:2: must be a list of texts"),
        (
            "[nats]\nuser = \"x\"",
            "`nats.password` is missing: `nats.user` ({file}:2) requires it, or `nats.password_file`",
        ),
        (
            "[nats]\ncreds_file = \"/none/x\"",
            "`nats.creds_file` = \"/none/x\" in {file}:2: can't be read: No such file",
        ),
        (
            "[nats]\ntls_cert_file = \"/x\"",
            "`nats.tls_key_file` is missing: `nats.tls_cert_file` ({file}:2) requires it",
        ),
        ("[nats]\npassword = 5", "`nats.password` = [redacted] in {file}:2: must be text, in quotes"),
        ("[nats]\ntls_first = \"yes\"", "`nats.tls_first` = \"yes\" in {file}:2: must be true or false"),
        ("[nats]\nurl = \"\"", "`nats.url` = \"\" in {file}:2: must not be empty: remove the key instead"),
        ("[log]\nformat = \"xml\"", "`log.format` = \"xml\" in {file}:2: must be one of text, json"),
        ("[log]\nlevel = \"loud=x=y\"", "`log.level` = \"loud=x=y\" in {file}:2: "),
        (
            "[log]\nlevel = \"warning\"",
            "`log.level` = \"warning\" in {file}:2: must be error, warn, info, debug, trace or off, or levels by module as in info,gantry_relay=debug; did you mean `warn`?",
        ),
        ("[relay]\ntransfers_max = 99999999999999999999", "in {file}:2: must be an integer between 1 and 100000"),
        ("prefix =", "configuration file {file}:1:9: "),
    ]);
}

#[test]
fn problems_of_stores_name_key_value_line_and_cure() {
    assert_problems(&[
        (
            "[stores.a]",
            "`stores.a.url` is missing: set it to `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `nats:STORE` or `file:///dir` for the store in {file}:1",
        ),
        ("[stores.a]\nregion = \"x\"", "for the store in {file}:2"),
        ("[stores.a.nats]\nurl = \"nats://h\"", "`nats:STORE` or `file:///dir` for the store in {file}:2"),
        (
            "[stores.a]\nurl = \"ftp://x\"",
            "`stores.a.url` = \"ftp://x\" in {file}:2: must be s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, nats:STORE or file:///dir, not ftp://",
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
            "`stores.a b.url` = \"a b\" in {file}:2: store name \"a b\" is not 1 to 64 characters",
        ),
        (
            "[stores.a]\nurl = \"s3://b\"\naccess_key_id_file = \"/x\"",
            "`stores.a.secret_access_key_file` is missing: `stores.a.access_key_id_file` ({file}:3) requires it",
        ),
    ]);
}

/// The rows of the documentation's table: a configuration file, or `NAME=value` of the environment.
const WRONG: &[&str] = &[
    "relay.transfer_max = 100",
    "GANTRY_RELAY_TRANSFERS_MAX=100",
    "nats.tls_first = \"yes\"",
    "relay.chunk_max_bytes = 0",
    "relay.idle_timeout_ms = 1500",
    "prefix =",
    "stores.files.region = \"eu-west-1\"",
    "stores.files.url = \"ftp://bucket\"",
    "stores.files = { url = \"s3://bucket\", endpoint_url = \"minio:9000\" }",
    "stores.files = { url = \"s3://bucket\", access_key_id_file = \"/run/s3/id\" }",
    "nats = { creds_file = \"/run/nats/relay.creds\", token_file = \"/run/nats/token\" }",
    "nats.creds_file = \"/run/nats/relay.creds\"",
    "nats.user = \"relay\"",
    "http.listen = \"8080\"",
    "log.format = \"xml\"",
    "GANTRY_LOG=warning",
    "telemetry.otlp_endpoint = \"https://collector:4318\"",
    "stores.files.url = \"s3://me:secret@bucket\"",
    "stores.files = { url = \"s3://bucket\", region = \"EU WEST\" }",
    "stores.files = { url = \"s3://bucket\", endpoint_url = \"http://me:secret@minio:9000\" }",
    "stores.files.url = \"https://acct.blob.core.windows.net/models?sv=1&sig=secret\"",
    "stores.files.url = \"https://acct.blob.core.chinacloudapi.cn/models\"",
    "stores.files.url = \"https://storage.googleapis.com/models/a\"",
    "stores.files.url = \"gs://models?generation=1\"",
    "stores.files.url = \"az://Models\"",
    "stores.files.url = \"az://models@acct/a\"",
    "stores.files.url = \"gs://storage.googleapis.com/models/a\"",
    "stores.files.url = \"abfss://models@acct.dfs.core.windows.net/a\"",
    "stores.files.url = \"GS://models/a\"",
    "stores.files = { url = \"az://models\", account = \"acct\", azure_cli = true, client_id = \"app\" }",
    "stores.files = { url = \"az://models\", account = \"acct\", tenant_id = \"tenant\" }",
    "stores.files.url = \"az://models\"",
    "stores.files = { url = \"az://models\", account = \"AccountName=acct;AccountKey=secret==\" }",
    "stores.files = { url = \"az://models\", account = \"acct\", tenant_id = \"a/b\" }",
    "stores.files = { url = \"gs://models\", billing_project = \"my project\" }",
    "stores.files = { url = \"az://models\", account = \"acct\", azure_cli = true, anonymous = true }",
    "stores.files = { url = \"gs://models\", account = \"acct\" }",
    "stores.files.url = \"AccountName=acct;AccountKey=secret==;EndpointSuffix=core.windows.net\"",
    "stores.files.url = \"UseDevelopmentStorage=true\"",
    "stores.files = { url = \"az://models\", account = \"acct\", endpoint_url = \"https://acct.blob.core.windows.net/models\" }",
    "stores.files = { url = \"az://models\", account_key = \"secret==\" }",
    "stores.files = { url = \"az://models\", connection_string = \"AccountName=acct;AccountKey=secret==\" }",
    "stores.files = { url = \"az://models\", account = \"acct\", tenant_id = \"abc8Q~secret\" }",
    "stores.files = { url = \"az://models\", account = \"acct\", sas_token_file = \"sv=2023-11-03&sig=secret\" }",
    "stores.files = { url = \"gs://models\", credentials_file = \"/run/google.json\" }",
];

/// Returns the message for a configuration whose file is in `/etc/gantry`.
fn message(wrong: &str) -> String {
    let setup = match wrong.split_once('=') {
        Some((name, value)) if name.starts_with(ENV_PREFIX) => Setup::new("").env(name, value),
        _ => Setup::new(wrong),
    };
    let folder = setup.folder.path().display().to_string();
    setup.error().replace(&folder, "/etc/gantry")
}

#[test]
fn the_documentation_has_the_messages_for_invalid_configurations() {
    let rows: String = WRONG.iter().map(|wrong| format!("| `{wrong}` | `` {} `` |\n", message(wrong))).collect();
    let page = include_str!("../../docs/CONFIGURATION.md");
    assert!(page.contains(&rows), "docs/CONFIGURATION.md must hold:\n{rows}");
}

#[test]
fn all_problems_are_reported_together() {
    let error = Setup::new("prefx = 1\n[relay]\ntransfers_max = 0\n").env("GANTRY_RELAY__CHUNK_MAX_BYTES", "1").error();
    assert_eq!(error.lines().count(), 3, "{error}");

    // Checks between keys run although single keys are invalid.
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
    let error = Setup::new("").env("GANTRY_LOG", "verbose").error();
    assert!(error.starts_with("`log.level` = \"verbose\" in GANTRY_LOG: must be error, warn"), "{error}");
    let error = Setup::new("").flag("log.level", "warning", "--log-level").error();
    assert!(error.contains("in --log-level: ") && error.ends_with("did you mean `warn`?"), "{error}");
    let error = Setup::new("").env("NATS_TIMEOUT", "5 parsecs").error();
    assert!(error.contains("\"5 parsecs\" in NATS_TIMEOUT: must be a duration such as"), "{error}");
}

/// These variables were once ignored, so that a command connected without its credentials.
#[cfg(unix)]
#[test]
fn variables_that_are_not_utf_8_are_reported() {
    use std::os::unix::ffi::OsStringExt as _;
    let value = || OsString::from_vec(b"/run/\xff".to_vec());
    for name in ["NATS_CREDS", "GANTRY_NATS__CREDS_FILE", "GANTRY_COLOUR", "NATS_CONTEXT", "NATS_TIMEOUT"] {
        let error = Setup::new("").env(name, value()).error();
        assert_eq!(error, format!("`{name}` in the environment is not UTF-8: set it to text, or unset it"));
    }
    Setup::new("").env("OTHER", value()).ok();
    let telemetry = Setup::new("").env("OTEL_EXPORTER_OTLP_ENDPOINT", value()).ok().telemetry;
    assert!(telemetry.ignored.is_some_and(|reason| reason.contains("not UTF-8")));
}

#[test]
fn variables_of_kubernetes_services_named_gantry_are_ignored() {
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
fn durations_have_the_format_of_the_nats_command() {
    for (text, ms) in [
        ("5s", 5000),
        ("500ms", 500),
        ("1m30s", 90_000),
        ("2h", 7_200_000),
        ("1.5s", 1500),
        (".5s", 500),
        ("1.s", 1000),
        ("1h0.25m", 3_615_000),
        ("+5s", 5000),
        ("1us", 1),
        ("1500µs", 2),
    ] {
        assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
    }
    for text in
        ["", "5", "s", ".s", "5x", "-1s", "0s", "1.5.s", "1 s", "99999999999999999999s", "18446744073709551615h"]
    {
        assert!(parse_duration_ms(text).is_err(), "{text}");
    }
}

/// Other programs have other bounds, and a timeout that is valid for them once made every command fail.
#[test]
fn the_timeout_of_the_nats_command_is_clamped() {
    for (text, timeout) in
        [("2s", Duration::from_secs(2)), ("1.5s", Duration::from_millis(1500)), ("20m", Duration::from_secs(600))]
    {
        assert_eq!(Setup::new("").env("NATS_TIMEOUT", text).ok().nats.connect_timeout, timeout);
    }
}

#[test]
fn debug_shows_no_secret() {
    let toml = "[nats]\nurl = \"nats://u:hidden@host\"\nuser = \"u\"\npassword = \"hidden\"\n";
    let shown = format!("{:?}", Setup::new(toml).ok());
    assert!(!shown.contains("hidden"), "{shown}");
}

#[test]
fn files_of_secrets_must_not_be_empty() {
    let setup = Setup::new("");
    let path = setup.folder.path().join("password");
    fs::write(&path, "s3cret\n").unwrap();
    let setup = setup.env("GANTRY_NATS__PASSWORD_FILE", path.as_path()).env("GANTRY_NATS__USER", "u");
    let (sources, _folder) = setup.sources();
    let expected = Auth::UserPasswordFile { user: "u".to_owned(), password: path.clone() };
    assert_eq!(sources.clone().load().unwrap().nats.auth, expected);

    fs::write(&path, "\n").unwrap();
    let error = sources.load().unwrap_err().to_string();
    assert!(error.ends_with("in GANTRY_NATS__PASSWORD_FILE: the file is empty"), "{error}");
}

#[test]
fn every_key_of_the_table_is_accepted() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    for spec in KEYS {
        let key = spec.name.replace(lookup::STORE_PLACEHOLDER, "a");
        let value = match spec.kind {
            Kind::Path => file.display().to_string(),
            Kind::Switch => "true".to_owned(),
            Kind::Integer { max, .. } | Kind::Millis { max, .. } => max.to_string(),
            Kind::Choice(words) => words[0].to_owned(),
            Kind::Text | Kind::Secret | Kind::List => match spec.name {
                "stores.NAME.url" => "s3://bucket".to_owned(),
                "stores.NAME.endpoint_url" => "http://host".to_owned(),
                "relay.delivery_allow" => "_X.".to_owned(),
                "http.listen" => "off".to_owned(),
                "gateway.listen" => "unix:/run/gantry.sock".to_owned(),
                "telemetry.otlp_endpoint" => "http://host:4318".to_owned(),
                "log.level" => "debug".to_owned(),
                _ => "x".to_owned(),
            },
        };
        let mut sources = Sources::default();
        sources.flags.set("stores.a.url", "s3://bucket", "--store");
        sources.flags.set(&key, value, "test");
        // Some keys require another one. The table and the types must agree.
        match sources.load() {
            Ok(_) => {}
            Err(error) => assert!(error.problems.iter().all(|problem| !error_is_of_types(problem)), "{key}: {error}"),
        }
    }
}

fn error_is_of_types(problem: &Problem) -> bool {
    matches!(problem, Problem::Unknown { .. } | Problem::Foreign { .. })
        || matches!(problem, Problem::Missing { key, .. } if key == "configuration")
}

#[test]
fn effective_settings_name_their_origin_and_hide_secrets() {
    let setup = Setup::new("[stores.a]\nurl = \"s3://b\"\n").env("NATS_PASSWORD", "hush").env("NATS_USER", "u");
    let setup = setup.env("NATS_URL", "nats://u:hush@h:1");
    let (sources, _folder) = setup.sources();
    let lines = sources.read().1;
    let line = |key: &str| lines.iter().find(|line| line.key == key).unwrap().to_string();
    assert_eq!(line("nats.password"), "nats.password = \"[redacted]\"  # NATS_PASSWORD");
    assert_eq!(line("nats.url"), "nats.url = \"nats://[redacted]@h:1\"  # NATS_URL");
    assert_eq!(line("stores.a.concurrency_max"), "stores.a.concurrency_max = 4  # defaults");
    let url = line("stores.a.url");
    assert!(url.starts_with("stores.a.url = \"s3://b\"  # /") && url.ends_with("gantry.toml:2"), "{url}");
    assert!(lines.iter().all(|line| !line.to_string().contains("hush")));
}

#[test]
fn the_http_pages_are_on_loopback_by_default() {
    let http = |setup: Setup| setup.ok().http;
    let default = Http { listen: Some("127.0.0.1:8080".parse().unwrap()), is_chosen: false };
    assert_eq!(http(Setup::new("")), default);
    assert_eq!(
        http(Setup::new("").flag("http.listen", "127.0.0.1:8080", "--http")),
        Http { is_chosen: true, ..default }
    );
    assert_eq!(http(Setup::new("[http]\nlisten = \"off\"\n")).listen, None);
    let error = Setup::new("[http]\nlisten = \"8080\"\n").error();
    assert!(error.starts_with("`http.listen` = \"8080\" in /") && error.contains("127.0.0.1:8080"), "{error}");
}

#[test]
fn the_front_listens_on_an_address_or_a_unix_socket() {
    let gateway = |setup: Setup| setup.ok().gateway;
    assert_eq!(gateway(Setup::new("")).listen, None);
    for (text, listen) in [
        ("[::1]:9000", ListenAddress::Tcp("[::1]:9000".parse().unwrap())),
        ("unix:/run/g.sock", ListenAddress::Unix("/run/g.sock".into())),
    ] {
        assert_eq!(gateway(Setup::new("").flag("gateway.listen", text, "--listen")).listen, Some(listen));
    }

    for invalid in ["9000", "localhost:9000", "unix:"] {
        let error = Setup::new(&format!("[gateway]\nlisten = \"{invalid}\"\n")).error();
        assert!(error.contains("`gateway.listen`") && error.contains(invalid), "{error}");
    }
}

#[test]
fn the_front_takes_limits_and_origins_from_its_section() {
    let text = "[gateway]\nconnections_max = 7\ncors_origins = [\"https://a.example\"]\nread_ahead_bytes = 8388608\naccess_log = \"json\"\n";
    let gateway = Setup::new(text).ok().gateway;
    assert_eq!((gateway.front.connections_max, gateway.upstream.ahead_total_bytes()), (7, 8 << 20));
    assert_eq!(gateway.front.cors_origins, gantry_http::CorsOrigins::These(vec!["https://a.example".to_owned()]));
    assert_eq!(gateway.access_log, Some(AccessLog::Json));

    let any = Setup::new("[gateway]\ncors_origins = [\"*\"]\n").ok().gateway;
    assert_eq!((any.front.cors_origins, any.access_log), (gantry_http::CorsOrigins::Any, None));
}

/// A platform sets such a variable in every container. It once made every command fail.
#[test]
fn an_unsupported_collector_from_the_environment_only_turns_traces_off() {
    let telemetry = |setup: Setup| setup.ok().telemetry;
    let (general, special) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    let own = "[telemetry]\notlp_endpoint = \"http://own:4318/\"\n";

    let found = telemetry(Setup::new("").env(general, "https://h"));
    assert!(found.traces_url.is_none() && found.ignored.is_some());
    let found = telemetry(Setup::new(own).env(general, "https://h"));
    let expected =
        Telemetry { traces_url: Some("http://own:4318/v1/traces".to_owned()), is_inherited: false, ignored: None };
    assert_eq!(found, expected);
    let found = telemetry(Setup::new(own).env(general, "http://h:1"));
    assert_eq!((found.traces_url.as_deref(), found.is_inherited), (Some("http://h:1/v1/traces"), true));
    let found = telemetry(Setup::new("").env(general, "http://h:1").env(special, "http://h:2/own"));
    assert_eq!(found.traces_url.as_deref(), Some("http://h:2/own"));
    assert_eq!(telemetry(Setup::new(own).env("OTEL_SDK_DISABLED", "true")).traces_url, None);

    let error = Setup::new("").env("GANTRY_TELEMETRY__OTLP_ENDPOINT", "https://u:hush@h").error();
    assert!(error.contains("GANTRY_TELEMETRY__OTLP_ENDPOINT") && !error.contains("hush"), "{error}");
}

/// Messages once contained passwords of addresses without a scheme, of addresses with `/`, `?` or `#` in the password,
/// and of invalid stores.
#[test]
fn no_message_contains_the_password_of_an_address() {
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
        let (config, effective) = setup.sources().0.read();
        let told = config.err().map(|error| error.to_string()).unwrap_or_default();
        let lines = effective.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(!told.contains("hush") && !lines.contains("hush"), "{told}\n{lines}");
    }
}

/// The settings for `--check` were once read a second time, when the pipe was empty.
#[cfg(unix)]
#[test]
fn a_configuration_in_a_pipe_is_read_once() {
    use std::io::Write as _;
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"prefix = \"piped\"\n").unwrap();
    drop(writer);
    let file = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
    let (config, effective) = Sources { file: Some(file.into()), ..Sources::default() }.read();
    assert_eq!(config.unwrap().prefix, Prefix::new("piped".to_owned()).unwrap());
    assert_eq!(effective.iter().find(|line| line.key == "prefix").unwrap().value, "\"piped\"");
}
