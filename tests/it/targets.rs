//! What `gantry get` does if the target is not a plain new file, and what it leaves alone.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};
use std::time::Duration;

use bytes::Bytes;

use crate::support::gantry::Output;
use crate::support::site::{FILES, OBJECTS, listed};
use crate::support::{Site, data};

/// Longer than any of these commands takes, and short enough for a test.
const SOON: Duration = Duration::from_secs(20);

async fn site() -> (Site, Bytes) {
    let site = Site::start().await;
    let body = data::random_bytes(1, 3_000_000);
    std::fs::write(site.files().join("key"), &body).unwrap();
    (site, body)
}

/// Runs a shell script in the folder of downloads; `"$@"` in it is the command.
async fn shell<const N: usize>(site: &Site, script: &str, args: [&str; N]) -> Output {
    let command = site.command(args).through(["sh", "-c", script, "sh"]).current_dir(site.downloads());
    command.deadline(SOON).run().await
}

/// The file behind standard output was once replaced, so that it contained only the object.
#[tokio::test]
async fn a_path_that_names_a_descriptor_is_a_stream() {
    let (site, body) = site().await;
    let expected = [b"a\n", &body[..], b"b\n"].concat();
    let link = site.downloads().join("link");
    symlink("/dev/stdout", &link).unwrap();
    for (script, output) in [
        ("{ echo a; \"$@\"; echo b; } > out", "/dev/stdout"),
        ("{ echo a; \"$@\"; echo b; } > out", "/dev/fd/1"),
        ("{ echo a; \"$@\"; echo b; } > out", "/proc/self/fd/1"),
        ("{ echo a; \"$@\"; echo b; } > out", "link"),
        ("{ echo a; \"$@\"; echo b; } > out", "-"),
        ("echo a > out; \"$@\" >> out; echo b >> out", "/dev/stdout"),
        ("{ echo a; \"$@\" 2>&1; echo b; } > out", "/dev/stderr"),
        ("{ echo a >&3; \"$@\"; echo b >&3; } 3> out", "/dev/fd/3"),
        ("{ echo a; \"$@\" -o /proc/$$/fd/1; echo b; } > out", ""),
        ("{ echo a; \"$@\" | cat; echo b; } > out", "/dev/stdout"),
    ] {
        let done = match output {
            "" => shell(&site, script, ["get", "files/key"]).await,
            output => shell(&site, script, ["get", "files/key", "-o", output]).await,
        };

        let done = done.expect_code(0);
        assert!(site.downloaded("out") == expected, "{script} {output}: {}", done.stderr);
        assert_eq!(site.downloads_listed(), ["link", "out"], "{script} {output}");
        std::fs::remove_file(site.downloads().join("out")).unwrap();
    }
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[tokio::test]
async fn json_does_not_end_up_among_the_bytes() {
    let (site, body) = site().await;
    let done = shell(&site, "\"$@\" > out", ["get", "files/key", "--json", "-o", "/dev/fd/1"]).await.expect_code(0);
    assert!(site.downloaded("out") == body);
    assert!(done.stderr.contains("\"bytes\":3000000"), "{}", done.stderr);
}

#[tokio::test]
async fn a_descriptor_that_is_not_writable_is_refused() {
    let (site, _) = site().await;
    for (script, output) in
        [("\"$@\" < /dev/null", "/dev/stdin"), ("\"$@\"", "/dev/fd/99"), ("\"$@\" 3< /dev/null", "/dev/fd/3")]
    {
        let refused = shell(&site, script, ["get", "files/key", "-o", output]).await.expect_code(1);
        assert_eq!(refused.stderr.lines().count(), 1, "{output}: {}", refused.stderr);
        assert!(refused.stderr.contains(output), "{output}: {}", refused.stderr);
    }
    assert_eq!(site.downloads_listed(), [""; 0]);
}

#[tokio::test]
async fn a_fifo_or_a_device_is_not_replaced() {
    let (site, body) = site().await;
    shell(&site, "mkfifo fifo; cat fifo > out & \"$@\"; wait", ["get", "files/key", "-o", "fifo"]).await.expect_code(0);
    assert!(site.downloaded("out") == body);
    assert!(std::fs::symlink_metadata(site.downloads().join("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(site.downloads_listed(), ["fifo", "out"]);

    shell(&site, "\"$@\"", ["get", "files/key", "-o", "/dev/null"]).await.expect_code(0);
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

/// A FIFO in place of the record once blocked the command forever.
#[tokio::test]
async fn a_fifo_in_the_place_of_a_record_is_refused_at_once() {
    let (site, _) = site().await;
    for name in [".file.gantry-part", ".file.gantry-part.json"] {
        let script = format!("mkfifo {name}; \"$@\"");
        let refused = shell(&site, &script, ["get", "files/key", "-o", "file"]).await.expect_code(1);
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
        assert!(refused.stderr.contains(name), "{}", refused.stderr);
        assert_eq!(site.downloads_listed(), [name]);
        std::fs::remove_file(site.downloads().join(name)).unwrap();
    }
}

/// Another user's part file once became the final file. As root, the test plants a file of another user; otherwise one
/// of its own that others may write to.
#[tokio::test]
async fn a_planted_part_file_does_not_become_the_final_file() {
    let (site, body) = site().await;
    let planted = site.downloads().join(".file.gantry-part");
    std::fs::write(&planted, "planted").unwrap();
    std::fs::set_permissions(&planted, std::fs::Permissions::from_mode(0o666)).unwrap();
    let is_foreign = std::os::unix::fs::chown(&planted, Some(65_534), None).is_ok();

    let done = site.get(FILES, "key", "file").deadline(SOON).run().await;

    if is_foreign {
        let refused = done.expect_code(1);
        assert!(refused.stderr.contains("belongs to another user (uid 65534)"), "{}", refused.stderr);
        assert_eq!(std::fs::read(&planted).unwrap(), b"planted");
    } else {
        done.expect_code(0);
        assert!(site.downloaded("file") == body);
        assert_eq!(site.downloads_listed(), ["file"]);
    }
}

/// A range once replaced the complete file.
#[tokio::test]
async fn a_range_needs_a_target_of_its_own() {
    let (site, body) = site().await;
    std::fs::write(site.downloads().join("key"), "complete").unwrap();
    for range in ["0-99", "0-", "-100"] {
        let refused = shell(&site, "\"$@\"", ["get", "files/key", "--range", range]).await.expect_code(2);
        assert!(refused.stderr.contains("-o"), "{}", refused.stderr);
        for folder in [".", "./"] {
            shell(&site, "\"$@\"", ["get", "files/key", "--range", range, "-o", folder]).await.expect_code(2);
        }
    }
    assert_eq!(site.downloaded("key"), b"complete");
    assert_eq!(site.downloads_listed(), ["key"]);

    shell(&site, "\"$@\"", ["get", "files/key", "--range", "0-99", "-o", "key"]).await.expect_code(0);
    assert!(site.downloaded("key") == body[..100]);
}

/// A range past the end once left an empty file.
#[tokio::test]
async fn a_range_that_begins_at_the_end_is_refused_before_anything_is_written() {
    let (site, body) = site().await;
    site.s3.put(&site.bucket, "key", body, None).await;
    for store in [FILES, OBJECTS] {
        let key = format!("{store}/key");
        for (range, output) in
            [("3000000-", "file"), ("3000000-4000000", "file"), ("3000001-", "file"), ("3000000-", "-")]
        {
            let args = ["get", key.as_str(), "--range", range, "-o", output];
            let refused = shell(&site, "\"$@\"", args).await.expect_code(2);
            assert!(refused.stderr.contains("3000000"), "{}", refused.stderr);
            assert!(refused.stdout.is_empty());
            assert_eq!(listed(site.downloads()), [""; 0], "{store} {range} {output}");
        }
    }
}

/// The kernel follows a link that has a slash after it, so the check once did not see the link.
#[tokio::test]
async fn a_link_of_another_user_is_not_followed_with_a_slash_after_it() {
    let (site, body) = site().await;
    let (shared, private) = (site.downloads().join("shared"), site.downloads().join("private"));
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::create_dir(&private).unwrap();
    symlink(&private, shared.join("link")).unwrap();
    // Without root, all links are our own.
    let is_foreign = std::os::unix::fs::lchown(shared.join("link"), Some(65_534), None).is_ok();
    for output in ["shared/link", "shared/link/", "shared/link//"] {
        let done = shell(&site, "\"$@\"", ["get", "files/key", "-o", output]).await;

        if is_foreign {
            let refused = done.expect_code(1);
            assert!(refused.stderr.contains("belongs to another user (uid 65534)"), "{output}: {}", refused.stderr);
            assert_eq!(listed(&private), [""; 0], "{output}");
        } else {
            done.expect_code(0);
            assert!(std::fs::read(private.join("key")).unwrap() == body, "{output}");
            std::fs::remove_file(private.join("key")).unwrap();
        }
    }
}

/// Runs a slow download to `file`, and `interference` once some bytes have been written.
async fn interfere(site: &Site, interference: &str) -> Output {
    let script = format!("\"$@\" & until [ -s .file.gantry-part ]; do sleep 0.01; done; {interference}; wait $!");
    shell(site, &script, ["get", "files/key", "-o", "file", "--limit-rate", "1M"]).await
}

#[tokio::test]
async fn a_part_file_removed_midway_is_reported_in_one_line() {
    let (site, _) = site().await;

    let failed = interfere(&site, "rm .file.gantry-part").await.expect_code(1);

    assert_eq!(failed.stderr.lines().count(), 1, "{}", failed.stderr);
    for part in ["can't put ", "file.gantry-part was removed or replaced during the download", "download again"] {
        assert!(failed.stderr.contains(part), "{}", failed.stderr);
    }
    assert_eq!(site.downloads_listed(), [""; 0]);
}

/// The part file already had the permission bits of a new file, so that everybody could read it.
#[tokio::test]
async fn a_target_that_becomes_a_folder_midway_leaves_a_private_part_file() {
    let (site, body) = site().await;

    let failed = interfere(&site, "mkdir file").await.expect_code(1);

    assert_eq!(failed.stderr.lines().count(), 1, "{}", failed.stderr);
    let part = std::fs::metadata(site.downloads().join(".file.gantry-part")).unwrap();
    assert_eq!(part.permissions().mode() & 0o7777, 0o600);
    std::fs::remove_dir(site.downloads().join("file")).unwrap();
    let resumed = site.get(FILES, "key", "file").deadline(SOON).run().await.expect_code(0);
    assert!(resumed.stderr.contains("resumed at 3000000"), "{}", resumed.stderr);
    assert!(site.downloaded("file") == body);
}

/// A single file that is mounted into a container can't be replaced. The download once failed after its last byte.
#[tokio::test]
async fn a_mount_point_is_refused_before_the_first_byte() {
    let (site, _) = site().await;
    let target = site.downloads().join("file");
    std::fs::write(&target, "old").unwrap();
    let mount = "mount --bind \"$0\" \"$0\" && exec \"$@\"";
    let path = target.to_str().unwrap();
    let wrapper = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, path];

    let output = site.get(FILES, "key", "file").through(wrapper).run().await.expect_code(1);

    assert!(output.stderr.contains("is a mount point") && output.stderr.contains("-o - > FILE"), "{}", output.stderr);
    assert_eq!(site.downloaded("file"), b"old");
    assert_eq!(site.downloads_listed(), ["file"]);
}
