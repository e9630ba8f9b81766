//! Writes the inputs to begin with into `$SEALOG_FUZZ_CORPUS/TARGET/`. It is linked as the targets
//! are, for what it uses is instrumented too.

#![no_main]

use std::path::PathBuf;

libfuzzer_sys::fuzz_target!(
    init: write_and_end(),
    |_input: &[u8]| {}
);

fn write_and_end() {
    let written = write();
    if let Err(error) = &written {
        eprintln!("cannot write the seeds: {error}");
    }
    std::process::exit(i32::from(written.is_err()));
}

fn write() -> std::io::Result<()> {
    let directory = std::env::var_os("SEALOG_FUZZ_CORPUS").map(PathBuf::from);
    let directory = directory.ok_or_else(|| std::io::Error::other("SEALOG_FUZZ_CORPUS is not set"))?;
    for (target, inputs) in sealog_fuzz::seeds::all() {
        let corpus = directory.join(target);
        std::fs::create_dir_all(&corpus)?;
        for (number, input) in inputs.iter().enumerate() {
            std::fs::write(corpus.join(format!("seed-{number:02}")), input)?;
        }
    }
    Ok(())
}
