//! `sealog config`: what a node can be told, what it was told, and whether that is right. Starts
//! nothing.

use std::path::Path;

use clap::CommandFactory;
use sealog_node::configuration::{Configuration, Effective, Explanation, default_file, explain, explanations, wrapped};
use sealog_node::settings::{SettingsError, Source};
use serde::Serialize;
use serde_json::Value;

use crate::arguments::{Arguments, ConfigCheckArguments, ConfigExplainArguments, ConfigPrintArguments, ConfigVerb};
use crate::arguments::{Format, NodeArguments};
use crate::failure::Failure;
use crate::output::Output;

/// Columns of explanations for people.
const COLUMNS: usize = 96;

pub fn run(verb: &ConfigVerb) -> Result<(), Failure> {
    match verb {
        ConfigVerb::Default => print_default(),
        ConfigVerb::Print(arguments) => print(arguments),
        ConfigVerb::Check(arguments) => check(arguments),
        ConfigVerb::Explain(arguments) => explain_keys(arguments),
    }
}

/// The configuration of a node: flags come before the environment, that before the file.
///
/// # Errors
/// Everything that is wrong with it, a line each.
pub fn configuration(file: Option<&Path>, flags: &NodeArguments) -> Result<Configuration, Failure> {
    let (mut configuration, mut errors) = Configuration::read(file, environment());
    for (key, value) in flags.settings() {
        errors.extend(configuration.set(Source::Flag, key, &value).err());
    }
    if errors.is_empty() { Ok(configuration) } else { Err(wrong(&errors)) }
}

/// Errors of a configuration, a line each.
fn wrong(errors: &[SettingsError]) -> Failure {
    Failure::usage(errors.iter().map(SettingsError::to_string).collect::<Vec<String>>().join("\nsealog: "))
}

/// Variables that are not text are nobody's settings.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn print_default() -> Result<(), Failure> {
    let mut output = Output::new(Format::Table);
    output.heading(default_file().trim_end())?;
    output.flush()
}

#[derive(Debug, Serialize)]
struct EffectiveLine {
    key: &'static str,
    value: Value,
    /// `default`, `file`, `environment` or `flag`.
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
}

fn print(arguments: &ConfigPrintArguments) -> Result<(), Failure> {
    let configuration = configuration(arguments.config.as_deref(), &arguments.node)?;
    let mut output = Output::new(arguments.format.output);
    for effective in configuration.effective() {
        let (source, file, line) = match &effective.source {
            None => ("default", None, None),
            Some(Source::File { path, line }) => ("file", Some(path.display().to_string()), Some(*line)),
            Some(Source::Environment) => ("environment", None, None),
            Some(Source::Flag) => ("flag", None, None),
        };
        let object = EffectiveLine { key: effective.key, value: effective.value.clone(), source, file, line };
        output.line(&object, |_| toml_line(&effective))?;
    }
    output.flush()
}

/// A line of TOML, with who said it.
fn toml_line(effective: &Effective) -> String {
    let said_by = match &effective.source {
        None => "default".to_owned(),
        Some(Source::File { path, line }) => format!("{}:{line}", path.display()).replace(char::is_control, "?"),
        Some(source) => source.name(effective.key),
    };
    format!("{:40} # {said_by}", effective.to_toml())
}

#[derive(Debug, Serialize)]
struct CheckLine {
    ok: bool,
    errors: Vec<String>,
}

fn check(arguments: &ConfigCheckArguments) -> Result<(), Failure> {
    let (configuration, errors) = Configuration::read(Some(&arguments.config), environment());
    let mut errors: Vec<String> = errors.iter().map(SettingsError::to_string).collect();
    if errors.is_empty() {
        let settings = &configuration.settings;
        let checks = [("listen", settings.listen_address().err()), ("peers", settings.meeting().err())];
        for (key, error) in checks.into_iter().filter_map(|(key, error)| Some((key, error?))) {
            errors.push(configuration.source(key).map(Source::place).unwrap_or_default() + &error.to_string());
        }
    }
    let mut output = Output::new(arguments.format.output);
    let line = CheckLine { ok: errors.is_empty(), errors };
    if line.ok || arguments.format.output == Format::Json {
        output.line(&line, |_| format!("{} is fine", arguments.config.display()))?;
        output.flush()?;
    }
    if line.ok { Ok(()) } else { Err(Failure::usage(line.errors.join("\nsealog: "))) }
}

#[derive(Debug, Serialize)]
struct ExplanationLine {
    key: &'static str,
    about: &'static str,
    unit: &'static str,
    default: Value,
    allowed: &'static str,
    variable: String,
    flag: Option<String>,
}

fn explain_keys(arguments: &ConfigExplainArguments) -> Result<(), Failure> {
    let explanations: Vec<Explanation> = match &arguments.key {
        Some(key) => vec![explain(key).map_err(|error| Failure::usage(error.to_string()))?],
        None => explanations().collect(),
    };
    let mut output = Output::new(arguments.format.output);
    for (at, explanation) in explanations.into_iter().enumerate() {
        if at > 0 {
            output.heading("")?;
        }
        let line = ExplanationLine {
            key: explanation.key,
            about: explanation.about,
            unit: explanation.unit,
            default: serde_json::from_str(explanation.default).unwrap_or_else(|_| explanation.default.into()),
            allowed: explanation.allowed,
            variable: explanation.variable,
            flag: flag_of(explanation.key),
        };
        output.line(&line, ExplanationLine::row)?;
    }
    output.flush()
}

/// The flag of `sealog serve` that sets a key, if it has one.
fn flag_of(key: &str) -> Option<String> {
    let (command, wanted) = (Arguments::command(), key.replace('_', "-"));
    let serve = command.find_subcommand("serve")?;
    serve.get_arguments().find(|argument| argument.get_long() == Some(&wanted)).map(|_| format!("--{wanted}"))
}

impl ExplanationLine {
    fn row(&self) -> String {
        let about: String = wrapped(self.about, COLUMNS - 2).iter().map(|line| format!("  {line}\n")).collect();
        let flag = self.flag.as_ref().map(|flag| format!(", flag {flag}")).unwrap_or_default();
        format!(
            "{}\n{about}  unit:    {}\n  default: {}\n  allowed: {}\n  also:    variable {}{flag}",
            self.key, self.unit, self.default, self.allowed, self.variable
        )
    }
}
