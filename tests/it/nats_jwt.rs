//! Accounts and users as JWTs: the operator mode of nats-server.

use std::path::PathBuf;

use nkeys::KeyPair;
use serde_json::json;
use tokio::time::{Duration, Instant};

use crate::bus::jwt;
use crate::support::{Nats, NatsOptions, Relay, data, gantry, until};

/// An operator with one account, in a folder with the users' credentials.
struct Operator {
    key: KeyPair,
    account: KeyPair,
    folder: tempfile::TempDir,
}

impl Operator {
    fn new() -> Self {
        Self { key: KeyPair::new_operator(), account: KeyPair::new_account(), folder: data::folder() }
    }

    /// Returns the server's configuration, with the account's JWT. `revoked` are keys of users.
    fn config(&self, revoked: &[&KeyPair]) -> String {
        let limits = json!({ "subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1,
            "payload": -1, "wildcards": true });
        let revocations: serde_json::Map<_, _> =
            revoked.iter().map(|user| (user.public_key(), json!(1_800_000_000))).collect();
        let account = json!({ "type": "account", "version": 2, "limits": limits, "revocations": revocations });

        let operator = jwt(&self.key, &self.key, json!({ "type": "operator", "version": 2 }));
        let account = jwt(&self.key, &self.account, account);
        format!(
            "operator: {operator}\nresolver: MEMORY\nresolver_preload: {{ {}: {account} }}",
            self.account.public_key()
        )
    }

    /// Writes the credentials of a user.
    fn credentials(&self, name: &str, user: &KeyPair) -> PathBuf {
        let claims = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            jwt(&self.account, user, claims),
            user.seed().unwrap()
        );
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// The account's JWT is replaced by one that revokes the user, as `nsc revocations add-user` and `nsc push` do.
#[tokio::test]
async fn a_user_that_its_account_revokes_learns_it_during_a_download() {
    let operator = Operator::new();
    let (relay, user) = (KeyPair::new_user(), KeyPair::new_user());
    let (relay_file, user_file) = (operator.credentials("relay", &relay), operator.credentials("user", &user));
    let config = operator.config(&[]);
    let mut nats = Nats::start(NatsOptions { config, ..NatsOptions::default() }).await;

    let files = data::folder();
    data::random_file(&files.path().join("large"), 1, 30 << 20);
    let probe = async_nats::ConnectOptions::with_credentials_file(&relay_file).await.unwrap();
    let relay = Relay::on(&nats)
        .store("files", format!("file://{}", files.path().display()))
        .probe(probe.connect(nats.url()).await.unwrap())
        .env("NATS_CREDS", &relay_file);
    let _relay = relay.start().await;
    let target = files.path().join("target");
    let get = gantry(["get", "files/large", "--limit-rate", "1M", "-o"]).arg(&target);
    let get = get.nats(&nats).env("NATS_CREDS", &user_file).spawn();
    let part = files.path().join(".target.gantry-part");
    until("a part file with bytes", async || std::fs::metadata(&part).is_ok_and(|part| part.len() > 0).then_some(()))
        .await;

    let revoked = Instant::now();
    nats.set_config(operator.config(&[&user]));
    nats.signal("HUP");

    let output = get.output().await.expect_code(8);
    assert!(revoked.elapsed() < Duration::from_secs(20), "{:?}", revoked.elapsed());
    let stderr = output.stderr.to_lowercase();
    assert!(stderr.contains("revoked") || stderr.contains("authorization violation"), "{stderr}");
    assert!(!target.exists() && part.exists(), "the bytes are kept");
}
