//! The README's minute with the command line, run as it stands there: a quick start that nobody
//! runs rots.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::node::{Node, binary, fresh_directory};

/// The lines of the code block that follows this text.
fn commands_after(readme: &str, text: &str) -> Vec<String> {
    let rest = readme.split_once(text).unwrap_or_else(|| panic!("the README no longer says {text:?}")).1;
    let block = rest.split_once("```sh\n").and_then(|(_, block)| block.split_once("```")).expect("a code block").0;
    block.lines().map(str::to_owned).collect()
}

/// The exit code that a line's comment promises.
fn promised_code(line: &str) -> i32 {
    let comment = line.split_once("exit code ").map(|(_, rest)| rest);
    let digits = comment.map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
    digits.map_or(0, |digits| digits.parse().expect("a number"))
}

#[test]
fn the_readmes_minute_works_as_it_stands() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tools/ is in the repository");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("there is a README");
    let data = fresh_directory("readme");
    let node = Node::start(&data);
    let folder = binary().parent().expect("it is in a folder").display().to_string();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    let mut output = BTreeMap::new();
    for line in commands_after(&readme, "In another:") {
        // Two would go on for ever: they get an end.
        let line = match line.split_whitespace().nth(1) {
            Some("tail") => format!(
                "{{ {} || [ $? = 124 ]; }}",
                line.replacen("sealog", "timeout 2 sealog", 1).split('#').next().unwrap_or_default()
            ),
            Some("bench") => line.replacen("sealog bench", "sealog bench --duration 1s", 1),
            _ => line,
        };
        let mut command = Command::new("bash");
        command.args(["-c", &line]).env("PATH", &path).env("SEALOG_CONNECT", &node.address).stdin(Stdio::null());
        let ended = command.output().expect("bash runs");
        assert_eq!(ended.status.code(), Some(promised_code(&line)), "{line}: {ended:?}");
        output.insert(line, String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    let read = output.iter().find(|(line, _)| line.starts_with("sealog read")).expect("the README reads").1;
    assert!(read.contains("order 4711 placed"), "{read}");
    node.stop();
}

#[test]
fn the_readme_names_this_build() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tools/ is in the repository");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("there is a README");
    let commands = commands_after(&readme, "## Two commands");
    assert!(commands[0].starts_with("cargo run --release -- dev"), "{commands:?}");
    assert!(commands[1].starts_with("./test") && root.join("test").is_file(), "{commands:?}");
}
