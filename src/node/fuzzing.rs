//! Fuzz targets: one function for each parser of bytes from clients, peers or disks.
//!
//! Why: `cargo fuzz` (in `fuzz/`) and the tests of this file run the same functions, so an input that broke a parser becomes
//! a file under `fuzz/corpus/`, and every `cargo test` runs it again.
//!
//! Invariants: for any bytes a target returns in bounded time, and allocates at most [`most_memory`] of its input's size.
//! This file is not part of a release.
//!
//! See also: the `fuzz` file of each module, for the targets of its parsers.

use std::convert::Infallible;
use std::ffi::OsString;

use crate::config::{Config, ConfigError, Given, keys::KEYS, load, parse_file};
use crate::model::validate;
use crate::model::{
    ApplyPoint, Command, CommandResult, DedupTable, Limits, MemberChange, Members, Proposal, Write, codec, decide_write,
};
use crate::{http, storage, transport};

/// A function that accepts any bytes.
pub type Target = fn(&[u8]);

/// Every target with its name, which is also the name of its corpus folder.
pub const TARGETS: &[(&str, Target)] = &[
    ("peer_stream", transport::fuzz::stream),
    ("peer_frame", transport::fuzz::frame),
    ("peer_address", transport::fuzz::address),
    ("entry", entry),
    ("identity", storage::fuzz::identity),
    ("peers", storage::fuzz::peers),
    ("state", storage::fuzz::state),
    ("machine_pairs", storage::fuzz::machine_pairs),
    ("machine_values", storage::fuzz::machine_values),
    ("journal_pairs", storage::fuzz::journal_pairs),
    ("journal_records", storage::fuzz::journal_records),
    ("changes", storage::fuzz::changes),
    ("spool", storage::fuzz::spool),
    ("request", http::fuzz::request),
    ("body", http::fuzz::body),
    ("query", http::fuzz::query),
    ("path_key", http::fuzz::path_key),
    ("origin", http::fuzz::origin),
    ("config_file", config_file),
    ("setting", setting),
];

/// Runs the target with this name.
///
/// # Panics
/// If there is none, or the target has found a bug.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    target(bytes);
}

/// The maximum memory of a target for an input of `bytes` bytes: what protobuf allocates ahead for one field (10 MB), and a
/// few hundred times the input, which a list of empty raft entries takes in memory.
#[must_use]
pub fn most_memory(bytes: usize) -> u64 {
    const AHEAD: u64 = 16 << 20;
    const TIMES: u64 = 512;
    AHEAD + TIMES * bytes as u64
}

/// The data of a log entry, and the member table.
fn entry(bytes: &[u8]) {
    let sealed = [&[codec::VERSION], bytes].concat();
    for bytes in [bytes, &sealed] {
        if let Ok(proposal) = codec::decode::<Proposal>(bytes) {
            assert_eq!(codec::encode(&proposal), bytes);
            check_decided(proposal.write);
        }
        if let Ok(change) = codec::decode::<MemberChange>(bytes) {
            let mut members = Members::default();
            members.apply(&change);
            assert_eq!(codec::encode(&change), bytes);
        }
        if let Ok(members) = codec::decode::<Members>(bytes) {
            assert_eq!(codec::decode(&codec::encode(&members)), Ok(members));
        }
    }
}

/// Asserts that an invalid write is refused without an effect, and that a valid one of a JSON type has JSON.
fn check_decided(write: Write) {
    let allowed = validate::write(&write, &Limits::ALL_NODES).is_ok();
    if let (true, Command::Put { value, .. }) = (allowed, &write.command)
        && validate::is_json(&value.content_type)
    {
        assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&value.bytes).is_ok(), "JSON is JSON");
    }
    let run = |_, _| Ok::<_, Infallible>(CommandResult::NoOp);
    let Ok((written, stored)) = decide_write(write, ApplyPoint { index: 1, clock: 0 }, 1, &DedupTable::default(), run);
    assert_eq!(written.outcome == CommandResult::Invalid, !allowed);
    assert!(allowed || stored.is_none(), "no result is stored for a refused write");
}

/// The content of a settings file.
fn config_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    check_loaded(parse_file("huskv.toml", text));
}

/// One setting, as a flag and as a variable; the first byte selects the setting.
fn setting(bytes: &[u8]) {
    let Some((&which, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let key = &KEYS[usize::from(which) % KEYS.len()];
    let flags = vec![(key.path, text.to_owned())];
    let variables = vec![(OsString::from(key.variable()), OsString::from(text))];
    let by_flag = load(&Given { flags, ..Given::default() });
    let by_variable = load(&Given { variables, ..Given::default() });
    assert_eq!(by_flag.as_ref().ok(), by_variable.as_ref().ok(), "all sources have one parser");
    check_loaded(by_flag);
    check_loaded(by_variable);
}

/// Asserts that an error is one line, and that a loaded address can be advertised.
fn check_loaded(result: Result<Config, ConfigError>) {
    match result {
        Ok(config) => assert!(config.advertised(1).ends_with(":1")),
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains(['\n', '\r', '\u{1b}']), "one line without control characters: {line:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::panic::{catch_unwind, resume_unwind};
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use proptest::test_runner::{Config as Cases, TestRunner};

    use super::*;

    /// The time limit of one input, in a slow build on a busy machine.
    const TIME_LIMIT: Duration = Duration::from_secs(5);

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
    }

    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let files = std::fs::read_dir(folder().join("corpus").join(name)).unwrap();
        files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
    }

    fn run_limited(name: &str, target: Target, bytes: &[u8]) {
        let began = Instant::now();
        let mut ended = Ok(());
        // A panic must not unwind through the counter, which would not end its measurement.
        let counted = allocation_counter::measure(|| ended = catch_unwind(|| target(bytes)));
        if let Err(panic) = ended {
            eprintln!("{name}: {}", bytes.escape_ascii());
            resume_unwind(panic);
        }
        let taken = counted.bytes_max;
        assert!(taken <= most_memory(bytes.len()), "{name} takes {taken} bytes for {} bytes", bytes.len());
        assert!(began.elapsed() < TIME_LIMIT, "{name} takes {:?}", began.elapsed());
    }

    /// Random bytes, and inputs of the corpus with small damage.
    fn inputs(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        let damaged = (prop::sample::select(corpus), any::<prop::sample::Index>(), 0..5, any::<u64>());
        let damaged = damaged.prop_map(|(mut bytes, at, how, with)| {
            let at = at.index(bytes.len() + 1);
            let end = (at + usize::from(with.to_le_bytes()[0] % 9)).min(bytes.len());
            match how {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..end)),
                2 => drop(bytes.splice(at..at, with.to_le_bytes())),
                3 => drop(bytes.splice(at..end, vec![0xFF; end - at])),
                _ => drop(bytes.splice(at..end, with.to_le_bytes()[..end - at].to_vec())),
            }
            bytes
        });
        prop_oneof![prop::collection::vec(any::<u8>(), 0..300), damaged]
    }

    #[test]
    fn no_bytes_break_any_target() {
        for &(name, target) in TARGETS {
            let corpus = corpus(name);
            assert!(!corpus.is_empty(), "{name} has no corpus");
            corpus.iter().for_each(|bytes| run_limited(name, target, bytes));
            let cases = Cases { cases: 400, failure_persistence: None, ..Cases::default() };
            let ran = TestRunner::new(cases).run(&inputs(corpus), |bytes| {
                run_limited(name, target, &bytes);
                Ok(())
            });
            ran.unwrap_or_else(|failure| panic!("{name}: {failure}"));
        }
    }

    #[test]
    fn a_wrong_length_field_causes_no_large_allocation() {
        let wrong = [u32::MAX, 0x7FFF_FFFF, (32 << 20) + 1, 32 << 20].map(u32::to_le_bytes);
        let huge = [u64::MAX, 1 << 62, u64::from(u32::MAX), 64 << 20].map(u64::to_le_bytes);
        // The lengths of a request are parsed by hyper, and its inputs are slow.
        for &(name, target) in TARGETS.iter().filter(|(name, _)| *name != "request") {
            for bytes in corpus(name).into_iter().filter(|bytes| bytes.len() < 1024) {
                for at in 0..=bytes.len() {
                    let wrong = wrong.iter().map(|length| &length[..]).chain(huge.iter().map(|length| &length[..]));
                    for length in wrong {
                        let mut bytes = bytes.clone();
                        let end = (at + length.len()).min(bytes.len());
                        bytes.splice(at..end, length.iter().copied());
                        run_limited(name, target, &bytes);
                    }
                }
            }
        }
    }

    #[test]
    fn every_target_has_a_binary_and_a_corpus() {
        let names: BTreeSet<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        let manifest = std::fs::read_to_string(folder().join("Cargo.toml")).unwrap();
        let built: BTreeSet<&str> =
            manifest.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect();
        let expected = names.iter().copied().chain(["huskv-fuzz"]).collect();
        assert_eq!(built, expected);
        for name in names {
            let source = std::fs::read_to_string(folder().join("fuzz_targets").join(format!("{name}.rs"))).unwrap();
            assert!(source.contains(&format!("run(\"{name}\", bytes)")), "{name}");
        }
    }
}
