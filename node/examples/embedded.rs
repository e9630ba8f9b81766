//! A program with its own log service inside: counts its runs, and keeps them all.
//!
//! ```text
//! cargo run --release -p sealog-node --example embedded -- ./sealog-embedded
//! ```

use std::error::Error;

use sealog::{SeqNum, Tag};
use sealog_node::Embedded;

fn main() -> Result<(), Box<dyn Error>> {
    let data = std::env::args().nth(1).unwrap_or_else(|| "./sealog-embedded".to_owned());
    let sealog = Embedded::start(&data)?;
    pollster::block_on(count_run(&sealog))?;
    sealog.stop()?;
    Ok(())
}

async fn count_run(sealog: &Embedded) -> Result<(), Box<dyn Error>> {
    let runs = sealog.client().await?.logbook("runs");
    let tag = Tag::from_name("run");
    let before = runs.read_range(tag, SeqNum::MIN..=SeqNum::MAX, 1_000).await?;
    let appended = runs.append(&[tag], format!("run {}", before.len() + 1)).await?;
    println!("run {} of this log, at SeqNum {}, on {}", before.len() + 1, appended.seqnum, appended.durability.name());
    Ok(())
}
