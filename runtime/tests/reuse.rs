//! Segment files that nobody needs are used again on a real disk, and their number is bounded.

#[path = "toy/client.rs"]
mod client;
mod toy;

use client::Client;
use sealog_runtime::{ExecutorConfig, ExecutorId, NodeConfig};
use toy::{Data, Event, Mode, journal, start_toy};

const SEGMENT_BYTES: u64 = 1 << 20;
/// The open one, two whose footers are written, two prepared, spares, and one under preparation.
const FILES_MAX: usize = 1 + 2 + 2 + 5 + 1;

fn config(data: &Data) -> NodeConfig {
    let executor = ExecutorConfig { listen: vec![data.socket()], journal: journal(SEGMENT_BYTES) };
    NodeConfig::new(data.0.clone(), vec![executor])
}

fn files(data: &Data) -> usize {
    std::fs::read_dir(data.0.join("journal-0")).expect("the journal's directory").count()
}

#[test]
fn files_are_used_again_and_few() {
    let data = Data::new("reuse");
    let payload = vec![7; 100_000];
    let mut appended = 0;
    for life in 0..3 {
        let node = start_toy(config(&data), Mode::Alone).expect("it starts");
        let mut client = Client::connect(&node.addresses()[0]);
        for _ in 0..30 {
            // About a segment each.
            for _ in 0..10 {
                client.append(appended, &payload);
                appended += 1;
            }
            node.poster().post(ExecutorId(0), Event::ReleaseAll);
            let files = files(&data);
            assert!(files <= FILES_MAX, "life {life}: {files} files after {appended} records");
        }
        node.stop();
        let journals = node.journals().clone();
        node.wait().expect("an orderly end");
        let status = journals[0].status();
        assert!(status.segments_released >= 20 && status.segments_recycled >= 15, "life {life}: {status:?}");
        assert!(status.segments <= 3, "life {life}: {status:?}");
        let report = journals[0].report();
        assert_eq!(report.damages_total, 0, "life {life}: what is gone is no damage");
    }
}
