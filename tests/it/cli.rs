//! The command line with real servers: output, exit codes, and files left behind.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_s3::types::ChecksumAlgorithm;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::support::gantry::{Command, Output};
use crate::support::site::{FILES, OBJECTS, listed};
use crate::support::{Nats, Relay, S3, Site, data, gantry, until};

const PROMPT: Duration = Duration::from_secs(2);

/// How long an unreachable store may be retried.
const RETRY_BUDGET: Duration = Duration::from_secs(15);

#[tokio::test]
async fn the_verification_is_reported_on_the_last_line_and_in_json() {
    let site = Site::start().await;
    let body = data::random_bytes(1, 100_000);
    for (algorithm, name) in [
        (ChecksumAlgorithm::Crc64Nvme, "CRC64NVME"),
        (ChecksumAlgorithm::Crc32, "CRC32"),
        (ChecksumAlgorithm::Crc32C, "CRC32C"),
        (ChecksumAlgorithm::Sha1, "SHA1"),
        (ChecksumAlgorithm::Sha256, "SHA256"),
    ] {
        site.s3.put(&site.bucket, name, body.clone(), Some(algorithm)).await;

        let text = site.get(OBJECTS, name, "file").run().await.expect_code(0);
        let json = site.get(OBJECTS, name, "file").arg("--json").run().await.expect_code(0).json();

        let last = text.stderr.lines().last().unwrap_or_default();
        assert!(last.ends_with(&format!("verified by {name} (full object)")), "{last}");
        assert_eq!(json["proof"]["kind"], "full_object", "{json}");
        assert_eq!(json["proof"]["algorithm"], name.to_lowercase(), "{json}");
    }
    site.s3.put(&site.bucket, "none", body, None).await;
    let text = site.get(OBJECTS, "none", "file").run().await.expect_code(0);
    let json = site.get(OBJECTS, "none", "file").arg("--json").run().await.expect_code(0).json();
    assert!(text.stderr.trim_end().ends_with("transport only"), "{}", text.stderr);
    assert_eq!(json["proof"], serde_json::json!({ "kind": "transport" }));
}

#[tokio::test]
async fn a_download_is_found_in_the_relays_log_by_its_transfer() {
    let site = Site::start().await;
    std::fs::write(site.files().join("key"), "content").unwrap();

    let json = site.get(FILES, "key", "file").arg("--json").run().await.expect_code(0).json();

    site.relay.logged(json["transfer"].as_str().unwrap()).await;
}

#[tokio::test]
async fn one_id_is_in_the_json_and_in_the_logs_of_both_sides() {
    let site = Site::start().await;
    std::fs::write(site.files().join("key"), "content").unwrap();
    let get = |key| site.get(FILES, key, "file").arg("--json").env("GANTRY_LOG", "info");

    let random = get("key").run().await.expect_code(0);
    let invalid = get("key").arg("--correlation=order\u{1b}[7").run().await.expect_code(2);
    let chosen = get("key").arg("--correlation=order 7").run().await.expect_code(0);
    let refused = get("missing").arg("--correlation=order-8").run().await.expect_code(4);

    for (output, id) in [(&random, random.json()["correlation"].as_str().unwrap()), (&chosen, "order 7")] {
        assert_eq!(output.json()["correlation"], id);
        let in_log = format!("correlation={id:?}");
        assert!(output.stderr.lines().any(|line| line.contains("accepted") && line.contains(&in_log)), "{output:?}");
        site.relay.logged(&in_log).await;
    }
    assert_eq!(refused.json()["error"]["correlation"], "order-8", "{refused:?}");
    site.relay.logged("correlation=\"order-8\"").await;
    assert!(invalid.stderr.contains("--correlation") && !invalid.stderr.contains("order\u{1b}"), "{invalid:?}");
}

/// clap and messages about files repeat arguments.
#[tokio::test]
async fn arguments_with_secrets_are_not_printed() {
    let nats = Nats::plain().await;
    let sas = "https://acct.blob.core.windows.net/m/a?sv=1&sig=hush";
    let connection = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=hush==";
    for secret in [sas, connection, "s3://me:hush@demo/a"] {
        for command in
            [&["get"][..], &["ls"], &["stat"], &["cat"], &["find"], &["cache", "purge"], &["serve"], &["ping"], &[]]
        {
            let failed = gantry(command.iter().copied()).arg(secret).nats(&nats).run().await;
            assert!(failed.code == Some(2) && !failed.stderr.contains("hush"), "{command:?}: {}", failed.stderr);
        }
    }
    let path = "s3://me:hush@demo/a";
    for options in [
        ["stat", "m/a", "--config", path],
        ["stat", "m/a", "--context", path],
        ["stat", "m/a", "--creds", path],
        ["stat", "m/a", "--server", "nats://me:hush@"],
        ["health", "--url", "http://me:hush@127.0.0.1:1", "--no-context"],
        ["cache", "ls", "--dir", path],
        ["get", "--from", path, "-o."],
    ] {
        let failed = gantry(options).nats(&nats).run().await;
        assert!(failed.code != Some(0) && !failed.stderr.contains("hush"), "{options:?}: {}", failed.stderr);
    }
}

#[tokio::test]
async fn a_directory_in_the_place_of_a_damaged_cache_file_is_not_removed() {
    let folder = data::folder();
    let dir = folder.path().join("cache");
    let block = dir.join(format!("{:032x}-{:032x}-0.block", 1, 2));
    std::fs::create_dir_all(&block).unwrap();
    std::fs::write(block.join("notes.txt"), "mine").unwrap();
    std::fs::write(dir.join(format!("{:032x}.current", 1)), "damaged").unwrap();
    std::fs::write(dir.join("gantry-cache"), "gantry cache 1\n").unwrap();
    let cache = |action: &str, option: &str| gantry(["cache", action, option]).arg("--dir").arg(&dir).run();

    let verified = cache("verify", "--remove").await.expect_code(6);
    let expected = "1 of the damaged files are directories with content";
    assert!(
        verified.stderr.contains("removed 1 of 2 files") && verified.stderr.contains(expected),
        "{}",
        verified.stderr
    );
    let purged = cache("purge", "--all").await.expect_code(0);
    assert!(purged.stderr.contains("removed 0 bytes in 0 files"), "{}", purged.stderr);
    assert_eq!(std::fs::read(block.join("notes.txt")).unwrap(), b"mine");
}

#[tokio::test]
async fn quiet_prints_nothing_on_success() {
    let site = Site::start().await;
    std::fs::write(site.files().join("key"), "content").unwrap();

    let output = site.get(FILES, "key", "file").arg("--quiet").run().await.expect_code(0);

    assert_eq!((output.stdout_text(), output.stderr.as_str()), (String::new(), ""));
    assert_eq!(site.downloaded("file"), b"content");
}

#[tokio::test]
async fn missing_objects_and_stores_are_reported_at_once() {
    let site = Site::start().await;
    let _relay = Relay::on(&site.nats).s3(site.s3).store("nobucket", "s3://no-such-bucket").start().await;
    for address in ["objects/no/such key", "files/no/such key", "nostore/key", "nobucket/key"] {
        let store = address.split('/').next().unwrap();
        assert_fails(&site, address, 4, PROMPT).await;
        let stat = site.command(["stat", address]).run().await.expect_code(4);
        assert_one_line(&stat, address);
        if store.starts_with("no") {
            let ls = site.command(["ls", store]).run().await.expect_code(4);
            assert_one_line(&ls, store);
            assert!(ls.elapsed < PROMPT, "{:?}", ls.elapsed);
        }
    }
}

#[tokio::test]
async fn a_denied_object_is_reported_as_denied() {
    let site = Site::start().await;
    site.s3.put(&site.bucket, "key", Bytes::from_static(b"secret"), None).await;
    let denied = Relay::on(&site.nats).s3_as(site.s3, site.s3.denied());
    let _relay = denied.store("denied", format!("s3://{}", site.bucket)).start().await;

    assert_fails(&site, "denied/key", 8, PROMPT).await;
}

#[tokio::test]
async fn an_unreachable_store_fails_within_its_retry_budget() {
    let site = Site::start().await;
    let endpoint = format!("http://127.0.0.1:{}", data::free_port());
    let down = Relay::on(&site.nats).s3(site.s3).env("AWS_ENDPOINT_URL", endpoint);
    let _relay = down.store("down", "s3://bucket").start().await;

    assert_fails(&site, "down/a/key", 5, RETRY_BUDGET).await;
}

#[tokio::test]
async fn a_frozen_store_fails_within_its_retry_budget() {
    let (nats, s3) = tokio::join!(Nats::plain(), S3::start());
    let folder = data::folder();
    let bucket = s3.bucket().await;
    s3.put(&bucket, "key", Bytes::from_static(b"content"), None).await;
    let _relay = Relay::on(&nats).s3(&s3).store("frozen", format!("s3://{bucket}")).start().await;
    s3.signal("STOP");

    let output = gantry(["get", "frozen/key"]).nats(&nats).current_dir(folder.path()).run().await.expect_code(5);

    assert_one_line(&output, "frozen/key");
    assert!(output.elapsed < RETRY_BUDGET, "{:?}", output.elapsed);
    assert_eq!(listed(folder.path()), [""; 0]);
    s3.signal("CONT");
}

#[tokio::test]
async fn a_missing_relay_is_distinguished_from_a_missing_server() {
    let nats = Nats::plain().await;
    let nobody = format!("nats://127.0.0.1:{}", data::free_port());
    for args in [vec!["get", "store/key", "-o", "-"], vec!["stat", "store/key"], vec!["ls", "store"]] {
        let no_relay = gantry(&args).nats(&nats).run().await.expect_code(5);
        let no_server = gantry(&args).env("NATS_URL", &nobody).run().await.expect_code(5);

        for (output, named) in [(no_relay, "relay"), (no_server, "nats-server")] {
            assert_one_line(&output, named);
            assert!(output.elapsed < Duration::from_secs(5), "{args:?} took {:?}", output.elapsed);
        }
    }
}

#[tokio::test]
async fn wrong_arguments_are_named() {
    for (args, named) in [
        (vec!["get", "store"], "STORE/KEY"),
        (vec!["get", "a.b/key"], "a.b"),
        (vec!["get", "store/key", "--range", "9-3"], "9-3"),
        (vec!["get", "store/key", "--rang", "0-3"], "--range"),
        (vec!["serve", "--store", "files"], "NAME=URL"),
        (vec!["serve"], "--store"),
        (vec!["serve", "--store", "files=file:///no/such/folder"], "/no/such/folder"),
    ] {
        let output = gantry(&args).run().await.expect_code(2);
        assert!(output.stderr.contains(named), "{args:?}: {}", output.stderr);
        assert_eq!(output.stdout_text(), "", "{args:?}");
    }
}

#[tokio::test]
async fn json_reports_failures_too() {
    let site = Site::start().await;

    let output = site.get(FILES, "missing", "file").arg("--json").run().await.expect_code(4);

    assert_eq!(output.json()["error"]["code"], "not_found", "{}", output.json());
    assert_eq!(output.json()["error"]["subject"], "files/missing");
}

#[tokio::test]
async fn an_older_file_is_replaced_only_by_a_verified_one() {
    let site = Site::start().await;
    std::fs::write(site.downloads().join("file"), "old").unwrap();

    site.get(OBJECTS, "missing", "file").run().await.expect_code(4);
    assert_eq!(site.downloaded("file"), b"old");
    assert_eq!(site.downloads_listed(), ["file"]);

    site.s3.put(&site.bucket, "key", Bytes::from_static(b"new"), None).await;
    site.get(OBJECTS, "key", "file").run().await.expect_code(0);
    assert_eq!(site.downloaded("file"), b"new");
    assert_eq!(site.downloads_listed(), ["file"]);
}

#[tokio::test]
async fn a_missing_folder_is_not_created() {
    let site = Site::start().await;
    std::fs::write(site.files().join("key"), "content").unwrap();

    let output = site.get(FILES, "key", "no/such/file").run().await.expect_code(1);

    assert_one_line(&output, "no/such");
    assert_eq!(site.downloads_listed(), [""; 0]);
}

#[tokio::test]
async fn an_unwritable_folder_keeps_the_old_file() {
    use std::os::unix::fs::PermissionsExt;

    let site = Site::start().await;
    std::fs::write(site.files().join("key"), "content").unwrap();
    std::fs::write(site.downloads().join("file"), "old").unwrap();
    std::fs::set_permissions(site.downloads(), std::fs::Permissions::from_mode(0o555)).unwrap();

    let command = site.get(FILES, "key", "file");
    // Permissions do not restrict root unless it lacks the capabilities.
    let is_root = std::fs::write(site.downloads().join("probe"), "").is_ok();
    let command = if is_root {
        std::fs::remove_file(site.downloads().join("probe")).unwrap();
        command.through(["setpriv", "--inh-caps=-all", "--bounding-set=-all"])
    } else {
        command
    };
    let output = command.run().await.expect_code(1);

    std::fs::set_permissions(site.downloads(), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_one_line(&output, "files/key");
    assert!(output.stderr.contains("can't be written"), "{}", output.stderr);
    assert_eq!(site.downloaded("file"), b"old");
    assert_eq!(site.downloads_listed(), ["file"]);
}

/// A limit on the file size replaces a full disk: the write fails half-way, and no privilege is needed.
#[tokio::test]
async fn a_failed_write_keeps_the_old_file() {
    let site = Site::start().await;
    std::fs::write(site.files().join("key"), data::random_bytes(1, 4 << 20)).unwrap();
    std::fs::write(site.downloads().join("file"), "old").unwrap();

    let limited = ["sh", "-c", "trap '' XFSZ; ulimit -f 2048; exec \"$@\"", "sh"];
    let output = site.get(FILES, "key", "file").through(limited).run().await.expect_code(1);

    assert_one_line(&output, "files/key");
    assert_eq!(site.downloaded("file"), b"old");
}

/// The whole object is queued for the file before the first write fails. The download once hung.
#[tokio::test]
async fn a_disk_full_near_the_end_of_a_small_object_fails_the_download() {
    let site = Site::start().await;
    std::fs::write(site.files().join("key"), data::random_bytes(1, 400_000)).unwrap();

    let limited = ["sh", "-c", "trap '' XFSZ; ulimit -f 200; exec \"$@\"", "sh"];
    let command = site.get(FILES, "key", "file").through(limited).deadline(RETRY_BUDGET);
    let output = command.run().await.expect_code(1);

    assert_one_line(&output, "files/key");
    assert!(!site.downloads().join("file").exists());
}

#[tokio::test]
async fn a_full_device_is_reported() {
    let site = Site::start().await;
    std::fs::write(site.files().join("key"), data::random_bytes(1, 1 << 20)).unwrap();
    for command in [
        site.command(["get", "files/key", "-o", "/dev/full"]),
        site.command(["get", "files/key", "-o", "-"]).stdout_to("/dev/full"),
    ] {
        let output = command.run().await.expect_code(1);

        assert_one_line(&output, "files/key");
        assert!(output.stderr.contains("space"), "{}", output.stderr);
    }
}

#[tokio::test]
async fn a_reader_that_leaves_is_not_an_error() {
    let site = Site::start().await;
    std::fs::write(site.files().join("key"), data::random_bytes(1, 16 << 20)).unwrap();

    let command = site.command(["get", "files/key", "-o", "-"]);
    let output = command.through(["sh", "-c", "\"$@\" | head -c 10", "sh"]).run().await;

    assert_eq!((output.stdout.len(), output.stderr.as_str()), (10, ""));
}

#[tokio::test]
async fn an_interrupted_download_is_resumed() {
    let site = Site::start().await;
    let body = data::random_bytes(1, 128 << 20);
    site.s3.put(&site.bucket, "key", body.clone(), Some(ChecksumAlgorithm::Crc64Nvme)).await;
    let part = site.downloads().join(".file.gantry-part");
    let part_len = || std::fs::metadata(&part).map_or(0, |metadata| metadata.len());

    let download = site.get(OBJECTS, "key", "file").spawn();
    until("some bytes", async || (part_len() > 16 << 20).then_some(())).await;
    download.signal("INT");
    let interrupted = download.output().await.expect_code(130);
    assert_eq!(interrupted.stderr.lines().count(), 1, "{}", interrupted.stderr);
    assert!(!site.downloads().join("file").exists());

    let json = site.get(OBJECTS, "key", "file").arg("--json").run().await.expect_code(0).json();

    assert!(json["resumed_from"].as_u64().unwrap_or_default() > 0, "{json}");
    assert!(json["fetched_bytes"].as_u64().unwrap() < body.len() as u64, "{json}");
    assert_eq!(json["proof"]["kind"], "full_object", "{json}");
    assert!(site.downloaded("file") == body, "the file differs");
    assert_eq!(site.downloads_listed(), ["file"]);
}

#[tokio::test]
async fn stat_describes_an_object() {
    let site = Site::start().await;
    let body = data::random_bytes(1, 1234);
    let etag = site.s3.put(&site.bucket, "a/key", body, Some(ChecksumAlgorithm::Sha256)).await;

    let text = site.command(["stat", "objects/a/key"]).run().await.expect_code(0).stdout_text();
    let json = site.command(["stat", "objects/a/key", "--json"]).run().await.expect_code(0).json();

    for part in ["a/key", "1234", &etag, "SHA256"] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    assert_eq!((&json["key"], &json["size"], &json["etag"]), (&"a/key".into(), &1234.into(), &etag.clone().into()));
    assert_eq!(json["checksum"]["algorithm"], "sha256", "{json}");
    // A download can be pinned to the version that `stat` reports.
    site.get(OBJECTS, "a/key", "file").arg("--if-match").arg(&etag).run().await.expect_code(0);
    let bare = etag.trim_matches('"');
    site.get(OBJECTS, "a/key", "file").arg("--if-match").arg(bare).run().await.expect_code(0);
    site.get(OBJECTS, "a/key", "file").arg("--if-match").arg("\"other\"").run().await.expect_code(7);
}

#[tokio::test]
async fn listings_are_read_to_the_end() {
    let site = Site::start().await;
    let keys: BTreeSet<String> = (0..1100).map(|number| format!("deep/{}/key {number}", number % 3)).collect();
    for key in &keys {
        let file = site.files().join(key);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "1").unwrap();
    }
    std::fs::write(site.files().join("top"), "1234").unwrap();
    let client = &site.s3.client();
    let bucket = &site.bucket;
    let put = |key: String, body: &'static [u8]| async move {
        client.put_object().bucket(bucket).key(key).body(Bytes::from_static(body).into()).send().await.unwrap();
    };
    stream::iter(keys.iter().cloned()).map(|key| put(key, b"1")).buffer_unordered(8).collect::<Vec<()>>().await;
    put("top".to_owned(), b"1234").await;

    for store in [OBJECTS, FILES] {
        let deep = format!("{store}/deep/");
        let all = json_lines(&site.command(["ls", "-r", store, "--json"]).run().await.expect_code(0));
        let listed: BTreeSet<_> = all.iter().map(|line| line["key"].as_str().unwrap().to_owned()).collect();
        assert_eq!(all.len(), 1101, "{store} lists keys twice");
        assert!(listed.is_superset(&keys), "{store} leaves keys out");

        let folded = json_lines(&site.command(["ls", store, "--json"]).run().await.expect_code(0));
        let folded: Vec<_> = folded.iter().map(|line| (line["key"].as_str(), line["prefix"].as_str())).collect();
        assert_eq!(folded, [(None, Some("deep/")), (Some("top"), None)], "{store}");

        let below = json_lines(&site.command(["ls", &deep, "--json"]).run().await.expect_code(0));
        let below: Vec<_> = below.iter().map(|line| line["prefix"].as_str().unwrap_or_default()).collect();
        assert_eq!(below, ["deep/0/", "deep/1/", "deep/2/"], "{store}");

        let text = site.command(["ls", store]).run().await.expect_code(0).stdout_text();
        assert!(text.lines().any(|line| line.contains(" 4 ") && line.ends_with(" top")), "{text}");
    }
}

#[tokio::test]
async fn the_example_configuration_serves_both_stores() {
    let site = Site::start().await;
    let secrets = data::folder();
    let keys = site.s3.admin();
    let secret = |name: &str, value: &str| {
        let file = secrets.path().join(name);
        std::fs::write(&file, value).unwrap();
        file.display().to_string()
    };
    let example = std::fs::read_to_string(crate::support::process::root().join("deploy/gantry.example.toml")).unwrap();
    let mut adapted = example;
    for (key, value) in [
        ("url = \"s3://firmware-bucket/releases\"", format!("url = \"s3://{}/releases/\"", site.bucket)),
        ("#endpoint_url =", format!("endpoint_url = \"{}\"", site.s3.endpoint())),
        ("#region =", format!("region = \"{}\"", site.s3.region())),
        ("#access_key_id_file =", format!("access_key_id_file = {:?}", secret("id", &keys.access_key_id))),
        ("#secret_access_key_file =", format!("secret_access_key_file = {:?}", secret("key", &keys.secret_access_key))),
        ("url = \"file:///srv/gantry\"", format!("url = \"file://{}\"", site.files().display())),
        ("#transfers_max =", "transfers_max = 7".to_owned()),
        ("#level = \"info\"", "level = \"debug\"".to_owned()),
    ] {
        let line = adapted.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no {key}")).to_owned();
        adapted = adapted.replacen(&line, &value, 1);
    }
    let _relay = Relay::on(&site.nats).config(adapted).start().await;
    site.s3.put(&site.bucket, "releases/one", Bytes::from_static(b"from S3"), None).await;
    std::fs::write(site.files().join("two"), "from a directory").unwrap();

    site.get("firmware", "one", "one").run().await.expect_code(0);
    site.get("local", "two", "two").run().await.expect_code(0);

    assert_eq!(site.downloaded("one"), b"from S3");
    assert_eq!(site.downloaded("two"), b"from a directory");
}

#[tokio::test]
async fn variables_configure_relay_and_consumer() {
    let nats = Nats::plain().await;
    let files = data::folder();
    let downloads = data::folder();
    std::fs::write(files.path().join("key"), "content").unwrap();
    let url = format!("file://{}", files.path().display());
    let _relay = Relay::on(&nats).env("GANTRY_STORES__FILES__URL", url).env("GANTRY_PREFIX", "other").start().await;
    let get = || gantry(["get", "files/key"]).current_dir(downloads.path());

    get().nats(&nats).env("GANTRY_PREFIX", "other").run().await.expect_code(0);
    let astray = get().nats(&nats).run().await;
    let mistyped = get().nats(&nats).env("GANTRY_PREFX", "other").run().await.expect_code(2);

    assert_eq!(std::fs::read(downloads.path().join("key")).unwrap(), b"content");
    assert_ne!(astray.code, Some(0));
    assert!(mistyped.stderr.contains("GANTRY_PREFIX"), "{}", mistyped.stderr);
}

/// Downloads to a file. Asserts the exit code, a single line that names store and key, the duration, and that no file
/// is left.
async fn assert_fails(site: &Site, address: &str, code: i32, within: Duration) {
    let command: Command = site.command(["get", address, "-o"]).arg(site.downloads().join("file"));
    let output = command.run().await.expect_code(code);
    println!("{:?}: {}", output.elapsed, output.stderr.trim_end());
    assert_one_line(&output, address);
    // A busy machine takes long to start any process.
    let start = gantry(["--version"]).run().await.elapsed;
    assert!(output.elapsed < within + start, "{address} took {:?}, a start {start:?}", output.elapsed);
    assert_eq!(site.downloads_listed(), [""; 0], "{address}");
}

#[track_caller]
fn assert_one_line(output: &Output, named: &str) {
    // After ten seconds there is also a line about the progress, which begins with the file's name.
    let name = format!("{}  ", named.rsplit('/').next().unwrap());
    let (progress, others): (Vec<_>, Vec<_>) = output.stderr.lines().partition(|line| line.starts_with(&name));
    assert_eq!(others.len(), 1, "{}", output.stderr);
    assert!(progress.len() as u64 <= output.elapsed.as_secs() / 10, "{}", output.stderr);
    assert!(output.stderr.contains(named), "{named} is not named: {}", output.stderr);
    assert_eq!(output.stdout_text(), "");
}

fn json_lines(output: &Output) -> Vec<serde_json::Value> {
    output.stdout_text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
