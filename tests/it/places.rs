//! Stores that are copies of one another, or not what they should be, with the built binary and a real nats-server.

use bytes::Bytes;

use crate::support::s3_double::{Act, Request, S3Double};
use crate::support::{Nats, Relay, data, gantry, until};

fn url(folder: &std::path::Path) -> String {
    format!("file://{}", folder.display())
}

#[tokio::test]
async fn relays_over_copies_of_a_directory_take_over_from_one_another() {
    let nats = Nats::plain().await;
    let one = data::folder();
    let other = data::folder();
    let downloads = data::folder();
    let body = data::random_bytes(1, 8 << 20);
    for folder in [&one, &other] {
        std::fs::write(folder.path().join("key"), &body).unwrap();
    }
    let written = std::fs::metadata(one.path().join("key")).unwrap().modified().unwrap();
    std::fs::File::options().write(true).open(other.path().join("key")).unwrap().set_modified(written).unwrap();
    let mut first = Relay::on(&nats).store("files", url(one.path())).start().await;
    let target = downloads.path().join("key");
    let download =
        gantry(["get", "files/key", "--limit-rate", "4MiB", "--json", "-o"]).arg(&target).nats(&nats).spawn();
    let part = downloads.path().join(".key.gantry-part");
    until("some bytes", async || std::fs::metadata(&part).is_ok_and(|part| part.len() > 0).then_some(())).await;

    let _second = Relay::on(&nats).store("files", url(other.path())).start().await;
    first.kill().await;

    let output = download.output().await.expect_code(0);
    assert!(std::fs::read(&target).unwrap() == body);
    assert!(output.json()["recoveries"].as_u64().unwrap() > 0, "the first relay had sent all: {}", output.json());
}

#[tokio::test]
async fn relays_with_other_places_under_one_name_warn_and_count_each_other() {
    let nats = Nats::plain().await;
    let one = data::folder();
    let other = data::folder();

    let first = Relay::on(&nats).store("files", url(one.path())).start().await;
    let second = Relay::on(&nats).store("files", url(other.path())).start().await;

    second.logged("another relay serves this store from another place").await;
    let said = second.stderr();
    assert!(said.contains(first.id()), "{said}");
    assert!(!said.contains(&*one.path().to_string_lossy()), "{said}");
}

#[tokio::test]
async fn the_check_distinguishes_a_console_from_s3() {
    let nats = Nats::plain().await;
    let page =
        Act::Raw(200, "content-type: text/html\r\netag: \"1\"", "<!doctype html><title>Console</title>".to_owned());
    let server = S3Double::start(Bytes::new(), move |_: &Request| page.clone()).await;

    let said = gantry(["serve", "--check", "--store", "s=s3://bucket"])
        .nats(&nats)
        .env("AWS_ENDPOINT_URL", server.endpoint())
        .env("AWS_ACCESS_KEY_ID", "id")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .run()
        .await
        .expect_code(2);

    assert!(said.stderr.contains("not S3") || said.stdout_text().contains("not S3"), "{}", said.stderr);
}

#[tokio::test]
async fn omitted_names_are_reported_on_standard_error() {
    let nats = Nats::plain().await;
    let folder = data::folder();
    for name in ["a", "line\nbreak"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    let _relay = Relay::on(&nats).store("files", url(folder.path())).start().await;

    let said = gantry(["ls", "files"]).nats(&nats).run().await.expect_code(0);

    assert_eq!(said.stdout_text().lines().count(), 1, "{}", said.stdout_text());
    assert!(said.stderr.contains("1 name is not listed"), "{}", said.stderr);
}

#[tokio::test]
async fn requests_whose_answer_nobody_receives_cost_s3_next_to_nothing() {
    const UNHEARD: usize = 20;
    let nats = Nats::plain().await;
    let server = S3Double::start(data::random_bytes(1, 32 << 20), |_: &Request| Act::Serve).await;
    let relay = Relay::on(&nats)
        .store("s", "s3://bucket")
        .env("AWS_ENDPOINT_URL", server.endpoint())
        .env("AWS_ACCESS_KEY_ID", "id")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .start()
        .await;
    let client = nats.client().await;
    let ask = async |number: usize| {
        let (reply, body) = (format!("_INBOX.nobody.{number}"), r#"{"key":"k"}"#.into());
        client.publish_with_reply("gantry.v1.get.s", reply, body).await.unwrap();
        client.flush().await.unwrap();
    };
    ask(0).await;
    relay.logged("consumer_gone").await;

    for number in 1..=UNHEARD {
        ask(number).await;
    }
    let ended = async || (relay.stderr().matches("consumer_gone").count() > UNHEARD).then_some(());
    until("the end of all", ended).await;

    let gets = server.requests().iter().filter(|request| request.is_get() && !request.is_list()).count();
    println!("{} requests that nobody heard the answer to: {gets} to S3", UNHEARD + 1);
    assert!(gets <= UNHEARD / 4, "{gets}");
    let said = gantry(["get", "s/k", "-o", "-"]).nats(&nats).run().await.expect_code(0);
    assert_eq!(said.stdout.len(), 32 << 20);
}
