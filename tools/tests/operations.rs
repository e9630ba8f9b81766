//! `sealog doctor`, `completions` and `man`, as a user runs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// On the disk of the build: not every file system of temporary files takes O_DIRECT.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if path.exists() {
        std::fs::remove_dir_all(&path).expect("ours to remove");
    }
    path
}

fn sealog(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sealog")).args(arguments).output().expect("it runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// The checks of a run of doctor, by name.
fn checks(output: &Output) -> Vec<(String, serde_json::Value)> {
    let lines = text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("an object a line"));
    lines.map(|check: serde_json::Value| (check["check"].as_str().expect("named").to_owned(), check)).collect()
}

fn check(output: &Output, name: &str) -> serde_json::Value {
    let found = checks(output).into_iter().find(|(check, _)| check == name);
    found.unwrap_or_else(|| panic!("no check of {name}")).1
}

#[test]
fn doctor_finds_what_a_node_needs_and_leaves_nothing_behind() {
    let data = directory("doctor");
    let arguments = ["doctor", "--data", data.to_str().expect("UTF-8"), "--listen", "127.0.0.1:0", "-o", "json"];
    let output = sealog(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    let names: Vec<String> = checks(&output).into_iter().map(|(name, _)| name).collect();
    let expected = [
        "kernel",
        "io_uring",
        "locked memory",
        "open files",
        "cores",
        "clock",
        "data directory",
        "O_DIRECT",
        "space",
        "disk flush",
        "port",
    ];
    assert_eq!(names, expected);
    for (name, check) in checks(&output) {
        let is_ok = check["status"] == "ok";
        assert_eq!(check["fix"].is_null(), is_ok, "{name} says what to do when something is: {check}");
    }
    assert!(check(&output, "disk flush")["found"].as_str().is_some_and(|found| found.contains("p99")));
    assert!(!data.exists(), "a look makes nothing");
    let left = std::fs::read_dir(env!("CARGO_TARGET_TMPDIR")).expect("readable").flatten();
    assert!(!left.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("sealog-doctor")));
}

#[test]
fn doctor_says_what_is_wrong_and_ends_with_one() {
    let data = directory("doctor-foreign");
    std::fs::create_dir(&data).expect("made");
    std::fs::write(data.join("letters.txt"), "not ours").expect("written");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listen = taken.local_addr().expect("bound").to_string();
    // Nobody is to be taken for a node that says nothing.
    taken.set_nonblocking(true).expect("possible");
    let arguments = ["doctor", "--data", data.to_str().expect("UTF-8"), "--listen", &listen, "-o", "json"];
    let output = sealog(&arguments);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("2 of 11 checks failed"), "{}", text(&output.stderr));
    assert_eq!(check(&output, "data directory")["status"], "fail");
    assert_eq!(check(&output, "port")["status"], "fail");
    assert!(check(&output, "port")["fix"].as_str().is_some_and(|fix| fix.contains("--listen")));
}

#[test]
fn completions_and_manual_know_every_verb() {
    let help = sealog(&["--help"]);
    let (_, commands) = text(&help.stdout).split_once("Commands:").expect("verbs are listed");
    let verbs: Vec<&str> = commands
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .collect();
    assert!(verbs.len() > 10, "{verbs:?}");
    for shell in ["bash", "zsh", "fish"] {
        let script = sealog(&["completions", shell]);
        assert_eq!(script.status.code(), Some(0));
        let missing: Vec<_> = verbs.iter().filter(|verb| !text(&script.stdout).contains(**verb)).collect();
        assert!(missing.is_empty(), "{shell} lacks {missing:?}");
    }
    let out = directory("manual");
    assert_eq!(sealog(&["man", "--out", out.to_str().expect("UTF-8")]).status.code(), Some(0));
    for verb in verbs {
        let page = std::fs::read_to_string(out.join(format!("sealog-{verb}.1"))).expect("a page a verb");
        assert!(page.contains(".SH SYNOPSIS"), "{verb}");
    }
}

fn lines(output: &Output) -> Vec<serde_json::Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

/// A configuration file of a test.
fn configuration(name: &str, content: &str) -> String {
    let path = directory(name).with_extension("toml");
    std::fs::write(&path, content).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn config_check_tells_all_that_is_wrong_with_place_and_what_is_allowed() {
    let wrong = configuration("config-wrong", "listn = \"127.0.0.1:1\"\n\ncache_memory = \"1MiB\"\n[log]\nlevel = 1\n");
    let output = sealog(&["config", "check", &wrong]);
    assert_eq!(output.status.code(), Some(2));
    let said: Vec<&str> = text(&output.stderr).lines().collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].contains(&format!("{wrong}:1: unknown key 'listn': did you mean 'listen'")), "{said:?}");
    assert!(said[1].contains(&format!("{wrong}:3: key 'cache_memory' is '1MiB'")), "{said:?}");
    assert!(said[1].contains("at least 4MiB") && said[2].contains(&format!("{wrong}:4: key 'log'")), "{said:?}");
    let json = lines(&sealog(&["config", "check", &wrong, "-o", "json"]));
    assert_eq!((json[0]["ok"].as_bool(), json[0]["errors"].as_array().map(Vec::len)), (Some(false), Some(3)));

    let remote = configuration("config-remote", "log = \"info\"\nlisten = \"192.0.2.1:7440\"\n");
    let output = sealog(&["config", "check", &remote]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains(&format!("{remote}:2: ")), "{}", text(&output.stderr));

    let right = configuration("config-right", "listen = \"127.0.0.1:0\"\n");
    let output = sealog(&["config", "check", &right]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn config_print_says_what_is_in_force_and_who_said_so() {
    let file = configuration("config-print", "cache_memory = \"8MiB\"\nlog = \"info\"\nexecutors = 2\n");
    let arguments = ["config", "print", "--config", &file, "--log", "debug"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealog"));
    command.env("SEALOG_EXECUTORS", "3").args(arguments).args(["-o", "json"]);
    let output = command.output().expect("it runs");
    let in_force = |key: &str| {
        let line = lines(&output).into_iter().find(|line| line["key"] == key).expect("every key is there");
        (line["value"].to_string(), line["source"].as_str().expect("said").to_owned(), line["line"].as_u64())
    };
    assert_eq!(in_force("cache_memory"), ("\"8MiB\"".to_owned(), "file".to_owned(), Some(1)));
    assert_eq!(in_force("log"), ("\"debug\"".to_owned(), "flag".to_owned(), None));
    assert_eq!(in_force("executors"), ("\"3\"".to_owned(), "environment".to_owned(), None));
    assert_eq!(in_force("connections_max"), ("10000".to_owned(), "default".to_owned(), None));

    // As TOML, it is a configuration that says the same.
    let printed = sealog(&arguments);
    let again = configuration("config-printed", text(&printed.stdout));
    assert_eq!(sealog(&["config", "check", &again]).status.code(), Some(0), "{}", text(&printed.stdout));
    let values = |output: &Output| -> Vec<String> {
        text(&output.stdout).lines().map(|line| line.split(" # ").next().expect("a line").trim().to_owned()).collect()
    };
    assert_eq!(values(&sealog(&["config", "print", "--config", &again])), values(&printed));
}

#[test]
fn config_explain_says_what_a_key_means() {
    let all = lines(&sealog(&["config", "explain", "-o", "json"]));
    let printed = sealog(&["config", "default"]);
    for line in &all {
        let key = line["key"].as_str().expect("named");
        assert!(text(&printed.stdout).contains(&format!("\n{key} = ")), "{key}");
        let one = lines(&sealog(&["config", "explain", key, "-o", "json"]));
        assert_eq!(&one[0], line);
    }
    let segment = sealog(&["config", "explain", "segment_size"]);
    for words in ["bytes", "64MiB", "4MiB to 1GiB", "SEALOG_SEGMENT_SIZE", "--segment-size"] {
        assert!(text(&segment.stdout).contains(words), "no {words} in {}", text(&segment.stdout));
    }
    let unknown = sealog(&["config", "explain", "clients.handshake"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("did you mean 'handshake_deadline'"), "{}", text(&unknown.stderr));
}
