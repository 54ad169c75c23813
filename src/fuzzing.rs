//! The fuzz targets: one function for everything that parses bytes which a stranger can send or a disk can spoil.
//!
//! Why: `cargo fuzz` (in `fuzz/`) and the tests of this file run the very same functions, so what the one finds the other
//! keeps: an input that broke something becomes a file under `fuzz/corpus/`, and every `cargo test` runs it again.
//!
//! Laws: whatever the bytes are, a target returns, soon, and takes no more memory than [`most_memory`] of what it was
//! given. Nothing that ships is built with this file.
//!
//! Not here: what each target does (`fuzz` of each room).

use std::convert::Infallible;
use std::ffi::OsString;

use crate::config::{Config, ConfigError, Given, keys::KEYS, load, parse_file};
use crate::model::validate;
use crate::model::{
    ApplyPoint, Command, CommandResult, DedupTable, Limits, MemberChange, Members, Proposal, Write, codec, decide_write,
};
use crate::{http, storage, transport};

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// Every target with its name, which is also that of its folder in the corpus.
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

/// Runs the target of this name.
///
/// # Panics
/// Where there is none, or the target has found something.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    target(bytes);
}

/// The most memory that a target may take for `bytes` bytes: what protobuf allocates ahead for one field (10 MB), and
/// some hundred times the input, which is what a list of empty raft entries costs in memory.
#[must_use]
pub fn most_memory(bytes: usize) -> u64 {
    const AHEAD: u64 = 16 << 20;
    const TIMES: u64 = 512;
    AHEAD + TIMES * bytes as u64
}

/// What an entry of the log holds, and the member table.
fn entry(bytes: &[u8]) {
    let sealed = [&[codec::VERSION], bytes].concat();
    for bytes in [bytes, &sealed] {
        if let Ok(proposal) = codec::decode::<Proposal>(bytes) {
            assert_eq!(codec::encode(&proposal), bytes);
            decided(proposal.write);
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

/// A write that may not be is refused and leaves nothing behind; of one that may be, what is called JSON is JSON.
fn decided(write: Write) {
    let allowed = validate::write(&write, &Limits::ALL_NODES).is_ok();
    if let (true, Command::Put { value, .. }) = (allowed, &write.command)
        && validate::is_json(&value.content_type)
    {
        assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&value.bytes).is_ok(), "JSON is JSON");
    }
    let run = |_| Ok::<_, Infallible>(CommandResult::NoOp);
    let Ok((written, kept)) = decide_write(write, ApplyPoint { index: 1, clock: 0 }, 1, &DedupTable::default(), run);
    assert_eq!(written.outcome == CommandResult::Invalid, !allowed);
    assert!(allowed || kept.is_none(), "nothing is kept of what is refused");
}

/// The content of a settings file.
fn config_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    judged(parse_file("huskv.toml", text));
}

/// One setting, as a flag or, with all others, as a variable: the first byte says which.
fn setting(bytes: &[u8]) {
    let Some((&which, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let key = &KEYS[usize::from(which) % KEYS.len()];
    let flags = vec![(key.path, text.to_owned())];
    let variables = vec![(OsString::from(key.variable()), OsString::from(text))];
    let by_flag = load(&Given { flags, ..Given::default() });
    let by_variable = load(&Given { variables, ..Given::default() });
    assert_eq!(by_flag.as_ref().ok(), by_variable.as_ref().ok(), "all sources are read alike");
    judged(by_flag);
    judged(by_variable);
}

/// A refusal is one line, and what was taken can be advertised.
fn judged(result: Result<Config, ConfigError>) {
    match result {
        Ok(config) => assert!(config.advertised(1).ends_with(":1")),
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains(['\n', '\r', '\u{1b}']), "one line, and plain: {line:?}");
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

    /// How long one input may take in a slow build on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(5);

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
    }

    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let files = std::fs::read_dir(folder().join("corpus").join(name)).unwrap();
        files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
    }

    fn try_out(name: &str, target: Target, bytes: &[u8]) {
        let began = Instant::now();
        let mut ended = Ok(());
        // The counting does not survive a panic that passes through it.
        let counted = allocation_counter::measure(|| ended = catch_unwind(|| target(bytes)));
        if let Err(panic) = ended {
            eprintln!("{name}: {}", bytes.escape_ascii());
            resume_unwind(panic);
        }
        let taken = counted.bytes_max;
        assert!(taken <= most_memory(bytes.len()), "{name} takes {taken} bytes for {} bytes", bytes.len());
        assert!(began.elapsed() < PATIENCE, "{name} takes {:?}", began.elapsed());
    }

    /// Any bytes, and what comes of the corpus by small damage.
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
            corpus.iter().for_each(|bytes| try_out(name, target, bytes));
            let cases = Cases { cases: 400, failure_persistence: None, ..Cases::default() };
            let ran = TestRunner::new(cases).run(&inputs(corpus), |bytes| {
                try_out(name, target, &bytes);
                Ok(())
            });
            ran.unwrap_or_else(|failure| panic!("{name}: {failure}"));
        }
    }

    #[test]
    fn lengths_that_lie_are_not_believed() {
        let lies = [u32::MAX, 0x7FFF_FFFF, (32 << 20) + 1, 32 << 20].map(u32::to_le_bytes);
        let huge = [u64::MAX, 1 << 62, u64::from(u32::MAX), 64 << 20].map(u64::to_le_bytes);
        // What a request says of its length is hyper's to read, and many of them take long.
        for &(name, target) in TARGETS.iter().filter(|(name, _)| *name != "request") {
            for bytes in corpus(name).into_iter().filter(|bytes| bytes.len() < 1024) {
                for at in 0..=bytes.len() {
                    let lies = lies.iter().map(|lie| &lie[..]).chain(huge.iter().map(|lie| &lie[..]));
                    for lie in lies {
                        let mut bytes = bytes.clone();
                        let end = (at + lie.len()).min(bytes.len());
                        bytes.splice(at..end, lie.iter().copied());
                        try_out(name, target, &bytes);
                    }
                }
            }
        }
    }

    #[test]
    fn every_target_has_its_place_in_the_folder() {
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
