//! Fuzz target `journal_pairs`; `huskv::fuzzing` has its function.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| huskv::fuzzing::run("journal_pairs", bytes));
