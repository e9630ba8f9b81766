//! Appends on NATS JetStream: publishes to a stream with a copy on each server, acknowledged by the
//! stream; at the stream's leader, which spares them a hop. Servers are named n1, n2 and so on.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, Info, StorageType};
use async_nats::jetstream::{self, Context};

use crate::{Failure, Load, Log};

const STREAM: &str = "log";
/// Until a new cluster has chosen who leads.
const LEADER_DEADLINE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(200);

#[derive(Clone)]
struct Nats(Context);

impl Log for Nats {
    async fn append(&mut self, _number: u64, payload: &[u8]) -> Result<(), Failure> {
        self.0.publish(STREAM, payload.to_vec().into()).await?.await?;
        Ok(())
    }
}

pub async fn run(load: &Load) -> Result<(), Failure> {
    let leader = tokio::time::timeout(LEADER_DEADLINE, leader(&load.servers)).await;
    let leader = leader.map_err(|_| "the stream has no leader")??;
    let mut logs = Vec::new();
    for _ in 0..load.connections {
        logs.push(Nats(jetstream::new(async_nats::connect(&leader).await?)));
    }
    crate::run(load, logs).await
}

/// The server that leads the stream, which is made if it is not there.
async fn leader(servers: &[String]) -> Result<String, Failure> {
    let context = jetstream::new(async_nats::connect(&servers[0]).await?);
    let config = Config {
        name: STREAM.to_owned(),
        subjects: vec![STREAM.to_owned()],
        storage: StorageType::File,
        num_replicas: servers.len(),
        ..Config::default()
    };
    loop {
        let stream = context.get_or_create_stream(config.clone()).await;
        if let Ok(stream) = stream
            && let Ok(info) = stream.get_info().await
            && let Some(server) = leading(&info, servers)
        {
            return Ok(server);
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn leading(info: &Info, servers: &[String]) -> Option<String> {
    let name = info.cluster.as_ref()?.leader.as_ref()?;
    let number: usize = name.strip_prefix('n')?.parse().ok()?;
    servers.get(number.checked_sub(1)?).cloned()
}
