//! House rules that neither the compiler nor clippy can hold: imports between modules, vendors, sizes, captions, words.
//!
//! Why: a rule that is only written down is broken by the third change. Each rule is a function from a file to its
//! violations, and each is tested against made-up files that break it.
//!
//! Invariants: code is read as tokens, so a word in a comment or a literal never counts as code. The import rule skips
//! `#[cfg(test)]` items.
//!
//! See also: `Cargo.toml` (`unsafe_code`, `missing_docs`, `unwrap_used`, `todo`) and `.clippy.toml` (function length,
//! `disallowed-methods`) for what the compiler and clippy hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[path = "support/rust_file.rs"]
mod rust_file;

use rust_file::{File, paths};

/// The maximum number of lines of a file.
const MAX_LINES: usize = 450;

/// The maximum number of entries of a folder.
const MAX_ENTRIES: usize = 16;

/// Folders above [`MAX_ENTRIES`]: one file per fuzz target.
const LARGE_FOLDERS: &[&str] = &["fuzz/fuzz_targets"];

/// Pronouns that stand where the field has a noun: the caller, the client, the peer.
const PRONOUNS: &[&str] = &["whoever", "somebody", "nobody", "anybody", "someone", "anyone", "everybody"];

/// Words in documents for a message, a report or a record between nodes, which are the field's terms.
const PERSONIFICATIONS: &[&str] = &["hear", "hears", "heard", "tells", "told", "whom"];

/// Names that a reader who knows Raft, etcd and LSM trees cannot guess, as file names or as names of items. The same
/// word is compared without underscores and case.
const RIDDLES: &str = "\
    adopted almost behind cells complain door doubt ears envelope errand fate footing greeting guest happening \
    hearsay herald judge judged kept ledger life lives meddle mouth narrator narrow nearly once ownword parcel \
    patient piece say standing tell told trouble unopened verdict whereabouts whomtoask wish wishes";

/// Which modules of `src` a module may import, itself aside.
const IMPORTS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("plant", &[]),
    ("storage", &["model", "plant"]),
    ("changefeed", &["model"]),
    ("consensus", &["model", "storage", "changefeed", "telemetry", "plant"]),
    ("transport", &["model", "storage", "consensus", "telemetry", "trust", "plant"]),
    ("trust", &["telemetry"]),
    ("auth", &["model", "telemetry"]),
    ("http", &["model", "changefeed", "consensus", "auth", "telemetry", "trust"]),
    ("client", &["model", "trust"]),
    ("config", &["model", "trust"]),
    ("telemetry", &[]),
    (
        "node",
        &[
            "model",
            "storage",
            "changefeed",
            "consensus",
            "transport",
            "auth",
            "http",
            "client",
            "config",
            "telemetry",
            "trust",
        ],
    ),
    ("cli", &["auth", "config", "telemetry", "node", "client", "trust"]),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// What one module may name of another where it may not name everything: module, other module, names.
const FACADES: &[(&str, &str, &[&str])] = &[
    (
        "transport",
        "storage",
        &["Error", "Frame", "Peers", "ReceivedSnapshot", "SnapshotReader", "SnapshotTarget", "SnapshotWriter"],
    ),
    (
        "http",
        "consensus",
        &[
            "Bounds",
            "Clock",
            "Consistency",
            "Fetched",
            "Handle",
            "Inbox",
            "Input",
            "InstallError",
            "Listed",
            "Names",
            "READ_INDEX_ROUND",
            "Readiness",
            "channel",
        ],
    ),
];

/// Words of vendors, and the places that may say them.
const VENDORS: &[(&str, &[&str])] = &[
    ("sled", &["src/storage/"]),
    ("warp", &["src/http/"]),
    ("bincode", &["src/model/codec.rs"]),
    ("RawNode", &["src/consensus/"]),
    ("eraftpb", &["src/storage/", "src/consensus/", "src/transport/"]),
    ("raft", &["src/storage/", "src/consensus/", "src/transport/"]),
    ("protobuf", &["src/storage/", "src/consensus/", "src/transport/"]),
    ("slog_async", &["src/telemetry/logging/mod.rs"]),
    ("slog_term", &["src/telemetry/logging/mod.rs"]),
    ("slog_json", &["src/telemetry/logging/mod.rs"]),
    ("clap", &["src/cli/", "src/config.rs", "src/config/"]),
    ("clap_complete", &["src/cli/completions.rs"]),
    ("toml", &["src/auth/", "src/config.rs", "src/config/"]),
    ("prometheus_client", &["src/telemetry/metrics/exposition.rs"]),
    ("subtle", &["src/auth/"]),
    ("governor", &["src/http/"]),
    ("ipnet", &["src/http/", "src/config.rs", "src/config/"]),
    ("rustls", &["src/trust/"]),
    ("tokio_rustls", &["src/trust/"]),
    ("rustls_pki_types", &["src/trust/"]),
    ("x509_parser", &["src/trust/"]),
    ("rcgen", &["src/trust/"]),
    (
        "unsafe",
        &["src/node/allocator.rs", "src/storage/sled/sync_override.rs", "src/storage/sled/clamped_system_time.rs"],
    ),
];

/// Marks of unfinished work.
const MARKS: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

/// Suffixes of type names that carry no meaning.
const EMPTY_SUFFIXES: &[&str] = &["Manager", "Helper", "Helpers", "Util", "Utils"];

fn imports(file: &File) -> Vec<String> {
    let Some(module) = file.module() else { return Vec::new() };
    let words = file.shipped();
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{}: the module {module} is not in the import table", file.path)];
    };
    let is_module = |name: &str| IMPORTS.iter().any(|(module, _)| *module == name);
    let mut violations = Vec::new();
    for (first, rest) in paths(&words, "crate").into_iter().chain(paths(&words, "huskv")) {
        if is_module(&first) && first != module && !allowed.contains(&first.as_str()) {
            violations.push(format!("{}: {module} must not import {first}", file.path));
        }
        let facade = FACADES.iter().find(|(from, to, _)| *from == module && *to == first);
        if let (Some((_, _, names)), Some(name)) = (facade, rest.first())
            && name != "self"
            && !names.contains(&name.as_str())
        {
            violations.push(format!("{}: {module} must not use {name} of {first}", file.path));
        }
    }
    // From the depth of a file that many steps lead out of its module, past the table above.
    let depth = file.path.matches('/').count() - usize::from(file.path.ends_with("/mod.rs"));
    let climb = vec!["super"; depth].join("::");
    if depth > 0 && words.join("").contains(&format!("{climb}::")) {
        violations.push(format!("{}: {climb} leaves the module; say crate::", file.path));
    }
    violations
}

fn vendors(file: &File) -> Vec<String> {
    if file.module().is_none() {
        return Vec::new();
    }
    let words = file.words(false);
    let mut violations = Vec::new();
    for (vendor, places) in VENDORS {
        let allowed = places.iter().any(|place| file.path.starts_with(place));
        let is_named = words.iter().enumerate().any(|(at, word)| {
            let before = at.checked_sub(1).map_or("", |before| words[before].as_str());
            let after = words.get(at + 1).map_or("", String::as_str);
            // A crate is named by a path that begins with it; http has a module called raft, so that one only by `use`.
            // Other words are named by any use.
            word == vendor
                && match *vendor {
                    "RawNode" | "eraftpb" | "unsafe" => true,
                    "raft" => before == "use",
                    _ => before == "use" || (after == "::" && before != "::"),
                }
        });
        if is_named && !allowed {
            violations.push(format!("{}: {vendor} is not for this file", file.path));
        }
    }
    violations
}

fn size(file: &File) -> Vec<String> {
    let lines = file.text.lines().count();
    if file.is_rust() && lines > MAX_LINES {
        return vec![format!("{}: {lines} lines, at most {MAX_LINES}", file.path)];
    }
    Vec::new()
}

fn header(file: &File) -> Vec<String> {
    if file.is_rust() && !file.text.starts_with("//! ") {
        return vec![format!("{}: does not open with a caption, `//! ...`", file.path)];
    }
    Vec::new()
}

fn marks(file: &File) -> Vec<String> {
    if file.path == "tests/tidy.rs" {
        return Vec::new();
    }
    let mut violations = Vec::new();
    let mut words = file.text.split(|c: char| !c.is_alphanumeric() && c != '_');
    if let Some(mark) = words.find(|word| MARKS.contains(word)) {
        violations.push(format!("{}: the mark {mark}", file.path));
    }
    if file.text.contains('\u{2014}') {
        violations.push(format!("{}: an em-dash", file.path));
    }
    violations
}

fn names(file: &File) -> Vec<String> {
    let words = file.words(false);
    let kinds = ["struct", "enum", "trait", "type", "union"];
    let named = words.windows(2).filter(|pair| kinds.contains(&pair[0].as_str()));
    named
        .filter(|pair| EMPTY_SUFFIXES.iter().any(|suffix| pair[1].ends_with(suffix)))
        .map(|pair| format!("{}: the name {} carries no meaning", file.path, pair[1]))
        .collect()
}

fn vocabulary(file: &File) -> Vec<String> {
    if !file.is_rust() || file.path == "tests/tidy.rs" {
        return Vec::new();
    }
    let is_riddle = |name: &str| RIDDLES.split(' ').any(|riddle| riddle == name.replace('_', "").to_lowercase());
    let mut violations = Vec::new();
    let stem = Path::new(&file.path).file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    if is_riddle(&stem) {
        violations.push(format!("{}: the file name is not a term of the field", file.path));
    }
    let kinds = ["struct", "enum", "trait", "type", "union", "fn", "mod"];
    for pair in file.words(false).windows(2).filter(|pair| kinds.contains(&pair[0].as_str()) && is_riddle(&pair[1])) {
        violations.push(format!("{}: {} {} is not a term of the field", file.path, pair[0], pair[1]));
    }
    for (number, line) in file.text.lines().enumerate() {
        let mut words = line.split(|c: char| !c.is_alphanumeric());
        if let Some(word) = words.find(|word| PRONOUNS.contains(&word.to_lowercase().as_str())) {
            violations.push(format!("{}:{}: {word:?}; say which: client, caller, peer, leader", file.path, number + 1));
        }
    }
    violations
}

/// The words of a document that the field has a noun for. Code blocks and `code` are skipped: they are output of the program.
fn prose(file: &File) -> Vec<String> {
    let mut violations = Vec::new();
    if !file.path.ends_with(".md") {
        return violations;
    }
    let mut in_code = false;
    for (number, line) in file.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            // Between backticks every second part is code.
            let text: Vec<&str> = line.split('`').step_by(2).collect();
            let text = text.join(" ");
            let is_vague = |word: &&str| {
                let word = word.to_lowercase();
                PRONOUNS.contains(&word.as_str()) || PERSONIFICATIONS.contains(&word.as_str())
            };
            if let Some(word) = text.split(|c: char| !c.is_alphanumeric()).find(is_vague) {
                violations.push(format!("{}:{}: {word:?}; use a noun or verb of the field", file.path, number + 1));
            }
        }
    }
    violations
}

/// Folders with more than [`MAX_ENTRIES`] entries, out of the paths of files.
fn large_folders<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut folders: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for path in paths {
        for (slash, _) in path.match_indices('/') {
            let rest = &path[slash + 1..];
            folders.entry(&path[..slash]).or_default().insert(rest.split('/').next().unwrap_or(rest));
        }
    }
    folders
        .iter()
        .filter(|(folder, entries)| entries.len() > MAX_ENTRIES && !LARGE_FOLDERS.contains(folder))
        .map(|(folder, entries)| format!("{folder}: {} entries, at most {MAX_ENTRIES}", entries.len()))
        .collect()
}

/// All files that the rules look at.
fn tree_of_files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut open: Vec<PathBuf> =
        ["src", "tests", "benches", "examples", "fuzz/fuzz_targets", "config", "scripts", ".ci", ".config", "docs"]
            .map(|folder| root.join(folder))
            .into();
    let mut found = Vec::new();
    let beside = [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "Cargo.toml",
        "deny.toml",
        "Makefile",
        "Dockerfile",
        "docker-compose.yml",
        ".dockerignore",
        ".env.example",
    ];
    open.extend(beside.map(|file| root.join(file)));
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("readable").map(|entry| entry.expect("readable").path()));
        } else if let Ok(text) = fs::read_to_string(&path) {
            let inside = path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
            found.push(File { path: inside, text });
        }
    }
    found
}

fn check(rule: fn(&File) -> Vec<String>) {
    let files = tree_of_files();
    assert!(files.iter().filter(|file| file.module().is_some()).count() > 10, "the source was not found");
    let violations: Vec<String> = files.iter().flat_map(rule).collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

/// Asserts that `rule` finds `expected` violations in a made-up file.
fn expect(rule: fn(&File) -> Vec<String>, path: &str, text: &str, expected: usize) {
    let violations = rule(&File::new(path, text));
    assert_eq!(violations.len(), expected, "{path}: {text}\n{violations:?}");
}

#[test]
fn modules_import_only_what_the_table_allows() {
    expect(imports, "src/model/a.rs", "use crate::storage::Db;", 1);
    expect(imports, "src/http/a.rs", "use crate::{model::X, client::Client};", 1);
    expect(imports, "src/http/a.rs", "fn f() { crate::config::load(); }", 1);
    expect(imports, "src/main.rs", "use huskv::{cli, storage::{self, Db}};", 2);
    expect(imports, "src/transport/a.rs", "use crate::storage::{Journal as J, Frame};", 1);
    expect(imports, "src/http/a.rs", "use crate::consensus::{Handle, Outbox};", 1);
    expect(imports, "src/storage/a.rs", "use super::super::http::Server;", 1);
    expect(imports, "src/storage/mod.rs", "use super::http::Server;", 1);
    expect(imports, "src/client.rs", "use super::http::Server;", 1);
    expect(imports, "src/attic/a.rs", "", 1);
    expect(imports, "src/http/a.rs", "// use crate::client::X;\nconst A: &str = \"crate::client::X\";", 0);
    expect(imports, "src/http/a.rs", "use crate::model::{A, b::C};\nuse super::errors;", 0);
    expect(imports, "src/http/a.rs", "#[cfg(test)]\nmod tests { use crate::storage::Db; }", 0);
    check(imports);
}

#[test]
fn vendors_are_named_only_where_they_belong() {
    expect(vendors, "src/consensus/a.rs", "fn f(db: sled::Db) {}", 1);
    expect(vendors, "src/http/a.rs", "use bincode;", 1);
    expect(vendors, "src/transport/a.rs", "use raft::RawNode;", 1);
    expect(vendors, "src/http/a.rs", "use raft::eraftpb::Message;", 2);
    expect(vendors, "src/node/a.rs", "let a = unsafe { f() };", 1);
    expect(vendors, "src/storage/a.rs", "use sled::Db; // not warp::", 0);
    expect(vendors, "src/http/a.rs", "use super::raft;\nfn f() { raft::join(); }", 0);
    expect(vendors, "src/config.rs", "config.raft.port = crate::raft::x;", 0);
    check(vendors);
}

#[test]
fn files_are_small_and_open_with_a_caption() {
    expect(size, "src/a.rs", &"\n".repeat(MAX_LINES + 1), 1);
    expect(size, "src/a.rs", &"\n".repeat(MAX_LINES), 0);
    expect(size, "tests/a.rs", &"\n".repeat(MAX_LINES + 1), 1);
    expect(header, "src/a.rs", "use std::io;\n//! late", 1);
    expect(header, "src/a.rs", "//! A caption.", 0);
    check(size);
    check(header);
}

#[test]
fn no_folder_has_more_than_16_entries() {
    let paths: Vec<String> = (0..=MAX_ENTRIES).map(|number| format!("src/a/{number}.rs")).collect();
    assert_eq!(large_folders(paths.iter().map(String::as_str)).len(), 1);
    assert_eq!(large_folders(paths[1..].iter().map(String::as_str)), Vec::<String>::new());
    let files = tree_of_files();
    let large = large_folders(files.iter().map(|file| file.path.as_str()));
    assert!(large.is_empty(), "\n{}", large.join("\n"));
}

#[test]
fn no_file_has_a_mark_of_unfinished_work() {
    expect(marks, "src/a.rs", "// TODO: later", 1);
    expect(marks, "README.md", "a \u{2014} b", 1);
    expect(marks, "src/a.rs", "// nothing todo: METHOD, HACKERS", 0);
    check(marks);
}

#[test]
fn names_and_comments_use_the_terms_of_the_field() {
    expect(names, "src/a.rs", "pub struct PeerManager;", 1);
    expect(names, "src/a.rs", "pub struct Peer; // PeerManager", 0);
    check(names);
    let clean = "src/cli/a.rs";
    expect(vocabulary, clean, "// Whoever asks", 1);
    expect(vocabulary, clean, "struct Told; fn whom_to_ask() {}", 2);
    expect(vocabulary, "src/cli/errand.rs", "", 1);
    expect(vocabulary, clean, "fn told_apart() {} // the caller", 0);
    check(vocabulary);
    expect(prose, "docs/a.md", "Whoever asks.\nA node hears of it.\n", 2);
    expect(prose, "docs/a.md", "`does not hear node4`\n```\nheard by node1\n```\nThe client.\n", 0);
    expect(prose, "src/a.rs", "// a node hears it", 0);
    check(prose);
}

#[test]
fn code_is_read_without_comments_literals_and_tests() {
    let words = |text: &str, skip| File::new("src/a.rs", text).words(skip).join(" ");
    assert_eq!(words("use a::{b_1, c as d}; // e", false), "use a :: { b_1 , c as d } ;");
    assert_eq!(words("x(\"a\", r#\"b\"#, 'c'); /* d */", false), "x ( \"\" , \"\" , \"\" ) ;");
    assert_eq!(words("#[cfg(test)] mod t { fn f() {} } #[cfg(test)] mod u; fn g() {}", true), "# # fn g ( ) { }");
}
