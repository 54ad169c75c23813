//! Fuzz target `machine_pairs`; `huskv::fuzzing` has its function.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| huskv::fuzzing::run("machine_pairs", bytes));
