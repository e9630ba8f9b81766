//! What a node reads when it starts: its configuration, and who it is.

use std::path::Path;

use sealog_node::configuration::Configuration;
use sealog_node::identity::Identity;
use sealog_protocol::frame::{FrameKind, write_frame};
use sealog_protocol::members::Members;
use sealog_protocol::view::Chain;

/// A configuration file. What is in force can be read back and is the same.
pub fn configuration(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (mut configuration, mut errors) = (Configuration::default(), Vec::new());
    configuration.apply_file(Path::new("node.toml"), text, &mut errors);
    for error in &errors {
        assert!(error.to_string().starts_with("node.toml:"), "{error}");
    }
    let printed: String = configuration.effective().map(|effective| effective.to_toml() + "\n").collect();
    let (mut again, mut errors) = (Configuration::default(), Vec::new());
    again.apply_file(Path::new("node.toml"), &printed, &mut errors);
    assert!(errors.is_empty(), "{errors:?} in {printed}");
    assert_eq!(again.settings, configuration.settings);
}

/// The identity, a chain of views, and the nodes of a cluster, their checksums right.
pub fn data_directory(input: &[u8]) {
    let _ = Identity::decode(input);
    let mut identity = input.to_vec();
    identity.extend_from_slice(format!("checksum {:08x}\n", crc32fast::hash(input)).as_bytes());
    if let Ok(identity) = Identity::decode(&identity) {
        assert_eq!(Identity::decode(identity.encode().as_bytes()).as_ref(), Ok(&identity));
    }
    let mut frame = Vec::new();
    write_frame(&mut frame, FrameKind::Chain, 0, 0, input, &[]);
    if let Ok(chain) = Chain::decode(&frame) {
        assert_eq!(Chain::decode(&chain.encode()), Ok(chain));
    }
    frame.clear();
    write_frame(&mut frame, FrameKind::Members, 0, 0, input, &[]);
    if let Ok(members) = Members::decode(&frame) {
        assert_eq!(Members::decode(&members.encode()), Ok(members));
    }
}
