//! The words of subscriptions, byte by byte.

use sealog_protocol::LogspaceId;
use sealog_protocol::client::{CreditRequest, PlaceWire, Request, SubscribeRequest, decode_request, encode_request};
use sealog_protocol::frame::Frame;

fn requests() -> [Request; 3] {
    let place = PlaceWire { view: 5, index: 6 };
    [
        Request::Subscribe(SubscribeRequest { logbook: 1, tag: 2, from: 3, credit_bytes: 4, place }),
        Request::Credit(CreditRequest { logbook: 1, subscription: 2, bytes: 3 }),
        Request::Unsubscribe { logbook: 1, subscription: 2 },
    ]
}

#[test]
fn golden_bytes() {
    for (request, golden) in requests().iter().zip(GOLDEN) {
        let mut out = Vec::new();
        encode_request(&mut out, 9, request);
        let frame = Frame::parse(&out).expect("a frame").expect("whole");
        // Before the fields: which request it is, the place of its name among them. After them: room for
        // larger ones.
        let hex: String = frame.metadata[1..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex.trim_end_matches('0'), golden.trim_end_matches('0'), "the words of {request:?} changed");
        assert_eq!(decode_request(&frame).as_ref(), Ok(request));
    }
}

/// LogBook; then tag, from, credit, place; or subscription and bytes; or subscription.
const GOLDEN: [&str; 3] = [
    concat!("0100000000000000", "0200000000000000", "0300000000000000", "04000000", "050000000600000000000000"),
    concat!("0100000000000000", "0200000000000000", "03000000"),
    concat!("0100000000000000", "0200000000000000"),
];

#[test]
fn each_goes_to_the_executor_of_its_logbook() {
    for request in requests() {
        assert_eq!(request.logspace(1), Some(LogspaceId(0)));
        let of_read = Request::Describe { logbook: 1, place: PlaceWire::default() }.logspace(7);
        assert_eq!(request.logspace(7), of_read, "{request:?}");
    }
}
