//! House rules that neither the compiler nor clippy can hold: imports between rooms, vendors, sizes, captions, words.
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

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// The maximum number of lines of a file of the program.
const MAX_LINES: usize = 450;

/// The maximum number of lines of a test file, where tables of cases are long.
const MAX_TEST_LINES: usize = 600;

/// The maximum number of entries of a folder.
const MAX_ENTRIES: usize = 16;

/// Folders above [`MAX_ENTRIES`]: one file per fuzz target, and one that is to be divided.
const LARGE_FOLDERS: &[&str] = &["fuzz/fuzz_targets", "tests/sim"];

/// Path prefixes in which the word rule holds. A room is added once it is clean.
const CLEAN: &[&str] = &[
    "benches/",
    "examples/",
    "fuzz/",
    "src/cli/",
    "src/client/",
    "src/config/",
    "src/fuzzing.rs",
    "src/logging/",
    "src/main.rs",
    "src/node/",
    "src/plant.rs",
    "tests/bench.rs",
    "tests/cluster/",
    "tests/config.rs",
    "tests/contract.rs",
    "tests/demo.rs",
    "tests/docker.rs",
    "tests/docs.rs",
    "tests/faults/",
    "tests/launch.rs",
    "tests/linear.rs",
];

/// Pronouns that stand where the field has a noun: the caller, the client, the peer.
const PRONOUNS: &[&str] = &["whoever", "somebody", "nobody", "anybody", "someone", "anyone", "everybody"];

/// Names that a reader who knows Raft, etcd and LSM trees cannot guess, as file names or as names of items. The same
/// word is compared without underscores and case.
const RIDDLES: &[&str] = &[
    "adopted",
    "almost",
    "behind",
    "cells",
    "complain",
    "door",
    "doubt",
    "ears",
    "envelope",
    "errand",
    "fate",
    "footing",
    "greeting",
    "guest",
    "happening",
    "hearsay",
    "herald",
    "judge",
    "judged",
    "kept",
    "ledger",
    "life",
    "mouth",
    "narrow",
    "nearly",
    "once",
    "ownword",
    "parcel",
    "patient",
    "piece",
    "say",
    "standing",
    "tell",
    "told",
    "trouble",
    "unopened",
    "verdict",
    "whereabouts",
    "whomtoask",
    "wishes",
];

/// Which rooms of `src` a room may import, itself aside.
const IMPORTS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("plant", &[]),
    ("storage", &["model", "plant"]),
    ("changefeed", &["model"]),
    ("consensus", &["model", "storage", "changefeed", "logging", "plant"]),
    ("transport", &["model", "storage", "consensus", "logging"]),
    ("http", &["model", "changefeed", "consensus", "logging"]),
    ("client", &["model"]),
    ("config", &["model"]),
    ("logging", &[]),
    ("node", &["model", "storage", "changefeed", "consensus", "transport", "http", "client", "config", "logging"]),
    ("cli", &["config", "logging", "node", "client"]),
    ("fuzzing", &["model", "storage", "transport", "http", "config"]),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// What one room may name of another where it may not name everything: room, other room, names.
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
    ("slog_async", &["src/logging/mod.rs"]),
    ("slog_term", &["src/logging/mod.rs"]),
    ("slog_json", &["src/logging/mod.rs"]),
    ("clap", &["src/cli/", "src/config.rs", "src/config/"]),
    ("clap_complete", &["src/cli/completions.rs"]),
    ("toml", &["src/config.rs", "src/config/"]),
    ("unsafe", &["src/storage/sled/fsync.rs", "src/storage/sled/wall_clock.rs"]),
];

/// Marks of unfinished work.
const MARKS: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

/// Suffixes of type names that carry no meaning.
const EMPTY_SUFFIXES: &[&str] = &["Manager", "Helper", "Helpers", "Util", "Utils"];

/// A file of the tree: its path from the root with slashes, and its text.
struct File {
    path: String,
    text: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The room that the file belongs to: the first folder or file below `src`.
    fn room(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        Some(inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs"))
    }

    /// The words of the code that ships: no test modules, be they items of the file or the file itself.
    fn shipped(&self) -> Vec<String> {
        if self.path.contains("/tests/") || self.path.ends_with("/tests.rs") { Vec::new() } else { self.words(true) }
    }

    /// The words of the code; of a file that is not Rust none.
    fn words(&self, skip_tests: bool) -> Vec<String> {
        let mut words = Vec::new();
        if self.is_rust() {
            let tokens: TokenStream = self.text.parse().unwrap_or_else(|error| panic!("{}: {error}", self.path));
            flatten(tokens, skip_tests, &mut words);
        }
        words
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// Appends identifiers, `::`, and every other token by itself; a literal is `""`. With `skip_tests`, items below
/// `#[cfg(test)]` are left out.
fn flatten(tokens: TokenStream, skip_tests: bool, out: &mut Vec<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            TokenTree::Group(group)
                if skip_tests && is_cfg_test(group.stream()) && out.last().is_some_and(|w| w == "#") =>
            {
                // The item ends with its body or, as `mod tests;` does, with a semicolon.
                let is_end = |token: &TokenTree| match token {
                    TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                    TokenTree::Punct(punct) => punct.as_char() == ';',
                    _ => false,
                };
                at += tokens[at..].iter().position(is_end).map_or(tokens.len(), |end| end + 1);
            }
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    _ => ("(", ")"),
                };
                out.push(open.to_owned());
                flatten(group.stream(), skip_tests, out);
                out.push(close.to_owned());
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' && punct.spacing() == Spacing::Joint => {
                out.push("::".to_owned());
                at += 1;
            }
            TokenTree::Literal(_) => out.push("\"\"".to_owned()),
            token => out.push(token.to_string()),
        }
    }
}

fn is_cfg_test(attribute: TokenStream) -> bool {
    attribute.to_string().replace(' ', "") == "cfg(test)"
}

/// The paths below a root (`crate` or `huskv`): the first name, and the names that follow it.
fn paths(words: &[String], root: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for (at, pair) in words.windows(2).enumerate() {
        if pair[0] == root && pair[1] == "::" && (at == 0 || words[at - 1] != "::") {
            use_tree(words, at + 2, &mut |names| {
                if let [first, rest @ ..] = names {
                    found.push((first.clone(), rest.to_vec()));
                }
            });
        }
    }
    found
}

/// Visits every path of the use tree (or plain path) that begins at `at`, and returns where it ends.
///
/// `a::{b, c::D as E}` is visited as `a b` and `a c D`.
fn use_tree(words: &[String], mut at: usize, visit: &mut dyn FnMut(&[String])) -> usize {
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    let mut names = Vec::new();
    loop {
        if word(at) == "{" {
            at += 1;
            while !["}", ""].contains(&word(at)) {
                let start = at;
                let prefix = names.clone();
                at = use_tree(words, at, &mut |rest| visit(&[&prefix[..], rest].concat()));
                if word(at) == "," {
                    at += 1;
                } else if at == start {
                    // A block that is no use tree.
                    return at;
                }
            }
            return at + 1;
        }
        if word(at).is_empty() || !word(at).chars().all(|c| c.is_alphanumeric() || c == '_') {
            break;
        }
        names.push(word(at).to_owned());
        at += 1;
        if word(at) == "as" {
            at += 2;
        }
        if word(at) != "::" {
            break;
        }
        at += 1;
    }
    visit(&names);
    at
}

fn imports(file: &File) -> Vec<String> {
    let Some(room) = file.room() else { return Vec::new() };
    let words = file.shipped();
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("{}: the room {room} is not in the import table", file.path)];
    };
    let is_room = |name: &str| IMPORTS.iter().any(|(room, _)| *room == name);
    let mut violations = Vec::new();
    for (first, rest) in paths(&words, "crate").into_iter().chain(paths(&words, "huskv")) {
        if is_room(&first) && first != room && !allowed.contains(&first.as_str()) {
            violations.push(format!("{}: {room} must not import {first}", file.path));
        }
        let facade = FACADES.iter().find(|(from, to, _)| *from == room && *to == first);
        if let (Some((_, _, names)), Some(name)) = (facade, rest.first())
            && name != "self"
            && !names.contains(&name.as_str())
        {
            violations.push(format!("{}: {room} must not use {name} of {first}", file.path));
        }
    }
    // From the depth of a file that many steps lead out of its room, past the table above.
    let depth = file.path.matches('/').count() - usize::from(file.path.ends_with("/mod.rs"));
    let climb = vec!["super"; depth].join("::");
    if depth > 0 && words.join("").contains(&format!("{climb}::")) {
        violations.push(format!("{}: {climb} leaves the room; say crate::", file.path));
    }
    violations
}

fn vendors(file: &File) -> Vec<String> {
    if file.room().is_none() {
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
    let max = if file.room().is_some() { MAX_LINES } else { MAX_TEST_LINES };
    if file.is_rust() && lines > max {
        return vec![format!("{}: {lines} lines, at most {max}", file.path)];
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
    if !file.is_rust() || !CLEAN.iter().any(|prefix| file.path.starts_with(prefix)) {
        return Vec::new();
    }
    let is_riddle = |name: &str| RIDDLES.contains(&name.replace('_', "").to_lowercase().as_str());
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
    assert!(files.iter().filter(|file| file.room().is_some()).count() > 10, "the source was not found");
    let violations: Vec<String> = files.iter().flat_map(rule).collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

/// Asserts that `rule` finds `expected` violations in a made-up file.
fn expect(rule: fn(&File) -> Vec<String>, path: &str, text: &str, expected: usize) {
    let violations = rule(&File::new(path, text));
    assert_eq!(violations.len(), expected, "{path}: {text}\n{violations:?}");
}

#[test]
fn rooms_import_only_what_the_table_allows() {
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
    expect(size, "tests/a.rs", &"\n".repeat(MAX_TEST_LINES + 1), 1);
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
    let clean = format!("{}a.rs", CLEAN[0]);
    expect(vocabulary, &clean, "// Whoever asks", 1);
    expect(vocabulary, &clean, "struct Told; fn whom_to_ask() {}", 2);
    expect(vocabulary, &format!("{}errand.rs", CLEAN[0]), "", 1);
    expect(vocabulary, &clean, "fn told_apart() {} // the caller", 0);
    expect(vocabulary, "elsewhere/a.rs", "// nobody", 0);
    check(vocabulary);
}

#[test]
fn code_is_read_without_comments_literals_and_tests() {
    let words = |text: &str, skip| File::new("src/a.rs", text).words(skip).join(" ");
    assert_eq!(words("use a::{b_1, c as d}; // e", false), "use a :: { b_1 , c as d } ;");
    assert_eq!(words("x(\"a\", r#\"b\"#, 'c'); /* d */", false), "x ( \"\" , \"\" , \"\" ) ;");
    assert_eq!(words("#[cfg(test)] mod t { fn f() {} } #[cfg(test)] mod u; fn g() {}", true), "# # fn g ( ) { }");
}
