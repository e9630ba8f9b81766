//! A node under a supervisor, as systemd is one: readiness, the log, the unit.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::node::{NodeCommand, binary, fresh_directory};

fn unit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tools/ is in the repository")
        .join("packaging/sealog.service")
}

/// What the unit says after `key=`, each time.
fn unit_says(key: &str) -> Vec<String> {
    let text = fs::read_to_string(unit()).expect("there is a unit");
    text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned).collect()
}

#[test]
fn the_supervisor_is_told_when_it_is_ready_and_when_it_stops() {
    let data = fresh_directory("service-notify");
    // The path of a socket is short.
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let told = || {
        let mut bytes = [0; 1024];
        let count = socket.recv(&mut bytes).expect("it tells");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let path: &'static str = Box::leak(path.to_str().expect("text").to_owned().into_boxed_str());
    let command = NodeCommand { settings: vec![("NOTIFY_SOCKET", path)], ..NodeCommand::new(&data) };
    let node = command.start().expect("it starts");
    let ready = told();
    assert!(ready.lines().any(|line| line == "READY=1"), "{ready}");
    assert!(ready.contains(&format!("STATUS=listening on {}", node.address)), "{ready}");
    node.stop();
    assert_eq!(told().trim(), "STOPPING=1");

    // Nobody listens there: it serves all the same.
    let settings = vec![("NOTIFY_SOCKET", "/nobody/listens")];
    NodeCommand { settings, ..NodeCommand::new(&data) }.start().expect("it starts").stop();
}

/// Runs a node that cannot start and warns before, its stderr a file, told that the journal is
/// `stream`; what it said.
fn said_with(name: &str, format: &str, stream: impl Fn(&fs::Metadata) -> String) -> String {
    let data = fresh_directory(name);
    let path = data.join("stderr");
    let stderr = fs::File::create(&path).expect("a file");
    let stream = stream(&stderr.metadata().expect("it has some"));
    let long = data.join("x".repeat(120));
    let mut command = Command::new(binary());
    // A path that is too long for a socket is a warning; an address that is not of this machine ends it.
    command.args(["serve", "--listen", "192.0.2.1:0", "--allow-remote", "--data"]).arg(&long);
    command.env("JOURNAL_STREAM", stream).env("SEALOG_LOG_FORMAT", format);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).status().expect("it runs");
    assert_eq!(status.code(), Some(1));
    fs::read_to_string(&path).expect("text")
}

#[test]
fn the_journal_gets_priorities_and_a_file_gets_times() {
    let journal = |metadata: &fs::Metadata| format!("{}:{}", metadata.dev(), metadata.ino());
    let said = said_with("service-journal", "auto", journal);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("<4>") && lines[0].contains("too long"), "{said}");
    assert!(lines.last().expect("it says why").starts_with("<3>sealog: "), "{said}");
    assert!(!said.contains('\u{1b}') && !said.contains("WARN") && !said.contains("20:"), "{said}");

    // The variable is inherited; this stderr is not the journal.
    let said = said_with("service-other", "auto", |metadata| format!("{}:{}", metadata.dev(), metadata.ino() + 1));
    assert!(said.contains("WARN") && said.starts_with("20") && !said.contains("<4>"), "{said}");
    let said = said_with("service-text", "text", journal);
    assert!(said.contains("WARN") && said.starts_with("20"), "{said}");
    let said = said_with("service-forced", "journald", |_| String::new());
    assert!(said.starts_with("<4>"), "{said}");
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The unit starts what this release can be started with.
#[test]
fn the_unit_names_flags_and_exit_codes_of_this_release() {
    let start = unit_says("ExecStart").concat();
    let arguments = start.strip_prefix("/usr/bin/sealog serve ").expect("it serves");
    let directory = fresh_directory("service-unit");
    let configuration = directory.join("sealog.toml");
    let default = Command::new(binary()).args(["config", "default"]).output().expect("it runs");
    fs::write(&configuration, default.stdout).expect("a file");
    let arguments = arguments.replace("/etc/sealog/sealog.toml", configuration.to_str().expect("text"));
    let arguments = arguments.replace("%S", "/var/lib");
    let mut print = Command::new(binary());
    let printed = print.args(["config", "print"]).args(arguments.split(' ')).output().expect("it runs");
    assert_eq!(printed.status.code(), Some(0), "{}", text(&printed));
    assert!(text(&printed).contains("data = \"/var/lib/sealog\""), "{}", text(&printed));
    assert_eq!(unit_says("StateDirectory"), ["sealog"]);
    assert_eq!(unit_says("Type"), ["notify"]);
    // Usage and corruption are the same after a restart.
    assert_eq!(unit_says("RestartPreventExitStatus"), ["2 8"]);
    let calls = unit_says("SystemCallFilter").join(" ");
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(calls.contains(call), "{calls}");
    }
}

/// What systemd says of the unit, where there is systemd.
#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let copy = tempfile::tempdir().expect("a directory");
    let path = copy.path().join("sealog.service");
    let text_of_unit = fs::read_to_string(unit()).expect("there is a unit");
    fs::write(&path, text_of_unit.replace("/usr/bin/sealog", binary().to_str().expect("text"))).expect("a file");
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output() {
        Ok(output) => assert!(output.status.success() && text(&output).trim().is_empty(), "{}", text(&output)),
        Err(error) => println!("not asked: there is no systemd-analyze here ({error})"),
    }
}
