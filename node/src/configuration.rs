//! Where a node's settings are said: defaults, a TOML file, environment variables, flags; the later
//! bind more. Everything that is wrong is told at once, each with its place.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use toml::de::{DeTable, DeValue};

use crate::settings::{
    ENVIRONMENT_PREFIX, KEYS, Key, Settings, SettingsError, Source, find_key, nearest_key, variable,
};

/// Variables with our prefix that are not a node's settings.
const ENVIRONMENT_OF_CLIENTS: &[&str] = &["SEALOG_CONNECT"];
/// An unknown variable this near to a key is taken for a misspelt one.
const MISSPELT_DISTANCE_MAX: usize = 2;
/// Columns of the default file.
const COLUMNS: usize = 100;

/// A node's settings, and who said what.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    pub settings: Settings,
    /// What was said last of each key, unless it was left at its default.
    said: BTreeMap<&'static str, (Source, String)>,
}

/// A key's value in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    pub key: &'static str,
    /// As a file would have it: a string, a number or a boolean.
    pub value: Value,
    /// `None`: nobody said anything, it is the default.
    pub source: Option<Source>,
}

/// What a key means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub key: &'static str,
    pub about: &'static str,
    pub unit: &'static str,
    /// As a file would have it.
    pub default: &'static str,
    /// The values that can be given.
    pub allowed: &'static str,
    /// The environment's name of it.
    pub variable: String,
}

impl Configuration {
    /// Reads the file, then the environment: what is right of it, and all that is wrong.
    pub fn read(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> (Configuration, Vec<SettingsError>) {
        let (mut configuration, mut errors) = (Configuration::default(), Vec::new());
        if let Some(path) = file {
            match std::fs::read_to_string(path) {
                Ok(text) => configuration.apply_file(path, &text, &mut errors),
                Err(error) => errors.push(SettingsError::Unreadable { path: path.to_owned(), error }),
            }
        }
        configuration.apply_environment(environment, &mut errors);
        (configuration, errors)
    }

    /// Sets one key.
    ///
    /// # Errors
    /// There is no such key, or it takes other values.
    pub fn set(&mut self, source: Source, name: &str, value: &str) -> Result<(), SettingsError> {
        self.settings.set(&source, name, value)?;
        self.said.insert(find_key(&source, name)?.name, (source, value.to_owned()));
        Ok(())
    }

    /// Who said a key's value; `None` for one at its default.
    pub fn source(&self, name: &str) -> Option<&Source> {
        self.said.get(name).map(|(source, _)| source)
    }

    /// Every key with the value in force.
    pub fn effective(&self) -> impl Iterator<Item = Effective> + '_ {
        KEYS.iter().map(|key| {
            let said = self.said.get(key.name);
            let value = said.map_or_else(|| default_value(key), |(_, text)| value(key, text));
            Effective { key: key.name, value, source: self.source(key.name).cloned() }
        })
    }

    /// The lines of a file; what it lacks keeps its default. A file whose syntax is broken says
    /// nothing: what seems to be whole in it may be something else.
    pub fn apply_file(&mut self, path: &Path, text: &str, errors: &mut Vec<SettingsError>) {
        let line_of = |offset: usize| text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1;
        let (table, broken) = DeTable::parse_recoverable(text);
        if !broken.is_empty() {
            errors.extend(broken.iter().map(|error| SettingsError::Syntax {
                path: path.to_owned(),
                line: line_of(error.span().map_or(0, |span| span.start)),
                message: error.message().to_owned(),
            }));
            return;
        }
        for entry in entries("", table.get_ref()) {
            let source = Source::File { path: path.to_owned(), line: line_of(entry.offset) };
            errors.extend(self.set(source, &entry.name, &entry.text).err());
        }
    }

    /// Variables of our prefix that are nothing like a key belong to somebody else, and are left alone.
    fn apply_environment(
        &mut self,
        environment: impl Iterator<Item = (String, String)>,
        errors: &mut Vec<SettingsError>,
    ) {
        for (variable, value) in environment {
            let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            if ENVIRONMENT_OF_CLIENTS.contains(&variable.as_str()) {
                continue;
            }
            let name = name.to_ascii_lowercase();
            let distance = strsim::damerau_levenshtein(&name, nearest_key(&name));
            if distance <= MISSPELT_DISTANCE_MAX {
                errors.extend(self.set(Source::Environment, &name, &value).err());
            } else {
                tracing::warn!(variable, "ignored: no setting of this name");
            }
        }
    }
}

/// A key as a file has it.
struct Entry {
    /// With the names of the tables that it is in.
    name: String,
    /// Of its first byte in the file.
    offset: usize,
    text: String,
}

/// All keys of a table. Those of tables in it are told by their whole names: there are no such
/// settings, and the error is to say so of each.
fn entries(prefix: &str, table: &DeTable<'_>) -> Vec<Entry> {
    let mut found = Vec::new();
    for (name, value) in table {
        let full = format!("{prefix}{}", name.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() && KEYS.iter().all(|key| key.name != full) => {
                found.extend(entries(&format!("{full}."), inner));
            }
            value => found.push(Entry { name: full, offset: name.span().start, text: text(value) }),
        }
    }
    // In the order of the file, so that messages are.
    found.sort_by_key(|entry| entry.offset);
    found
}

fn text(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        // A file may have 0x10 and 1_000 as well.
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| number.as_str().to_owned(), |number| number.to_string()),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Array(items) => match items.iter().map(|item| peer_text(item.get_ref())).collect::<Option<Vec<_>>>() {
            Some(peers) => peers.join(","),
            None => "a list of something else than nodes with addresses".to_owned(),
        },
        _ => "neither a string, a number nor a boolean".to_owned(),
    }
}

/// An item of the only key that is a list, `peers`: as a table, or as elsewhere.
fn peer_text(item: &DeValue<'_>) -> Option<String> {
    match item {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Table(table) if table.len() == 2 => {
            let part = |name: &str| table.get(name).map(|value| text(value.get_ref()));
            Some(format!("{}@{}", part("node")?, part("address")?))
        }
        _ => None,
    }
}

/// What was said of a key, in the type that its default has.
fn value(key: &Key, text: &str) -> Value {
    match default_value(key) {
        Value::String(_) => Value::from(text),
        Value::Bool(_) => text.parse().map_or_else(|_| Value::from(text), Value::Bool),
        _ => text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from),
    }
}

/// What we write of TOML is JSON too.
fn default_value(key: &Key) -> Value {
    serde_json::from_str(key.default).expect("defaults are strings, numbers and booleans")
}

impl Effective {
    /// A line of a file that sets it.
    pub fn to_toml(&self) -> String {
        // Of what JSON leaves as it is, TOML wants only this one escaped.
        format!("{} = {}", self.key, self.value.to_string().replace('\u{7f}', "\\u007f"))
    }
}

/// What a key means.
///
/// # Errors
/// There is none of this name; the error names the nearest.
pub fn explain(name: &str) -> Result<Explanation, SettingsError> {
    match KEYS.iter().find(|key| key.name == name) {
        Some(key) => Ok(explanation(key)),
        None => Err(SettingsError::UnknownKey {
            place: String::new(),
            name: format!("key '{name}'"),
            nearest: nearest_key(name).to_owned(),
        }),
    }
}

/// What every key means.
pub fn explanations() -> impl Iterator<Item = Explanation> {
    KEYS.iter().map(explanation)
}

fn explanation(key: &Key) -> Explanation {
    Explanation {
        key: key.name,
        about: key.about,
        unit: key.unit,
        default: key.default,
        allowed: key.expected,
        variable: variable(key.name),
    }
}

/// A commented configuration with every key at its default.
pub fn default_file() -> String {
    let mut text = String::from(
        "# Sealog node. Every key is also an environment variable (SEALOG_LISTEN, …); flags come before\n\
         # variables, variables before this file. Sizes are written as \"64MiB\".\n",
    );
    for key in explanations() {
        let about: String = wrapped(key.about, COLUMNS - 2).iter().map(|line| format!("# {line}\n")).collect();
        text.push_str(&format!("\n{about}# Environment: {}\n{} = {}\n", key.variable, key.key, key.default));
    }
    text
}

/// A text's words in lines of so many columns.
pub fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= columns {
            line.extend([" ", word]);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Configuration, Vec<String>) {
        let (mut configuration, mut errors) = (Configuration::default(), Vec::new());
        configuration.apply_file(Path::new("node.toml"), text, &mut errors);
        (configuration, errors.iter().map(SettingsError::to_string).collect())
    }

    #[test]
    fn the_printed_default_is_the_default() {
        let (configuration, errors) = read(&default_file());
        assert_eq!((configuration.settings, errors), (Settings::default(), Vec::new()));
        assert!(default_file().lines().all(|line| line.chars().count() <= COLUMNS));
    }

    /// What `config print` says, given to a node, makes the same node.
    #[test]
    fn what_is_in_force_can_be_read_back() {
        let text = "data = \"a \\\"quoted\\\" \\u007f path\"\nconnections_max = 0x1_00\nallow_remote = true\n\
                    cache_memory = \"32 MiB\"\nexecutors = 2\nsend_deadline = \"1m\"\n";
        let (configuration, errors) = read(text);
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(configuration.settings.connections_max, 256);
        let printed: String = configuration.effective().map(|effective| effective.to_toml() + "\n").collect();
        let (again, errors) = read(&printed);
        assert_eq!((again.settings, errors), (configuration.settings.clone(), Vec::new()), "{printed}");
        let source = |key| configuration.source(key).cloned();
        assert_eq!(source("allow_remote"), Some(Source::File { path: "node.toml".into(), line: 3 }));
        assert_eq!(source("listen"), None);
    }

    #[test]
    fn peers_are_tables_or_text() {
        let text = "peer_listen = \"127.0.0.1:7441\"\n[[peers]]\nnode = 2\naddress = \"10.0.0.2:7441\"\n\
                    [[peers]]\nnode = 0x3\naddress = \"unix:/run/three\"\n";
        let (configuration, errors) = read(text);
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(configuration.settings.peers.len(), 2);
        for same in [
            "peers = [{ node = 2, address = \"10.0.0.2:7441\" }, { node = 3, address = \"unix:/run/three\" }]",
            "peers = \"2@10.0.0.2:7441, 3@unix:/run/three\"",
            "peers = [\"2@10.0.0.2:7441\", \"3@unix:/run/three\"]",
        ] {
            let (other, errors) = read(same);
            assert_eq!((&other.settings.peers, errors), (&configuration.settings.peers, Vec::new()), "{same}");
            let printed = other.effective().find(|effective| effective.key == "peers").expect("a key").to_toml();
            assert_eq!(read(&printed).0.settings.peers, configuration.settings.peers, "{printed}");
        }
        for wrong in ["peers = [{ node = 2 }]", "peers = [{ node = 2, adress = \"h:1\" }]", "peers = [2]", "log = []"] {
            let (_, errors) = read(wrong);
            assert!(errors.len() == 1 && errors[0].contains("which is not"), "{wrong}: {errors:?}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_each_with_its_place() {
        let (configuration, errors) = read(
            "# a comment\nconnection_max = 5\nlisten = \"7440\"\ncache_memory = \"8MiB\"\n\n[clients]\n\
             send_deadlin = \"1s\"\n[limits.memory]\nindex = 5\n[log]\nlevel = 'info'\n",
        );
        let expected = [
            ("node.toml:2: unknown key 'connection_max'", "'connections_max'"),
            ("node.toml:3: key 'listen' is '7440'", "HOST:PORT"),
            ("node.toml:7: unknown key 'clients.send_deadlin'", "'send_deadline'"),
            ("node.toml:9: unknown key 'limits.memory.index'", "'index_memory'"),
            ("node.toml:10: key 'log' is 'neither", "debug or trace"),
        ];
        assert_eq!(errors.len(), expected.len(), "{errors:#?}");
        for (error, (begin, part)) in errors.iter().zip(expected) {
            assert!(error.starts_with(begin) && error.contains(part), "{error}");
        }
        assert_eq!(configuration.settings.cache_bytes_max, 8 << 20, "what is right is read");
    }

    #[test]
    fn broken_syntax_is_told_with_its_lines_and_nothing_else_is_believed() {
        let (configuration, errors) = read("cache_memory = \"8MiB\"\nlisten = \nlog = 'info'\nlog = 'warn'\n");
        assert_eq!(errors.len(), 2, "{errors:#?}");
        assert!(errors[0].starts_with("node.toml:2: not valid TOML"), "{errors:#?}");
        assert!(errors[1].starts_with("node.toml:4: not valid TOML"), "{errors:#?}");
        assert_eq!(configuration.settings, Settings::default());
    }

    #[test]
    fn a_question_for_no_key_names_the_nearest() {
        assert_eq!(explain("log").map(|key| key.default).ok(), Some("\"warn\""));
        let message = explain("clients.connections").expect_err("there is none").to_string();
        assert!(message.contains("did you mean 'connections_max'"), "{message}");
    }
}
