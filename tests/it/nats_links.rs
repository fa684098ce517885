//! Relay and consumer on different nats-servers: leaf nodes and gateways, with exactly the permissions that PROTOCOL.md
//! names ("Security").

use crate::support::{Nats, NatsOptions, Relay, data, gantry};

const RELAY: &str = "publish: [\"_INBOX.>\", \"$SRV.INFO.gantry\"], subscribe: [\"gantry.v1.*.* gantry\", \
    \"gantry.v1.ctl.*.*\", \"gantry.v1.gone.*.*\", \"$SRV.>\", \"_INBOX.gantry-peers.*\"]";
/// What a link to a site with relays may do. Permissions of a leaf link don't distinguish queue groups.
const LINK_TO_RELAYS: &str = "publish: [\"_INBOX.>\", \"$SRV.INFO.gantry\"], subscribe: [\"gantry.v1.*.*\", \
    \"gantry.v1.ctl.*.*\", \"$SRV.>\", \"_INBOX.gantry-peers.*\"]";
const CONSUMER: &str = "publish: [\"gantry.v1.get.files\", \"gantry.v1.stat.files\", \"gantry.v1.list.files\", \
    \"gantry.v1.ctl.*.*\"], subscribe: [\"_INBOX.>\"]";

/// More than a connection's largest window, so that the download needs further credit.
const LARGE: u64 = 30 << 20;

/// The users of a server. `admin` is for the test itself.
fn users() -> String {
    format!(
        "authorization {{ users: [{{ user: admin, password: p }}, {{ user: relay, password: p, permissions: {{ {RELAY} }} \
         }}, {{ user: consumer, password: p, permissions: {{ {CONSUMER} }} }}, {{ user: link, password: p, \
         permissions: {{ {LINK_TO_RELAYS} }} }}] }}\n"
    )
}

async fn server(config: String) -> Nats {
    Nats::start(NatsOptions { config: users() + &config, ..NatsOptions::default() }).await
}

/// Describes, lists and downloads an object at one server from a relay at another.
async fn assert_served(consumers: &Nats, relays: &Nats) {
    let folder = data::folder();
    let files = folder.path().join("files");
    std::fs::create_dir(&files).unwrap();
    data::random_file(&files.join("large"), 1, LARGE);
    let probe = async_nats::ConnectOptions::with_user_and_password("admin".to_owned(), "p".to_owned());
    let relay = Relay::on(relays)
        .store("files", format!("file://{}", files.display()))
        .probe(probe.connect(relays.url()).await.unwrap())
        .env("NATS_USER", "relay")
        .env("NATS_PASSWORD", "p");
    let relay = relay.start().await;

    let run = |args: &[&str]| gantry(args).nats(consumers).env("NATS_USER", "consumer").env("NATS_PASSWORD", "p");
    let target = folder.path().join("target");
    let json = run(&["get", "files/large", "--json", "-o"]).arg(&target).run().await.expect_code(0).json();
    data::assert_same_file(&files.join("large"), &target);
    assert_eq!(json["recoveries"], 0, "{json}");

    let listed = run(&["ls", "files/"]).run().await.expect_code(0).stdout_text();
    assert!(listed.contains("large"), "{listed}");
    run(&["stat", "files/large"]).run().await.expect_code(0);
    run(&["get", "files/missing", "-o"]).arg(&target).run().await.expect_code(4);
    assert!(!relay.stderr().to_lowercase().contains("permissions violation"), "{}", relay.stderr());
}

/// A leaf node whose link has the permissions of one side only.
#[tokio::test]
async fn downloads_cross_a_leaf_link_in_both_directions() {
    for (user, is_relay_at_hub) in [("consumer", true), ("link", false)] {
        let port = data::free_port();
        let hub = server(format!("leafnodes {{ listen: \"127.0.0.1:{port}\" }}\n")).await;
        let url = format!("nats-leaf://{user}:p@127.0.0.1:{port}");
        let edge = server(format!("leafnodes {{ remotes: [{{ url: \"{url}\" }}] }}\n")).await;

        if is_relay_at_hub {
            assert_served(&edge, &hub).await;
        } else {
            assert_served(&hub, &edge).await;
        }
    }
}

#[tokio::test]
async fn downloads_cross_a_gateway() {
    let [one, other] = data::free_ports::<2>();
    let gateway = |name: &str, port: u16| {
        let all = format!(
            "[{{ name: one, url: \"nats://127.0.0.1:{one}\" }}, {{ name: other, url: \"nats://127.0.0.1:{other}\" }}]"
        );
        format!("gateway {{ name: {name}, listen: \"127.0.0.1:{port}\", gateways: {all} }}\n")
    };
    let consumers = server(gateway("one", one)).await;
    let relays = server(gateway("other", other)).await;

    assert_served(&consumers, &relays).await;
}
