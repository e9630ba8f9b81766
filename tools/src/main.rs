//! The `sealog` binary.
//!
//! [`arguments`] is the command line, [`failure`] the exit codes. A verb is a module: `append`,
//! `read` (with `tail`, `check-tail`, `logbook list`), `aux`, `keep` (`trim`, `logbook set` and `show`), `status`,
//! `serve`, `dev` (a node, or a cluster of processes), `cluster`, `operate` (`node`), `view`, `config`, `backup` (with `restore`),
//! `inspect`, `bench`, `doctor`, `manual` (`completions`, `man`). Data goes to stdout, talk to stderr: [`log`]; [`supervisor`] is who
//! started a node, [`control`] what he may do to it.

mod append;
mod arguments;
mod aux;
mod backup;
mod bench;
mod cluster;
mod config;
mod connection;
mod control;
mod create;
mod dev;
mod doctor;
mod failure;
mod inspect;
mod keep;
mod log;
mod manual;
mod operate;
mod output;
mod read;
mod record;
mod serve;
mod status;
mod supervisor;
mod view;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, LogbookVerb, Verb};
use crate::failure::Failure;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                log::last_words(&format!("sealog: {failure}"));
            }
            failure.exit_code()
        }
    }
}

fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Dev(arguments) => dev::run(arguments),
        Verb::Serve(arguments) => serve::serve(arguments),
        Verb::Cluster(verb) => cluster::run(verb),
        Verb::Node(verb) => operate::run(verb),
        Verb::View(arguments) => view::run(arguments),
        Verb::Append(arguments) => append::run(arguments),
        Verb::Read(arguments) => read::read(arguments),
        Verb::Tail(arguments) => read::tail(arguments),
        Verb::CheckTail(arguments) => read::check_tail(arguments),
        Verb::Trim(arguments) => keep::trim(arguments),
        Verb::Aux(verb) => aux::run(verb),
        Verb::Backup(arguments) => backup::create(arguments),
        Verb::Restore(arguments) => backup::restore(arguments),
        Verb::Status(arguments) => status::run(arguments),
        Verb::Doctor(arguments) => doctor::run(arguments),
        Verb::Logbook(LogbookVerb::Create(arguments)) => create::run(arguments),
        Verb::Logbook(LogbookVerb::List(arguments)) => read::list_logbooks(arguments),
        Verb::Logbook(LogbookVerb::Show(arguments)) => keep::show(arguments),
        Verb::Logbook(LogbookVerb::Set(arguments)) => keep::set(arguments),
        Verb::Inspect(arguments) => inspect::run(arguments),
        Verb::Bench(arguments) => bench::run(arguments),
        Verb::Config(verb) => config::run(verb),
        Verb::Completions { shell } => manual::completions(*shell),
        Verb::Man { out } => manual::pages(out),
    }
}
