//! Downloads through real servers and the built binary: every byte arrives and is verified.

use std::path::Path;

use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType};
use bytes::Bytes;
use gantry_relay as relay;
use gantry_store::s3::Limits;

use crate::support::site::{FILES, OBJECTS};
use crate::support::{Site, data, until};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn objects_of_every_critical_size_arrive() {
    let site = Site::start().await;
    let chunk = relay::Options::default().chunk_max_bytes;
    let range = usize::try_from(Limits::default().range_bytes).unwrap();
    for len in [0, 1, chunk - 1, chunk, chunk + 1, 5 * MIB, range - 1, range, range + 1] {
        let body = data::random_bytes(len as u64, len);
        let key = len.to_string();
        site.s3.put(&site.bucket, &key, body.clone(), Some(ChecksumAlgorithm::Crc64Nvme)).await;
        std::fs::write(site.files().join(&key), &body).unwrap();
        for (store, proof) in [(OBJECTS, "full_object"), (FILES, "transport")] {
            let output = site.get(store, &key, &key).arg("--json").run().await.expect_code(0);

            let json = output.json();
            assert_eq!(json["bytes"], len, "{json}");
            assert_eq!(json["proof"]["kind"], proof, "{len} bytes from {store}: {json}");
            assert_eq!(output.stderr, "");
            assert!(site.downloaded(&key) == body, "{len} bytes from {store} differ");
            assert_eq!(site.downloads_listed(), std::slice::from_ref(&key));
            std::fs::remove_file(site.downloads().join(&key)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_gibibyte_arrives() {
    let site = Site::start().await;
    let source = site.files().join("large");
    data::random_file(&source, 1, 1 << 30);
    site.s3.put_file(&site.bucket, "large", &source, Some(ChecksumAlgorithm::Crc64Nvme)).await;

    let output = site.get(OBJECTS, "large", "large").run().await.expect_code(0);

    println!("{}", output.stderr.trim());
    assert!(output.stderr.ends_with("verified by CRC64NVME (full object)\n"), "{}", output.stderr);
    data::assert_same_file(&source, &site.downloads().join("large"));
}

/// SeaweedFS reports the same about a multipart upload as AWS: the checksum, its type, and the part sizes.
#[tokio::test]
async fn uploads_in_parts_arrive() {
    let site = Site::start().await;
    let body = data::random_bytes(2, 13 * MIB + 7);
    let parts = [body.slice(..5 * MIB), body.slice(5 * MIB..10 * MIB), body.slice(10 * MIB..)];
    for (key, checksum, proof) in [
        ("full", Some((ChecksumAlgorithm::Crc64Nvme, ChecksumType::FullObject)), "full_object"),
        ("composite", Some((ChecksumAlgorithm::Sha256, ChecksumType::Composite)), "composite"),
        ("none", None, "transport"),
    ] {
        site.s3.put_multipart(&site.bucket, key, &parts, checksum).await;

        let output = site.get(OBJECTS, key, key).arg("--json").run().await.expect_code(0);

        println!("{key}: {}", output.json()["proof"]);
        assert!(site.downloaded(key) == body, "{key} differs");
        assert_eq!(output.json()["proof"]["kind"], proof, "{key}: {}", output.json());
    }
}

#[tokio::test]
async fn keys_are_taken_literally() {
    let site = Site::start().await;
    let long = "0123456789abcde/".repeat(64);
    let long = long.strip_suffix('/').unwrap().to_owned() + "X";

    assert_eq!(long.len(), 1024);

    let plain = [
        "a b  c",
        "größe/日本語/🚀",
        "100%",
        "%41%2F%",
        "a#b",
        "a?b=c&d",
        "a+b",
        "a\\b",
        "a*b",
        "a:b;c",
        "'\"`$(x)",
        "-rf",
        "~",
        "{a,b}",
        "<>|",
        "tab\there",
        "deep/er/and/deeper",
        "e\u{301}",
        ".hidden",
        "a..b",
        long.as_str(),
    ];
    for (seed, key) in (1..).zip(plain) {
        let body = data::random_bytes(seed, 1000);
        site.s3.put(&site.bucket, key, body.clone(), None).await;
        let file = site.files().join(key);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, &body).unwrap();
        for store in [OBJECTS, FILES] {
            site.get(store, key, "file").arg("--no-glob").run().await.expect_code(0);
            assert!(site.downloaded("file") == body, "{key:?} from {store} differs");
        }
    }
}

/// S3 allows keys that start with a slash; paths in a directory never do.
#[tokio::test]
async fn a_key_may_start_with_a_slash() {
    let site = Site::start().await;
    let body = Bytes::from_static(b"absolute");
    site.s3.put(&site.bucket, "/etc/passwd", body.clone(), None).await;

    site.get(OBJECTS, "/etc/passwd", "file").run().await.expect_code(0);
    let refused = site.get(FILES, "/etc/passwd", "other").run().await.expect_code(2);

    assert!(site.downloaded("file") == body);
    assert!(refused.stderr.contains("/etc/passwd"), "{}", refused.stderr);
    assert_eq!(site.downloads_listed(), ["file"]);
}

#[tokio::test]
async fn a_file_is_named_after_its_key() {
    let site = Site::start().await;
    std::fs::create_dir(site.files().join("a")).unwrap();
    std::fs::write(site.files().join("a/model.bin"), "content").unwrap();

    let command = site.command(["get", "files/a/model.bin"]).current_dir(site.downloads());
    command.run().await.expect_code(0);
    assert_eq!(site.downloaded("model.bin"), b"content");

    std::fs::create_dir(site.downloads().join("folder")).unwrap();
    site.get(FILES, "a/model.bin", "folder").run().await.expect_code(0);
    assert_eq!(site.downloaded("folder/model.bin"), b"content");
}

#[tokio::test]
async fn ranges_are_cut_exactly() {
    let site = Site::start().await;
    let len = 20 * MIB + 3;
    let body = data::random_bytes(3, len);
    site.s3.put(&site.bucket, "key", body.clone(), Some(ChecksumAlgorithm::Crc64Nvme)).await;
    std::fs::write(site.files().join("key"), &body).unwrap();
    let last = len - 1;
    for (range, from, to) in [
        ("8388607-8388608".to_owned(), 8 * MIB - 1, 8 * MIB + 1),
        (format!("{}-{}", 5 * MIB + 1, 17 * MIB), 5 * MIB + 1, 17 * MIB + 1),
        ("0-0".to_owned(), 0, 1),
        (format!("{last}-"), last, len),
        (format!("{last}-{}", len * 9), last, len),
        ("-100000".to_owned(), len - 100_000, len),
        (format!("-{}", len * 9), 0, len),
    ] {
        for store in [OBJECTS, FILES] {
            let command = site.get(store, "key", "file").arg("--json").arg("--range").arg(&range);

            let json = command.run().await.expect_code(0).json();

            assert!(site.downloaded("file") == body[from..to], "{range} from {store} differs");
            let proof = if store == OBJECTS && from == 0 && to == len { "full_object" } else { "transport" };
            assert_eq!(json["proof"]["kind"], proof, "{range} from {store}: {json}");
        }
    }
}

#[tokio::test]
async fn ranges_past_the_end_are_refused() {
    let site = Site::start().await;
    site.s3.put(&site.bucket, "key", Bytes::from_static(b"0123456789"), None).await;
    std::fs::write(site.files().join("key"), "0123456789").unwrap();
    for store in [OBJECTS, FILES] {
        let output = site.get(store, "key", "file").arg("--range").arg("11-20").run().await.expect_code(2);

        assert!(output.stderr.contains(&format!("{store}/key")), "{}", output.stderr);
        assert_eq!(site.downloads_listed(), [""; 0]);
    }
}

#[tokio::test]
async fn standard_output_receives_only_the_bytes() {
    let site = Site::start().await;
    let body = data::random_bytes(4, 9 * MIB + 1);
    let source = site.files().join("key");
    std::fs::write(&source, &body).unwrap();
    site.s3.put(&site.bucket, "key", body.clone(), Some(ChecksumAlgorithm::Sha256)).await;
    let expected = std::process::Command::new("sha256sum").stdin(std::fs::File::open(&source).unwrap()).output();

    let piped = site.command(["get", "objects/key", "-o", "-"]).through(["sh", "-c", "\"$@\" | sha256sum", "sh"]);
    let piped = piped.run().await.expect_code(0);
    let json = site.command(["get", "objects/key", "-o", "-", "--json"]).run().await.expect_code(0);

    assert_eq!(piped.stdout, expected.unwrap().stdout);
    assert!(piped.stderr.ends_with("verified by SHA256 (full object)\n"), "{}", piped.stderr);
    assert!(json.stdout == body, "standard output differs");
    let report: serde_json::Value = serde_json::from_str(&json.stderr).unwrap();
    assert_eq!(report["proof"]["algorithm"], "sha256", "{report}");
}

#[tokio::test]
async fn two_downloads_of_one_key_do_not_interfere() {
    let site = Site::start().await;
    let body = data::random_bytes(5, 32 * MIB);
    site.s3.put(&site.bucket, "key", body.clone(), None).await;

    let (one, other) = tokio::join!(site.get(OBJECTS, "key", "one").run(), site.get(OBJECTS, "key", "other").run());

    one.expect_code(0);
    other.expect_code(0);
    assert!(site.downloaded("one") == body, "the first differs");
    assert!(site.downloaded("other") == body, "the second differs");
    assert_eq!(site.downloads_listed(), ["one", "other"]);
}

/// Freezes the consumer during the transfer, so that the object is replaced before the relay has requested all of it.
/// If the relay has already requested everything, it still delivers the version with which it began.
#[tokio::test]
async fn an_object_replaced_during_its_transfer_is_never_mixed_with_its_successor() {
    let site = Site::start().await;
    let before = data::random_bytes(6, 128 * MIB);
    std::fs::write(site.downloads().join("kept"), "an older file").unwrap();
    for (file, len_after, older) in [("new", 128 * MIB, None), ("kept", 3, Some("an older file"))] {
        site.s3.put(&site.bucket, file, before.clone(), None).await;
        let download = site.get(OBJECTS, file, file).spawn();
        let part = site.downloads().join(format!(".{file}.gantry-part"));
        until("the first bytes", async || (len(&part) > 0).then_some(())).await;
        download.signal("STOP");
        site.s3.put(&site.bucket, file, data::random_bytes(7, len_after), None).await;
        download.signal("CONT");

        let output = download.output().await;

        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
        // On a busy machine the signal may come late, or the relay still reads its first response, which goes to the end
        // of the old version.
        if output.code == Some(0) {
            assert!(site.downloaded(file) == before, "a file of two versions");
            continue;
        }
        let output = output.expect_code(7);
        assert!(output.stderr.contains(&format!("objects/{file}")), "{}", output.stderr);
        let kept = std::fs::read_to_string(site.downloads().join(file)).ok();
        assert_eq!(kept.as_deref(), older, "a torn file has the final name");
    }
}

fn len(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |metadata| metadata.len())
}
