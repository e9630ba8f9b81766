//! What an operator asks of a cluster, through any of its nodes.

use rkyv::{Archive, Deserialize, Serialize};

/// A question about the cluster, or a change of it: [`super::Reply::Operated`], JSON text. Each may be
/// sent again: what is done already has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum OperateRequest {
    /// Who the nodes are, and what each has.
    Nodes,
    /// The views of a logspace, of all of them if it is `None`: the newest, so many, and every one that
    /// lost something.
    Views { logspace: Option<u16>, limit: u32 },
    /// What changing a node would do; and if `act`, and nothing speaks against it, the change.
    Node { node: u64, change: NodeChange, act: bool },
    /// What forcing the end of this view would do; and if `act`, its beginning.
    ForceSeal { logspace: u16, view: u32, act: bool },
}

/// What is wanted of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum NodeChange {
    /// It may be given work.
    Add,
    /// Its work is to go to others; if this is not 0, to that node where it can.
    Drain { replacement: u64 },
    /// It is to be forgotten.
    Remove { accept_loss: bool },
}

#[cfg(test)]
mod tests {
    use crate::client::{Answer, Reply, Request, decode_answer, decode_request, encode_reply, encode_request};
    use crate::frame::Frame;

    use super::*;

    fn metadata(request: OperateRequest) -> String {
        let mut out = Vec::new();
        encode_request(&mut out, 5, &Request::Operate(request));
        let frame = Frame::parse(&out).expect("whole").expect("whole");
        assert_eq!(decode_request(&frame), Ok(Request::Operate(request)));
        frame.metadata.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn golden_bytes_of_what_operators_ask() {
        let drain = OperateRequest::Node { node: 7, change: NodeChange::Drain { replacement: 9 }, act: true };
        let requests = [
            OperateRequest::Nodes,
            OperateRequest::Views { logspace: Some(2), limit: 10 },
            drain,
            OperateRequest::ForceSeal { logspace: 3, view: 4, act: false },
        ];
        // Request 12; of it 0 to 3; then its fields, and zeros up to the size of the largest request.
        let golden = ["0c00", "0c010102000a", "0c02070000000000000001090000000000000001", "0c030300040000"]
            .map(|fields| format!("{fields:0<112}"));
        assert_eq!(requests.map(metadata), golden, "what nodes of this version read");
    }

    #[test]
    fn an_answer_is_a_text() {
        let (mut out, reply) = (Vec::new(), Reply::Operated { json: "{}".repeat(200) });
        encode_reply(&mut out, 6, &reply);
        assert_eq!(decode_answer(&out.into()), Ok((6, Answer::Reply(reply))));
    }
}
