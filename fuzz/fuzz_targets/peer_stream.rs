//! Fuzz target `peer_stream`; `huskv::fuzzing` has its function.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| huskv::fuzzing::run("peer_stream", bytes));
