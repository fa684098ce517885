//! Several nats-servers that form one cluster.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::timeout;

use super::{Nats, NatsOptions, data, until};

/// A NATS cluster, whose nodes can be stopped and restarted one by one.
#[derive(Debug)]
pub(crate) struct NatsCluster {
    pub(crate) nodes: Vec<Nats>,
}

impl NatsCluster {
    /// Starts `N` nodes with the same options, and waits until messages pass between all of them.
    pub(crate) async fn start<const N: usize>(options: NatsOptions) -> Self {
        let ports = data::free_ports::<N>();
        let routes: Vec<_> = ports.iter().map(|port| format!("nats-route://127.0.0.1:{port}")).collect();
        let routes = routes.join(", ");
        let mut nodes = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let cluster = format!(
                "server_name: node-{index}\ncluster {{ name: it, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}\n"
            );
            let config = cluster + &options.config;
            nodes.push(Nats::start(NatsOptions { config, ..options.clone() }).await);
        }
        let cluster = Self { nodes };
        cluster.meshed().await;
        cluster
    }

    /// Returns the URLs of all nodes, separated by commas as in `NATS_URL`.
    pub(crate) fn urls(&self) -> String {
        let urls: Vec<_> = self.nodes.iter().map(Nats::url).collect();
        urls.join(",")
    }

    /// Waits until a message published at any node reaches every other one.
    pub(crate) async fn meshed(&self) {
        for (from, sender) in self.nodes.iter().enumerate() {
            let sender = sender.client().await;
            for (to, receiver) in self.nodes.iter().enumerate() {
                let receiver = receiver.client().await;
                let subject = format!("it.meshed.{from}.{to}");
                let mut messages = receiver.subscribe(subject.clone()).await.unwrap();
                receiver.flush().await.unwrap();
                until(&format!("a route from node {from} to node {to}"), async || {
                    sender.publish(subject.clone(), "".into()).await.unwrap();
                    timeout(Duration::from_millis(50), messages.next()).await.ok().flatten()
                })
                .await;
            }
        }
    }
}
