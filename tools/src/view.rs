//! `sealog view`: the views of each logspace, why each came to be, and the end of one by force.

use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use clap::{Args, Subcommand};
use sealog::OperateRequest;
use sealog::blocking::Client;
use serde_json::Value;

use crate::arguments::{ClientArguments, duration};
use crate::connection::connect;
use crate::failure::{Failure, Kind};
use crate::operate::{ask, refusal, texts};
use crate::output::Output;

/// Between two looks whether the next view is there.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// It is asked for again so often: who was to hear of it may have gone.
const ASK_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ViewArguments {
    #[command(subcommand)]
    pub verb: Option<ViewVerb>,
    /// The logspace, a number from 0; without it all are printed.
    #[arg(value_name = "LOGSPACE")]
    pub logspace: Option<u16>,
    /// Print so many of the newest views of each; those after a loss are printed however old.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=2048))]
    pub limit: u32,
    #[command(flatten)]
    pub client: ClientArguments,
}

#[derive(Debug, Subcommand)]
pub enum ViewVerb {
    /// End a view whose nodes are gone for good, with what those know that are left.
    ///
    /// What was acknowledged and only the others had is lost, and the chain of views says so for ever. Where
    /// a majority of its sequencers and enough of its storages are there, nothing is lost.
    ForceSeal(ForceSealArguments),
}

#[derive(Debug, Args)]
pub struct ForceSealArguments {
    /// The logspace, a number from 0.
    #[arg(value_name = "LOGSPACE")]
    pub logspace: u16,
    /// What can't be had is given up. Without it only what would be done is told.
    #[arg(long)]
    pub accept_loss: bool,
    /// How long to wait for the next view.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    pub timeout: Duration,
    #[command(flatten)]
    pub client: ClientArguments,
}

pub fn run(arguments: &ViewArguments) -> Result<(), Failure> {
    match &arguments.verb {
        Some(ViewVerb::ForceSeal(arguments)) => force_seal(arguments),
        None => list(arguments),
    }
}

fn list(arguments: &ViewArguments) -> Result<(), Failure> {
    let request = OperateRequest::Views { logspace: arguments.logspace, limit: arguments.limit };
    let answer = ask(&connect(&arguments.client)?, request)?;
    if let Some(refused) = refusal(&answer) {
        return Err(refused);
    }
    let mut output = Output::new(arguments.client.format.output);
    for logspace in answer["logspaces"].as_array().into_iter().flatten() {
        let number = &logspace["logspace"];
        let left_out = logspace["left_out"].as_u64().unwrap_or(0);
        let earlier = if left_out > 0 { format!("; {left_out} earlier views are not shown") } else { String::new() };
        output.heading(&format!("logspace {number}{earlier}"))?;
        for view in logspace["views"].as_array().into_iter().flatten() {
            let mut view = view.clone();
            view["logspace"] = number.clone();
            output.line(&view, |view| format!("  {}", sentence(view)))?;
        }
    }
    output.flush()
}

/// A view, for people.
fn sentence(view: &Value) -> String {
    let at = view["installed_at_ms"].as_u64().map(|ms| UNIX_EPOCH + Duration::from_millis(ms));
    let at = at.map_or_else(String::new, |at| format!(" at {}", humantime::format_rfc3339_millis(at)));
    let took = match (view["reason"].as_str(), view["change_ms"].as_u64()) {
        (Some("created"), _) | (_, None) => String::new(),
        (_, Some(ms)) => format!(" in {ms} ms"),
    };
    let loss = if view["after_loss"] == true { ", AFTER A LOSS" } else { "" };
    let end = view["end"].as_u64().map_or_else(|| "in force".to_owned(), |end| format!("ended at {end}"));
    let names = |key: &str| texts(&view[key]).join(", ");
    format!(
        "view {}: {}{loss}{at}{took}; {end}; primary {}; sequencers {}; storages {}; {} of {} copies acknowledge",
        view["view"],
        view["reason"].as_str().unwrap_or_default(),
        view["primary"].as_str().unwrap_or_default(),
        names("sequencers"),
        names("storages"),
        view["write_quorum"],
        view["replicas"],
    )
}

fn force_seal(arguments: &ForceSealArguments) -> Result<(), Failure> {
    let client = connect(&arguments.client)?;
    let logspace = arguments.logspace;
    let mut output = Output::new(arguments.client.format.output);
    let plan = ask(&client, OperateRequest::ForceSeal { logspace, view: 0, act: false })?;
    let refused = refusal(&plan);
    if refused.is_some() || !arguments.accept_loss {
        if refused.is_none() || plan["command"].is_string() {
            output.line(&plan, |plan| forced(plan).join("\n"))?;
            output.flush()?;
        }
        let advice = "nothing was changed: give --accept-loss to give up what can't be had";
        return Err(refused.unwrap_or_else(|| Failure::usage(advice)));
    }
    eprintln!("{}", forced(&plan).join("\n"));
    let view = u32::try_from(plan["view"].as_u64().unwrap_or(0)).unwrap_or(0);
    let next = wait_for_view_after(&client, logspace, view, arguments.timeout)?;
    output.line(&next, |next| format!("logspace {logspace}: {}", sentence(next)))?;
    output.flush()
}

/// Asks for the end of a view until there is a next one.
fn wait_for_view_after(client: &Client, logspace: u16, view: u32, timeout: Duration) -> Result<Value, Failure> {
    let (began, mut asked_at) = (Instant::now(), None::<Instant>);
    loop {
        let answer = ask(client, OperateRequest::Views { logspace: Some(logspace), limit: 1 })?;
        let newest = answer["logspaces"][0]["views"].as_array().and_then(|views| views.last()).cloned();
        if let Some(mut next) = newest.filter(|next| next["view"].as_u64() > Some(u64::from(view))) {
            next["logspace"] = logspace.into();
            return Ok(next);
        }
        if began.elapsed() >= timeout {
            let message = format!(
                "logspace {logspace} is still in view {view}: the controllers go on; `sealog status` says what is \
                 missing, and `sealog view {logspace}` when it has gone on"
            );
            return Err(Failure::new(Kind::Unreachable, message));
        }
        if asked_at.is_none_or(|asked_at| asked_at.elapsed() >= ASK_INTERVAL) {
            ask(client, OperateRequest::ForceSeal { logspace, view, act: true })?;
            asked_at = Some(Instant::now());
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

/// What forcing the end would do, for people.
fn forced(plan: &Value) -> Vec<String> {
    let names = |key: &str| texts(&plan[key]).join(", ");
    let mut lines = vec![format!("force the end of view {} of logspace {}", plan["view"], plan["logspace"])];
    if plan["lossless"] == true {
        lines.push("  enough of its nodes are there: it ends without a loss".to_owned());
    } else {
        for (key, role) in [("missing_sequencers", "sequencers"), ("missing_storages", "storages")] {
            if !texts(&plan[key]).is_empty() {
                lines.push(format!("  the {role} {} are not there, and have no say", names(key)));
            }
        }
        lines.push("  records that were acknowledged, and that only they have, are LOST".to_owned());
    }
    for role in ["sequencers", "storages"] {
        let (now, next) = (names(role), names(&format!("next_{role}")));
        if now != next {
            lines.push(format!("  {role} {now} become {next}"));
        }
    }
    lines
}
