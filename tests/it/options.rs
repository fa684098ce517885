//! How the command finds nats-server and authenticates: flags, variables, contexts, configuration.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::gantry::{Command, Output};
use crate::support::{Nats, NatsOptions, Relay, data, gantry};

const USER: &str = "authorization { user: ann, password: s3cret }";
const TOKEN: &str = "authorization { token: t0ken }";

/// The exit code without a relay, which shows that nats-server accepted the credentials.
const LET_IN: i32 = 5;
const REFUSED: i32 = 8;

fn stat() -> Command {
    gantry(["stat", "files/a"])
}

async fn guarded(config: &str) -> Nats {
    Nats::start(NatsOptions { config: config.to_owned(), ..NatsOptions::default() }).await
}

/// Writes a context of the `nats` command line below `home`, and selects it.
fn select(home: &Path, name: &str, context: &serde_json::Value) {
    let contexts = home.join("nats").join("context");
    std::fs::create_dir_all(&contexts).unwrap();
    std::fs::write(contexts.join(format!("{name}.json")), context.to_string()).unwrap();
    std::fs::write(home.join("nats").join("context.txt"), name).unwrap();
}

#[track_caller]
fn assert_let_in(output: Output) {
    let output = output.expect_code(LET_IN);
    assert!(output.stderr.contains("no relay is listening"), "{}", output.stderr);
}

#[tokio::test]
async fn user_and_password_come_from_flags_or_variables() {
    let nats = guarded(USER).await;
    let right = [("NATS_USER", "ann"), ("NATS_PASSWORD", "s3cret")];
    let with = |variables: &[(&str, &str)]| {
        variables.iter().fold(stat().nats(&nats), |command, (name, value)| command.env(name, value))
    };

    assert_let_in(with(&right).run().await);
    assert_let_in(stat().nats(&nats).arg("--user").arg("ann").arg("--password").arg("s3cret").run().await);
    assert_let_in(with(&[("NATS_TOKEN", "x")]).arg("--user=ann").arg("--password=s3cret").run().await);
    for wrong in [&[][..], &[("NATS_USER", "ann"), ("NATS_PASSWORD", "wrong")], &[("NATS_TOKEN", "s3cret")]] {
        let output = with(wrong).run().await.expect_code(REFUSED);
        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
        assert!(!output.stderr.contains("s3cret"), "{}", output.stderr);
    }
}

#[tokio::test]
async fn a_token_comes_from_its_own_setting_or_as_the_user() {
    let nats = guarded(TOKEN).await;

    assert_let_in(stat().nats(&nats).arg("--token=t0ken").run().await);
    assert_let_in(stat().nats(&nats).env("NATS_USER", "t0ken").run().await);
    let folder = data::folder();
    let file = folder.path().join("token");
    std::fs::write(&file, "t0ken\n").unwrap();
    assert_let_in(stat().nats(&nats).env("GANTRY_NATS__TOKEN_FILE", &file).run().await);
    stat().nats(&nats).run().await.expect_code(REFUSED);
}

#[tokio::test]
async fn the_selected_context_is_used_and_overruled() {
    let right = guarded(USER).await;
    let other = guarded(TOKEN).await;
    let home = data::folder();
    let context = serde_json::json!({ "url": right.url(), "user": "ann", "password": "s3cret", "nsc": "" });
    select(home.path(), "lab", &context);
    let stat = || stat().env("XDG_CONFIG_HOME", home.path());

    assert_let_in(stat().run().await);
    assert_let_in(stat().arg("--context=lab").run().await);
    assert_let_in(stat().env("NATS_URL", other.url()).env("NATS_TOKEN", "t0ken").run().await);
    let output = stat().arg("--context=moon").run().await.expect_code(2);
    assert!(output.stderr.starts_with("gantry: NATS context \"moon\": "), "{}", output.stderr);
    let output = stat().nats(&right).arg("--no-context").run().await;
    output.expect_code(REFUSED);
}

#[tokio::test]
async fn an_unsupported_context_is_reported() {
    let home = data::folder();
    select(home.path(), "lab", &serde_json::json!({ "nsc": "nsc://operator/account/user" }));

    let output = stat().env("XDG_CONFIG_HOME", home.path()).run().await.expect_code(2);

    assert!(output.stderr.contains("`nsc` is not supported"), "{}", output.stderr);
}

/// As for a service that runs with the HOME of another user. It was an error although nothing in there could matter.
#[tokio::test]
async fn a_configuration_folder_that_may_not_be_entered_holds_no_selected_context() {
    let nats = guarded(USER).await;
    let home = data::folder();
    select(home.path(), "lab", &serde_json::json!({ "url": "nats://127.0.0.1:1" }));
    let chmod = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let (folder, selected) = (home.path().join("nats"), home.path().join("nats").join("context.txt"));
    chmod(home.path(), 0o755);
    let stat = || {
        let stat = stat().nats(&nats).env("NATS_USER", "ann").env("NATS_PASSWORD", "s3cret");
        let stat = stat.env("XDG_CONFIG_HOME", home.path());
        // Permissions do not stop root.
        let is_root = rustix::process::geteuid().is_root();
        if is_root { stat.through(["setpriv", "--reuid=65534", "--clear-groups"]) } else { stat }
    };

    chmod(&folder, 0o600);
    assert_let_in(stat().run().await);

    chmod(&folder, 0o755);
    chmod(&selected, 0o000);
    let output = stat().run().await.expect_code(2);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    assert!(output.stderr.contains("context.txt: ") && output.stderr.contains("--no-context"), "{}", output.stderr);
}

#[tokio::test]
async fn all_configuration_problems_are_reported_and_nothing_starts() {
    let folder = data::folder();
    let file = folder.path().join("gantry.toml");
    std::fs::write(&file, "[relay]\nchunk_max_bytes = 0\ntransfer_max = 5\n").unwrap();

    let serve = gantry(["serve", "--store=files=file:///", "--config"]).arg(&file).env("GANTRY_PREFX", "x");
    let output = serve.run().await.expect_code(2);

    let lines: Vec<_> = output.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{}", output.stderr);
    let all = output.stderr.as_str();
    assert!(
        all.contains("`GANTRY_PREFX` in the environment is not a configuration key; did you mean `GANTRY_PREFIX`?")
    );
    assert!(all.contains("gantry.toml:3 is not a configuration key; did you mean `relay.transfers_max`?"), "{all}");
    assert!(
        all.contains("`relay.chunk_max_bytes` = 0 in ")
            && all.contains("gantry.toml:2: ")
            && all.contains("between 1024 and 8388608"),
        "{all}"
    );
    assert!(lines.iter().all(|line| line.starts_with("gantry: ")), "{all}");
}

/// Each of these once made a command fail without a message, or connect without credentials.
#[cfg(unix)]
#[tokio::test]
async fn invalid_variables_and_log_levels_are_reported() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    let output = stat().env("NATS_CREDS", OsStr::from_bytes(b"/run/\xff")).run().await.expect_code(2);
    assert!(output.stderr.contains("`NATS_CREDS` in the environment is not UTF-8"), "{}", output.stderr);

    let output = stat().env("GANTRY_LOG", "verbose").run().await.expect_code(2);
    assert!(output.stderr.contains("`log.level` = \"verbose\" in GANTRY_LOG: "), "{}", output.stderr);

    let output = stat().arg("--log-level").arg("warning").run().await.expect_code(2);
    assert!(output.stderr.contains("did you mean `warn`?"), "{}", output.stderr);
}

#[tokio::test]
async fn relay_and_consumer_agree_on_another_prefix() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    std::fs::write(folder.path().join("a"), "hello").unwrap();
    let url = format!("file://{}", folder.path().display());
    let _relay = Relay::on(&nats).store("files", url).arg("--prefix").arg("site.north").start().await;

    let output = stat().nats(&nats).env("GANTRY_PREFIX", "site.north").arg("--json").run().await.expect_code(0);

    assert_eq!(output.json()["size"], 5);
    // A relay with another prefix does not count.
    stat().nats(&nats).run().await.expect_code(5);
}

#[tokio::test]
async fn an_idle_relay_exits_cleanly_at_the_first_signal() {
    let nats = Nats::plain().await;
    for signal in ["TERM", "INT"] {
        let folder = data::folder();
        let url = format!("file://{}", folder.path().display());
        let mut relay = Relay::on(&nats).store("files", url).start().await;

        relay.signal(signal);

        assert_eq!(relay.wait().await.code(), Some(0), "{signal}: {}", relay.stderr());
    }
}
