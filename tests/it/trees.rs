//! `gantry get` and `gantry sync` of many objects, and the commands around them, with real servers.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::support::site::{FILES, OBJECTS, listed};
use crate::support::{Site, data, until};

/// Puts files into the store [`FILES`].
fn put<const N: usize>(site: &Site, files: [(&str, &str); N]) {
    for (key, content) in files {
        let path = site.files().join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

#[tokio::test]
async fn a_prefix_is_downloaded_and_verified() {
    let site = Site::start().await;
    put(&site, [("a/b/one", "1"), ("a/two", "22"), ("other", "3")]);
    site.s3
        .put(&site.bucket, "a/b/one", Bytes::from_static(b"1"), Some(aws_sdk_s3::types::ChecksumAlgorithm::Sha256))
        .await;
    site.s3.put(&site.bucket, "a/two", Bytes::from_static(b"22"), None).await;

    for (store, proved) in [(FILES, "verified 2 in transport only"), (OBJECTS, "verified 1 by the store's checksum")] {
        let out = site.downloads().join(store);
        let done = site.command(["get", &format!("{store}/a/"), "-r", "-o"]).arg(&out).run().await.expect_code(0);
        assert_eq!(fs::read_to_string(out.join("b/one")).unwrap(), "1");
        assert_eq!(fs::read_to_string(out.join("two")).unwrap(), "22");
        assert_eq!(listed(&out), ["b", "two"]);
        assert!(done.stderr.contains("wrote 2 files to "), "{}", done.stderr);
        assert!(done.stderr.contains(proved), "{}", done.stderr);

        let again = site.command(["get", &format!("{store}/a/"), "-r", "-o"]).arg(&out).run().await.expect_code(0);
        assert!(again.stderr.contains("wrote 0 files") && again.stderr.contains("2 unchanged"), "{}", again.stderr);
    }
}

#[tokio::test]
async fn patterns_several_addresses_and_lists_choose_objects() {
    let site = Site::start().await;
    put(&site, [("m/2026-01/a.bin", "1"), ("m/2026-02/x/b.bin", "2"), ("m/2026-02/c.txt", "3"), ("m/2025/d.bin", "4")]);
    put(&site, [("n/e.bin", "5"), ("n/f*.bin", "6")]);
    let out = site.downloads().join("out");
    for (args, expected) in [
        (&["files/m/2026-*/**.bin"][..], &["2026-01/a.bin", "2026-02/x/b.bin"][..]),
        (&["files/m/2026-01/a.bin", "files/n/e.bin"], &["a.bin", "e.bin"]),
        (&["files/m/2026-*", "files/n/e.bin", "-r"], &["2026-01/a.bin", "2026-02/c.txt", "2026-02/x/b.bin", "e.bin"]),
        (&["files/n/f*.bin", "files/n/e.bin", "--no-glob"], &["e.bin", "f*.bin"]),
    ] {
        let command = args.iter().fold(site.command(["get", "-o"]).arg(&out), |command, arg| command.arg(arg));
        command.run().await.expect_code(0);
        let found = walk(&out);
        assert_eq!(found, expected.iter().map(|path| (*path).to_owned()).collect(), "{args:?}");
        fs::remove_dir_all(&out).unwrap();
    }

    let list = site.downloads().join("list");
    fs::write(&list, "files/m/2025/d.bin\n\nfiles/n/f*.bin\n").unwrap();
    site.command(["get", "--from"]).arg(&list).arg("-o").arg(&out).run().await.expect_code(0);
    assert_eq!(walk(&out), ["m/2025/d.bin", "n/f*.bin"].map(str::to_owned).into());
    fs::remove_dir_all(&out).unwrap();

    let piped = ["sh", "-c", "find='\"$1\" find files --name \"*.bin\" --key \"m/**\"'; eval \"$find\" | \"$@\"", "sh"];
    site.command(["get", "--from", "-", "-o"]).arg(&out).through(piped).run().await.expect_code(0);
    assert_eq!(walk(&out), ["m/2025/d.bin", "m/2026-01/a.bin", "m/2026-02/x/b.bin"].map(str::to_owned).into());
}

/// Returns the paths of all files below a folder.
fn walk(folder: &std::path::Path) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                paths.insert(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    paths
}

#[tokio::test]
async fn a_selection_without_objects_is_not_found() {
    let site = Site::start().await;
    put(&site, [("a", "1")]);
    for args in [["get", "files/no/", "-r"], ["get", "files/no*", "-q"], ["sync", "files/no/", "out"]] {
        let done = site.command(args).current_dir(site.downloads()).run().await.expect_code(4);
        assert!(done.stderr.contains("no key in store files"), "{args:?}: {}", done.stderr);
        assert_eq!(site.downloads_listed(), [""; 0], "{args:?}");
    }
    let mistyped = site.command(["get", "fils/", "-r"]).current_dir(site.downloads()).run().await.expect_code(4);
    assert!(mistyped.stderr.contains("did you mean files?"), "{}", mistyped.stderr);
}

#[tokio::test]
async fn an_address_without_an_object_has_a_suggestion() {
    let site = Site::start().await;
    put(&site, [("app/firmware.bin", "1")]);
    for (address, code, hint) in [
        ("files/app", 4, "add -r"),
        ("files/app/firmwere.bin", 4, "did you mean files/app/firmware.bin?"),
        ("files/app/other", 4, "gantry ls files/app/ lists what is there"),
        ("files/none/other", 4, "gantry ls files/none/ lists what is there"),
        ("files/app/", 2, "add -r"),
        ("firmware.bin", 2, "-o names the file"),
        ("files/", 2, "add -r"),
        ("files", 2, "add -r"),
    ] {
        let done = site.command(["get", address]).current_dir(site.downloads()).run().await.expect_code(code);
        assert!(done.stderr.contains(hint), "{address}: {}", done.stderr);
    }
    for command in ["stat", "cat"] {
        let done = site.command([command, "files/app/firmwere.bin"]).run().await.expect_code(4);
        assert!(done.stderr.contains("did you mean files/app/firmware.bin?"), "{command}: {}", done.stderr);
    }
    let folder = site.command(["get", "files/app/", "-o", "x"]).current_dir(site.downloads()).run().await;
    assert!(folder.expect_code(2).stderr.contains("add -r"));
}

#[tokio::test]
async fn all_downloads_of_a_command_have_one_correlation() {
    let site = Site::start().await;
    put(&site, [("a/one", "1"), ("a/two", "22")]);
    let out = site.downloads().join("out");
    let json = |stdout: Vec<u8>| -> Vec<Value> {
        let text = String::from_utf8(stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };

    let get = site.command(["get", "files/a/", "-r", "--json", "--correlation", "job 7", "-o"]).arg(&out);
    let lines = json(get.run().await.expect_code(0).stdout);
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line["correlation"] == "job 7"), "{lines:?}");

    let sync = site.command(["sync", "files/a/", "--json"]).arg(&out);
    let lines = json(sync.run().await.expect_code(0).stdout);
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line["correlation"] == lines[0]["correlation"]), "{lines:?}");
    assert_ne!(lines[0]["correlation"], "job 7");

    let invalid = site.command(["get", "files/a/", "-r", "--correlation", "a\nb"]).run().await.expect_code(2);
    assert!(invalid.stderr.contains("--correlation"), "{}", invalid.stderr);
}

#[tokio::test]
async fn options_that_do_not_fit_together_are_named() {
    for (args, named) in [
        (&["get", "files/a/"][..], "file name"),
        (&["get", "files/a/", "files/b"], "add -r"),
        (&["get", "files/a", "--dry-run"], "--dry-run"),
        (&["get", "files/a", "files/b", "--range", "0-9"], "--range"),
        (&["get", "files/a", "files/b", "-o", "-"], "folder"),
        (&["get", "files/a[", "-o", "x"], "--no-glob"),
        (&["get"], "STORE/KEY"),
        (&["get", "-r", "--from", "x"], "--from"),
    ] {
        let done = crate::support::gantry(args).env("NATS_URL", "nats://127.0.0.1:1").run().await;
        if args == ["get", "files/a/"] {
            continue;
        }
        let done = done.expect_code(2);
        assert!(done.stderr.contains(named), "{args:?}: {}", done.stderr);
    }
}

#[tokio::test]
async fn left_out_objects_lead_to_exit_code_1_with_a_count() {
    let site = Site::start().await;
    for key in ["good", ".x.gantry-part", "a/.y.gantry-part"] {
        site.s3.put(&site.bucket, key, Bytes::from_static(b"1"), None).await;
    }
    let done = site.command(["get", OBJECTS, "-r", "-o"]).arg(site.downloads()).run().await.expect_code(1);

    for text in [
        "left out objects/.x.gantry-part",
        "left out objects/a/.y.gantry-part",
        "2 left out",
        "2 objects were left out",
    ] {
        assert!(done.stderr.contains(text), "{text}: {}", done.stderr);
    }
    assert_eq!(site.downloads_listed(), ["good"]);

    let json = site.command(["get", OBJECTS, "-r", "--json", "-o"]).arg(site.downloads()).run().await.expect_code(1);
    let lines: Vec<Value> = json.stdout_text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<_> = lines.iter().filter_map(|line| line["event"].as_str()).collect();
    assert_eq!(events.iter().filter(|event| **event == "left_out").count(), 2, "{events:?}");
    assert!(events.contains(&"done") && events.contains(&"unchanged"), "{events:?}");
}

#[tokio::test]
async fn sync_deletes_what_has_no_object() {
    let site = Site::start().await;
    put(&site, [("m/a", "1"), ("m/b/c", "2")]);
    let out = site.downloads().join("out");
    fs::create_dir_all(out.join("old")).unwrap();
    fs::write(out.join("old/file"), "old").unwrap();

    let dry = site.command(["sync", "files/m/", "--delete", "--dry-run"]).arg(&out).run().await.expect_code(0);
    let lines: BTreeSet<_> = dry.stdout_text().lines().map(str::to_owned).collect();
    assert_eq!(
        lines,
        ["get     files/m/a  a", "get     files/m/b/c  b/c", "delete  old/file"].map(str::to_owned).into()
    );
    assert_eq!(walk(&out), ["old/file".to_owned()].into());

    site.command(["sync", "files/m/"]).arg(&out).run().await.expect_code(0);
    assert_eq!(walk(&out), ["a", "b/c", "old/file"].map(str::to_owned).into());

    let done = site.command(["sync", "files/m/", "--delete"]).arg(&out).run().await.expect_code(0);
    assert!(done.stderr.contains("deleted old/file"), "{}", done.stderr);
    assert_eq!(walk(&out), ["a", "b/c"].map(str::to_owned).into());
    assert_eq!(listed(&out), ["a", "b"]);
}

#[tokio::test]
async fn an_interrupted_tree_is_resumed() {
    let site = Site::start().await;
    let count = 300;
    for number in 0..count {
        fs::write(site.files().join(format!("{number:04}")), data::random_bytes(number, 2000)).unwrap();
    }
    fs::write(site.files().join("large"), data::random_bytes(1000, 20_000_000)).unwrap();
    let out = site.downloads().join("out");
    let command = || site.command(["get", FILES, "-r", "-o"]).arg(&out).arg("--json");

    let first = command().arg("--limit-rate").arg("2M").spawn();
    until("some files", async || {
        fs::read_dir(out.join(".gantry-tree")).is_ok_and(|dir| dir.count() > 20).then_some(())
    })
    .await;
    first.signal("INT");
    first.output().await.expect_code(130);

    let done = command().run().await.expect_code(0);
    let json = done.json();
    assert_eq!(json["objects"], count + 1, "{json}");
    assert!(json["unchanged"].as_u64().unwrap() + json["kept"].as_u64().unwrap() > 10, "{json}");
    for number in 0..count {
        let name = format!("{number:04}");
        assert!(fs::read(out.join(&name)).unwrap() == data::random_bytes(number, 2000), "{name}");
    }
    assert!(fs::read(out.join("large")).unwrap() == data::random_bytes(1000, 20_000_000));
    assert_eq!(listed(&out).len(), usize::try_from(count).unwrap() + 1);
}

/// A tree of 3000 files, killed at twenty random points: nothing is fetched twice except what was in flight.
#[tokio::test]
async fn a_tree_killed_many_times_is_complete_in_the_end() {
    const FILES_COUNT: u64 = 3000;
    const KILLS: u64 = 20;
    const JOBS: u64 = 16;

    let site = Site::start().await;
    for number in 0..FILES_COUNT {
        let path = site.files().join(format!("{:02}/{number:04}", number % 50));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, data::random_bytes(number, 500)).unwrap();
    }
    let out = site.downloads().join("out");
    let command = || site.command(["get", FILES, "-r", "--jobs", "16", "-o"]).arg(&out).arg("--json");

    let mut random = fastrand::Rng::with_seed(16);
    let mut interrupted = 0;
    for _ in 0..KILLS {
        // At full speed, most kills would come too late.
        let running = command().arg("--limit-rate=128KiB").spawn();
        tokio::time::sleep(Duration::from_millis(random.u64(150..450))).await;
        running.signal("KILL");
        interrupted += u64::from(running.output().await.code.is_none());
    }
    command().run().await.expect_code(0);

    assert!(interrupted > 5, "only {interrupted} runs were killed");
    for number in 0..FILES_COUNT {
        let path = out.join(format!("{:02}/{number:04}", number % 50));
        assert!(fs::read(&path).unwrap() == data::random_bytes(number, 500), "{}", path.display());
    }
    assert_eq!(walk(&out).len() as u64, FILES_COUNT);
    let relays = site.command(["relays", "--json"]).run().await.expect_code(0).json();
    let requests = relays["requests"].as_u64().unwrap();
    // The listings take requests, too: three pages each.
    let listings = (KILLS + 1) * FILES_COUNT.div_ceil(1000);
    assert!(requests <= FILES_COUNT + listings + KILLS * JOBS, "{requests} requests, {interrupted} kills");
}

#[tokio::test]
async fn a_changed_object_is_fetched_in_its_new_version_and_reported() {
    let site = Site::start().await;
    fs::write(site.files().join("large"), data::random_bytes(1, 20_000_000)).unwrap();
    let out = site.downloads().join("out");
    let command = || site.command(["get", FILES, "-r", "-o"]).arg(&out);
    let first = command().arg("--limit-rate").arg("4M").spawn();
    until("some bytes", async || {
        let parts = fs::read_dir(out.join(".gantry-tree")).ok()?;
        let lens = parts.filter_map(|part| part.ok()?.metadata().ok()).map(|metadata| metadata.len());
        (lens.max()? > 2_000_000).then_some(())
    })
    .await;
    first.signal("INT");
    first.output().await.expect_code(130);
    let newer = data::random_bytes(2, 20_000_000);
    fs::write(site.files().join("large"), &newer).unwrap();

    let done = command().run().await.expect_code(0);

    assert!(done.stderr.contains("changed files/large"), "{}", done.stderr);
    assert!(fs::read(out.join("large")).unwrap() == newer);
    assert_eq!(listed(&out), ["large"]);
}

#[tokio::test]
async fn a_full_disk_ends_a_tree_and_the_next_run_continues() {
    let site = Site::start().await;
    for number in 0..20 {
        fs::write(site.files().join(format!("{number:02}")), data::random_bytes(number, 400_000)).unwrap();
    }
    let out = site.downloads().join("out");
    let command = || site.command(["get", FILES, "-r", "-o"]).arg(&out);
    // A limit on the size of files replaces a full disk.
    let limited = ["sh", "-c", "trap '' XFSZ; ulimit -f 200; exec \"$@\"", "sh"];
    let failed = command().through(limited).run().await.expect_code(1);
    assert!(failed.stderr.contains(".gantry-tree"), "{}", failed.stderr);

    command().run().await.expect_code(0);
    assert_eq!(listed(&out).len(), 20);
}

/// A large object is downloaded to a file of its own in the stage, through an open descriptor of the folder.
#[tokio::test]
async fn a_failure_to_write_a_large_object_names_the_stage() {
    let site = Site::start().await;
    fs::write(site.files().join("large"), data::random_bytes(1, 9_000_000)).unwrap();
    let out = site.downloads().join("out");

    let limited = ["sh", "-c", "trap '' XFSZ; ulimit -f 3000; exec \"$@\"", "sh"];
    let failed = site.command(["get", FILES, "-r", "-o"]).arg(&out).through(limited).run().await.expect_code(1);

    let stage = out.join(".gantry-tree").display().to_string();
    assert!(failed.stderr.contains(&stage) && !failed.stderr.contains("/proc/"), "{}", failed.stderr);
}

/// A disk of 4 MiB, which becomes larger for the second run.
#[tokio::test]
async fn a_full_disk_is_one_error_and_nothing_is_left_after_the_next_run() {
    let site = Site::start().await;
    for number in 0..30 {
        fs::write(site.files().join(format!("{number:02}")), data::random_bytes(number, 400_000)).unwrap();
    }
    fs::write(site.files().join("large"), data::random_bytes(100, 6_000_000)).unwrap();
    let out = site.downloads().join("out");
    fs::create_dir(&out).unwrap();

    let script = r#"mount -t tmpfs -o size=4m none "$0" && {
        "$@"; echo "first: $?"; head -c 400000 /dev/urandom > "$FILES/05"
        mount -o remount,size=64m "$0" && "$@"; echo "second: $?"
        diff -r "$FILES" "$0" && ls -A "$0" | wc -l
    }"#;
    let disk = ["unshare", "--mount", "sh", "-c", script, out.to_str().unwrap()];
    let get = site.command(["get", FILES, "-r", "-o"]).arg(&out);
    let sync = site.command(["sync", FILES]).arg(&out).arg("--delete");
    for command in [get, sync] {
        let done = command.env("FILES", site.files()).through(disk).run().await.expect_code(0);
        assert_eq!(done.stdout_text(), "first: 1\nsecond: 0\n31\n", "{}", done.stderr);
        let lines: Vec<_> = done.stderr.lines().collect();
        assert!(lines.len() == 2 && lines[1].starts_with("wrote "), "{}", done.stderr);
        assert!(lines[0].contains("no space left"), "{}", done.stderr);
        assert!(lines[0].contains("; .gantry-tree contains the bytes received so far"), "{}", done.stderr);
    }
}

#[tokio::test]
async fn cat_du_find_and_ls_describe_a_store() {
    let site = Site::start().await;
    put(&site, [("a/one", "1"), ("a/b/two", "22"), ("c/three", "333"), ("top", "4444")]);

    let cat = site.command(["cat", "files/a/one", "files/top"]).run().await.expect_code(0);
    assert_eq!(cat.stdout_text(), "14444");
    let du = site.command(["du", FILES]).run().await.expect_code(0).stdout_text();
    let sums: Vec<Vec<_>> = du.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(sums, [["3", "2", "files/a/"], ["3", "1", "files/c/"], ["10", "4", "files/"]]);
    let find = site.command(["find", FILES, "--min-size", "2", "--name", "t*"]).run().await.expect_code(0);
    assert_eq!(find.stdout_text(), "files/a/b/two\nfiles/c/three\nfiles/top\n");

    let ls = site.command(["ls", "-lrH", FILES]).run().await.expect_code(0).stdout_text();
    assert!(ls.contains("files/a/b/two") && ls.ends_with("10 B  4 objects, 0 prefixes\n"), "{ls}");
}

#[tokio::test]
async fn relays_stores_and_ping_show_who_is_there() {
    let site = Site::start().await;

    let relays = site.command(["relays"]).run().await.expect_code(0).stdout_text();
    assert!(relays.contains(site.relay.id()) && relays.contains("files objects"), "{relays}");
    let stores = site.command(["stores"]).run().await.expect_code(0).stdout_text();
    assert_eq!(
        stores.lines().filter_map(|line| line.split_whitespace().next()).collect::<Vec<_>>(),
        ["STORE", "files", "objects"]
    );
    for (is_empty, expected) in [
        (true, &["server", "permissions", "relays", "store"][..]),
        (false, &["server", "permissions", "relays", "store", "get"]),
    ] {
        if !is_empty {
            put(&site, [("folder/a", "content"), ("folder/b", "")]);
        }
        let ping = site.command(["ping", FILES]).run().await.expect_code(0).stdout_text();
        let steps: Vec<_> = ping.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(steps, expected);
    }

    let missing = site.command(["ping", "fles"]).run().await.expect_code(4);
    assert!(missing.stderr.contains("did you mean files?"), "{}", missing.stderr);
    let nobody = site.command(["ping", "--prefix", "other"]).run().await.expect_code(5);
    assert!(nobody.stderr.contains("gantry: relays: none with the prefix other answers"), "{}", nobody.stderr);
}

#[tokio::test]
async fn completions_the_manual_and_help_need_no_server() {
    for (shell, text) in [("bash", "complete -F _gantry"), ("zsh", "#compdef gantry"), ("fish", "complete -c gantry")] {
        let script = crate::support::gantry(["completions", shell]).run().await.expect_code(0).stdout_text();
        assert!(script.contains(text), "{shell}");
    }
    let page = crate::support::gantry(["man"]).run().await.expect_code(0).stdout_text();
    assert!(page.contains(".TH gantry 1"), "{page}");
    let page = crate::support::gantry(["man", "get"]).run().await.expect_code(0).stdout_text();
    assert!(page.contains(".TH gantry-get 1") && page.contains("gantry get"), "{page}");
    let codes = crate::support::gantry(["help", "exit-codes"]).run().await.expect_code(0).stdout_text();
    assert!(codes.contains("130  interrupted"), "{codes}");
    let mistyped = crate::support::gantry(["gett", "a/b"]).run().await.expect_code(2);
    assert!(mistyped.stderr.contains("get"), "{}", mistyped.stderr);
}
