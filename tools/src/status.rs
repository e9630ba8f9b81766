//! `sealog status`: what a node tells of itself.

use serde_json::Value;

use crate::arguments::StatusArguments;
use crate::connection::connect;
use crate::failure::Failure;
use crate::output::Output;

pub fn run(arguments: &StatusArguments) -> Result<(), Failure> {
    let json = connect(&arguments.client)?.status()?;
    let status: Value = serde_json::from_str(&json)
        .map_err(|error| Failure::other(format!("the node's status can't be read: {error}")))?;
    let mut output = Output::new(arguments.client.format.output);
    output.line(&status, |status| {
        let mut rows = Vec::new();
        flatten(String::new(), status, &mut rows);
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let rows: Vec<String> = rows.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect();
        rows.join("\n")
    })?;
    output.flush()
}

/// One row for each value, named by its path.
fn flatten(path: String, value: &Value, rows: &mut Vec<(String, String)>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| flatten(below(name), value, rows)),
        Value::Array(items) if items.is_empty() => rows.push((path, "none".to_owned())),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| flatten(below(&at.to_string()), value, rows));
        }
        Value::String(text) => rows.push((path, text.clone())),
        other => rows.push((path, other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_flattened_to_rows() {
        let mut rows = Vec::new();
        let status = serde_json::json!({ "degraded": [], "executors": [{ "turns": 3 }], "state": "ready" });
        flatten(String::new(), &status, &mut rows);
        let rows: Vec<String> = rows.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(rows, ["degraded=none", "executors.0.turns=3", "state=ready"]);
    }
}
