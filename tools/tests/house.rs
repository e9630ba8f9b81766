//! The plan of the house, checked: which crate may depend on which, and what must not be in them.
//!
//! ARCHITECTURE.md says why. Each rule is a function from text to complaints; below them, each is
//! shown to complain of what it is there for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use toml::Table;

/// Each folder, what of ours it may depend on, and whether it is pure. An arrow that is not here
/// is a decision: an ADR first.
const ROOMS: &[Room] = &[
    Room::pure("protocol", &[]),
    Room::pure("journal", &["protocol"]),
    Room::pure("storage", &["protocol"]),
    Room::pure("sequencer", &["protocol"]),
    Room::pure("engine", &["protocol"]),
    Room::pure("control", &["protocol"]),
    Room::pure("history", &["protocol"]),
    Room::shell("client", &["protocol"]),
    Room::shell("runtime", &["protocol", "journal"]),
    Room::shell(
        "node",
        &["protocol", "journal", "storage", "sequencer", "engine", "control", "client", "runtime", "history"],
    ),
    Room::shell("sim", &["protocol", "journal", "storage", "sequencer", "engine", "control", "client", "history"]),
    Room::shell("tools", &["protocol", "journal", "client", "history", "node"]),
    Room::shell("faults", &[]),
];

/// Libraries that pure crates may use: none of them does I/O, reads a clock, or hashes at random.
const PURE_LIBRARIES: &[&str] =
    &["bytes", "crc32fast", "foldhash", "hashbrown", "rkyv", "smallvec", "thiserror", "xxhash-rust"];

/// Words that mean I/O, a clock, a thread, an order that differs from run to run, or `async`.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::io::Read",
    "std::io::Write",
    "std::io::stdout",
    "Instant",
    "SystemTime",
    "async fn",
    "async move",
    ".await",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "RandomState",
    "println!",
    "eprintln!",
];

/// The simulator's switches and counters are of a thread, and never in a shipped build.
const PURE_EXCEPT: &[(&str, &str)] = &[("protocol/src/mutant.rs", "thread_local!")];

/// What only the runtime names.
const SHELL_ONLY: &[&str] = &["glommio", "io_uring", "core_affinity", "TcpListener", "UnixListener"];

/// The word, which this file must not have before a brace.
const UNSAFE: &str = "unsafe";

/// The one audited file outside the runtime that may hold unsafe code, when there is one.
const AUDITED_UNSAFE: Option<&str> = Some("faults/src/network/tap.rs");

/// Lines of a file before its tests, when nobody gave a good reason.
const FILE_LINES_MAX: usize = 600;

/// Larger files, each with its reason.
const LARGER_FILES: &[(&str, &str)] = &[
    ("client/tests/session.rs", "one scripted server, and what the session says to it"),
    ("engine/tests/one_node.rs", "one world of a node, and what a client sees of it"),
    ("node/src/settings.rs", "one table of everything that can be set"),
    ("sequencer/tests/space.rs", "one scripted cluster, and what becomes of its metalog"),
];

struct Room {
    folder: &'static str,
    may_use: &'static [&'static str],
    is_pure: bool,
}

impl Room {
    const fn pure(folder: &'static str, may_use: &'static [&'static str]) -> Room {
        Room { folder, may_use, is_pure: true }
    }

    const fn shell(folder: &'static str, may_use: &'static [&'static str]) -> Room {
        Room { folder, may_use, is_pure: false }
    }

    fn package(&self) -> String {
        match self.folder {
            "client" => "sealog".to_owned(),
            "tools" => "sealog-cli".to_owned(),
            folder => format!("sealog-{folder}"),
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tools/ is in the repository").to_owned()
}

fn manifest(folder: &str) -> Table {
    let path = root().join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Rust files of a folder, by path from the root.
fn sources(folder: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root().join(folder)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten() {
            let path = entry.expect("a directory can be listed").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("below the root").display().to_string();
                found.insert(name, fs::read_to_string(&path).expect("a source can be read"));
            }
        }
    }
    found
}

/// A file's code, without its tests and comments.
fn code(source: &str) -> String {
    let production = source.split("\n#[cfg(test)]").next().expect("a split has a first part");
    let without_comment = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    production.lines().map(without_comment).collect::<Vec<String>>().join("\n")
}

fn complain_of_dependencies(room: &Room, manifest: &Table) -> Vec<String> {
    let dependencies = manifest.get("dependencies").and_then(|table| table.as_table()).cloned().unwrap_or_default();
    let allowed: BTreeSet<String> = ROOMS
        .iter()
        .filter(|other| room.may_use.contains(&other.folder))
        .map(Room::package)
        .chain(room.is_pure.then_some(PURE_LIBRARIES).into_iter().flatten().map(|name| (*name).to_owned()))
        .collect();
    let is_ours = |name: &str| ROOMS.iter().any(|other| other.package() == name);
    let of_runtime = |name: &str| SHELL_ONLY.contains(&name.replace('-', "_").as_str());
    dependencies
        .keys()
        .filter(|name| {
            let unlisted = (room.is_pure || is_ours(name)) && !allowed.contains(*name);
            unlisted || (room.folder != "runtime" && of_runtime(name))
        })
        .map(|name| format!("{}/ must not depend on {name}", room.folder))
        .collect()
}

fn complain_of_words(file: &str, source: &str, words: &[&str]) -> Vec<String> {
    let code = code(source);
    let is_word = |at: usize, word: &str| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let begins_inside = inside(before) && word.starts_with(char::is_alphanumeric);
        !begins_inside && !inside(after)
    };
    words
        .iter()
        .filter(|word| !PURE_EXCEPT.contains(&(file, **word)))
        .filter(|word| code.match_indices(**word).any(|(at, _)| is_word(at, word)))
        .map(|word| format!("{file} has `{word}`"))
        .collect()
}

fn complain_of_unsafe(file: &str, source: &str) -> Vec<String> {
    let code = code(source);
    let is_unsafe =
        |line: &str| ["{", "fn", "impl", "extern"].iter().any(|form| line.contains(&format!("{UNSAFE} {form}")));
    if !code.lines().any(is_unsafe) {
        return Vec::new();
    }
    if !file.starts_with("runtime/") && Some(file) != AUDITED_UNSAFE {
        return vec![format!("{file} has unsafe code")];
    }
    let lines: Vec<&str> = source.split("\n#[cfg(test)]").next().unwrap_or_default().lines().collect();
    let explained = |at: usize| {
        lines[at.saturating_sub(8)..=at].iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety"))
    };
    (0..lines.len())
        .filter(|at| is_unsafe(lines[*at].split("//").next().unwrap_or_default()) && !explained(*at))
        .map(|at| format!("{file}:{} has unsafe code without a SAFETY comment", at + 1))
        .collect()
}

fn complain_of_form(file: &str, source: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let lines = source.split("\n#[cfg(test)]").next().unwrap_or_default().lines().count();
    if lines > FILE_LINES_MAX && !LARGER_FILES.iter().any(|(larger, _)| *larger == file) {
        complaints.push(format!("{file} has {lines} lines before its tests: split it, or say why not"));
    }
    if lines <= FILE_LINES_MAX && LARGER_FILES.iter().any(|(larger, _)| *larger == file) {
        complaints.push(format!("{file} has only {lines} lines: it needs no exception any more"));
    }
    // In pieces, so that this file does not have them.
    for unfinished in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("to", "do!("), concat!("#[ig", "nore")] {
        if source.contains(unfinished) {
            complaints.push(format!("{file} has `{unfinished}`"));
        }
    }
    if code(source).contains(concat!("unimpl", "emented!")) {
        complaints.push(format!("{file} is not finished"));
    }
    if file.contains("/tests/") && source.contains(concat!("thread::sl", "eep")) {
        complaints.push(format!("{file} sleeps: wait for what it waits for"));
    }
    complaints
}

fn check(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Complaints of a rule about every file of the workspace.
fn about_all_files(folders: impl Iterator<Item = String>, rule: impl Fn(&str, &str) -> Vec<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    for folder in folders {
        let files = sources(&folder);
        assert!(!files.is_empty(), "{folder} has no sources: this test would check nothing");
        complaints.extend(files.iter().flat_map(|(file, source)| rule(file, source)));
    }
    complaints
}

fn folders() -> impl Iterator<Item = String> {
    ROOMS.iter().map(|room| room.folder.to_owned())
}

#[test]
fn every_member_of_the_workspace_has_a_place_in_the_plan() {
    let workspace = manifest("");
    let members = workspace["workspace"]["members"].as_array().expect("a list of members");
    let members: BTreeSet<&str> = members.iter().filter_map(|member| member.as_str()).collect();
    let rooms: BTreeSet<&str> = ROOMS.iter().map(|room| room.folder).collect();
    assert_eq!(members, rooms);
    for room in ROOMS {
        let manifest = manifest(room.folder);
        assert_eq!(manifest["package"]["name"].as_str(), Some(&*room.package()));
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "{}/ keeps the house's lints", room.folder);
        let defaults = manifest.get("features").and_then(|features| features.get("default"));
        assert!(defaults.is_none(), "{}/: features are for tests, and none is on by itself", room.folder);
    }
}

/// What a row of ARCHITECTURE.md's table allows, as folders: `above` are those of the rows before.
fn allowed_by(cell: &str, above: &[String]) -> BTreeSet<String> {
    let pure = || ROOMS.iter().filter(|room| room.is_pure).map(|room| room.folder.to_owned()).collect();
    let names: Vec<BTreeSet<String>> = cell
        .split(", ")
        .map(|name| match name {
            "nothing of ours" => BTreeSet::new(),
            "all above" => above.iter().cloned().collect(),
            "the pure crates" => pure(),
            name => BTreeSet::from([name.to_owned()]),
        })
        .collect();
    names.into_iter().flatten().collect()
}

#[test]
fn architecture_md_draws_this_plan() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("it is there");
    let mut above = Vec::new();
    for row in text.lines().filter(|line| line.starts_with("| `") && line.contains("/` | ")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let folder = cells[0].trim_matches('`').trim_end_matches('/').to_owned();
        let room = ROOMS.iter().find(|room| room.folder == folder).unwrap_or_else(|| panic!("no room for {row}"));
        assert_eq!(cells[1], room.package(), "{row}");
        assert_eq!(cells[2].starts_with("**pure**"), room.is_pure, "{row}");
        let planned: BTreeSet<String> = room.may_use.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(allowed_by(cells[3], &above), planned, "{row}");
        above.push(folder);
    }
    assert_eq!(above.len(), ROOMS.len(), "the table has a row for each room: {above:?}");
}

#[test]
fn no_arrow_that_the_plan_lacks() {
    check(ROOMS.iter().flat_map(|room| complain_of_dependencies(room, &manifest(room.folder))).collect());
}

#[test]
fn pure_crates_do_no_io_and_read_no_clock() {
    let pure = ROOMS.iter().filter(|room| room.is_pure).map(|room| format!("{}/src", room.folder));
    let words: Vec<&str> = IMPURE.iter().chain(SHELL_ONLY).copied().chain(["thread_local!"]).collect();
    check(about_all_files(pure, |file, source| complain_of_words(file, source, &words)));
}

#[test]
fn only_the_runtime_names_what_it_is_there_for() {
    let others = ROOMS.iter().filter(|room| room.folder != "runtime").map(|room| format!("{}/src", room.folder));
    check(about_all_files(others, |file, source| complain_of_words(file, source, SHELL_ONLY)));
}

#[test]
fn unsafe_code_is_in_the_runtime_and_explained() {
    check(about_all_files(folders(), complain_of_unsafe));
}

#[test]
fn files_are_finished_and_of_a_size_to_be_read() {
    let with_others = folders().chain(["fuzz/src", "fuzz/fuzz_targets", "perf/load/src"].map(str::to_owned));
    check(about_all_files(with_others, complain_of_form));
}

/// A rule that nothing can break is no rule.
#[test]
fn each_rule_complains_of_what_it_is_there_for() {
    let protocol = Room::pure("protocol", &[]);
    for wrong in ["sealog-journal.workspace = true", "rand = \"0.9\"", "glommio = \"0.9\""] {
        let manifest = format!("[dependencies]\n{wrong}").parse().expect("TOML");
        assert_eq!(complain_of_dependencies(&protocol, &manifest).len(), 1, "{wrong}");
    }
    let tools = Room::shell("tools", &["client"]);
    let manifest =
        "[dependencies]\nsealog-sim.workspace = true\nio-uring = \"0.7\"\nclap = \"4\"".parse().expect("TOML");
    assert_eq!(complain_of_dependencies(&tools, &manifest).len(), 2);

    let impure = ["use std::fs;", "let now = Instant::now();", "async fn f() {}", "use std::fs::File;"];
    for source in impure {
        assert_eq!(complain_of_words("x/src/x.rs", source, IMPURE).len(), 1, "{source}");
    }
    for source in ["// std::fs", "let Instantly = 1;", "fn f() {}\n#[cfg(test)]\nuse std::fs;"] {
        assert_eq!(complain_of_words("x/src/x.rs", source, IMPURE).len(), 0, "{source}");
    }

    let dangerous = format!("fn f() {{\n    {UNSAFE} {{ g() }}\n}}");
    assert_eq!(complain_of_unsafe("engine/src/x.rs", &dangerous).len(), 1);
    assert_eq!(complain_of_unsafe("runtime/src/x.rs", &dangerous).len(), 1);
    let explained = format!("fn f() {{\n    // SAFETY: g is harmless.\n    {UNSAFE} {{ g() }}\n}}");
    assert_eq!(complain_of_unsafe("runtime/src/x.rs", &explained).len(), 0);

    assert_eq!(complain_of_form("x/src/x.rs", &"\n".repeat(FILE_LINES_MAX + 1)).len(), 1);
    assert_eq!(complain_of_form("x/src/x.rs", concat!("// TO", "DO: later")).len(), 1);
    assert_eq!(complain_of_form("x/tests/x.rs", concat!("thread::sl", "eep(second)")).len(), 1);
}
