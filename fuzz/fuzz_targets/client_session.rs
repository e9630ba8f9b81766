#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| sealog_fuzz::session::client_session(input));
