//! Appends on etcd: puts of new keys at the leader, which spares them a hop.

use etcd_client::Client;

use crate::{Failure, Load, Log};

#[derive(Clone)]
struct Etcd(Client);

impl Log for Etcd {
    async fn append(&mut self, number: u64, payload: &[u8]) -> Result<(), Failure> {
        self.0.put(format!("log/{number:016}"), payload, None).await?;
        Ok(())
    }
}

pub async fn run(load: &Load) -> Result<(), Failure> {
    let leader = leader(&load.servers).await?;
    let mut logs = Vec::new();
    for _ in 0..load.connections {
        logs.push(Etcd(Client::connect([&leader], None).await?));
    }
    crate::run(load, logs).await
}

async fn leader(servers: &[String]) -> Result<String, Failure> {
    for server in servers {
        let status = Client::connect([server], None).await?.status().await?;
        if status.header().is_some_and(|header| header.member_id() == status.leader()) {
            return Ok(server.clone());
        }
    }
    Err("no server is the leader".into())
}
