//! Fuzz target `journal_records`; `huskv::fuzzing` has its function.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| huskv::fuzzing::run("journal_records", bytes));
