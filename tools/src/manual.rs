//! `sealog completions` and `sealog man`: made from the command line's own definition.

use std::io::Write;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::failure::Failure;

pub fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "sealog", &mut script);
    std::io::stdout().write_all(&script).map_err(|error| Failure::stream("stdout", &error))
}

/// A page for `sealog`, and one for each verb.
pub fn pages(out: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::other(format!("cannot write man pages to {}: {error}", out.display()));
    std::fs::create_dir_all(out).map_err(failed)?;
    clap_mangen::generate_to(Arguments::command(), out).map_err(failed)
}
