//! See `huskv::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| huskv::fuzzing::run("peers", bytes));
