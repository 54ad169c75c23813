//! The house rules, held by a test: who imports whom, which vendor is named where, sizes, headers, marks.
//!
//! Why: a rule that is only written down is broken by the third change. Each rule here is a function from a file's text to
//! complaints, and each is shown to complain about a made-up file that breaks it.
//!
//! Laws: source is read without its comments and texts, so a word in prose never counts. Rules about imports and
//! `unwrap` look only at what ships, not at test modules.
//!
//! Not here: what the compiler, rustfmt and clippy hold already (visibility, form, length of functions).

use std::fs;
use std::path::{Path, PathBuf};

#[path = "tidy/lexer.rs"]
mod lexer;

use lexer::{code_only, without_tests, words};

/// The most lines of a file of the program.
const MOST_LINES: usize = 450;

/// The most lines of a file of tests, which has more of the same in a row.
const MOST_TEST_LINES: usize = 700;

/// Which rooms of `src` a room may import, itself aside.
const IMPORTS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("plant", &[]),
    ("storage", &["model", "plant"]),
    ("changefeed", &["model"]),
    ("consensus", &["model", "storage", "changefeed", "plant"]),
    ("transport", &["model", "storage", "consensus"]),
    ("http", &["model", "changefeed", "consensus"]),
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
    ("slog_async", &["src/logging.rs"]),
    ("slog_term", &["src/logging.rs"]),
    ("slog_json", &["src/logging.rs"]),
    ("clap", &["src/cli/", "src/config.rs", "src/config/"]),
    ("clap_complete", &["src/cli/completions.rs"]),
    ("toml", &["src/config.rs", "src/config/"]),
    ("unsafe", &["src/storage/sled/fsync.rs", "src/storage/sled/wall_clock.rs"]),
];

/// Marks of unfinished work.
const MARKS: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

/// Endings of names that say nothing.
const EMPTY_NAMES: &[&str] = &["Manager", "Helper", "Helpers", "Util", "Utils"];

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

    /// What ships of it: no comments, no texts, no test modules, be they inside it or the file itself.
    fn shipped(&self) -> String {
        if self.path.contains("/tests/") || self.path.ends_with("/tests.rs") {
            return String::new();
        }
        without_tests(&code_only(&self.text))
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// The paths below a root word (`crate` or `huskv`) in `code`: the first name, and the second where it is spelled out.
fn paths(code: &str, root: &str) -> Vec<(String, Vec<String>)> {
    let words = words(code);
    let mut found = Vec::new();
    for (at, pair) in words.windows(2).enumerate() {
        if pair[0] == root && pair[1] == "::" && (at == 0 || words[at - 1] != "::") {
            tree(&words, at + 2, &mut |names| match names {
                [] => {}
                [first, rest @ ..] => found.push((first.clone(), rest.to_vec())),
            });
        }
    }
    found
}

/// Walks a use tree from `at`, telling every path in it; where it ends.
fn tree(words: &[String], mut at: usize, tell: &mut dyn FnMut(&[String])) -> usize {
    let mut names = Vec::new();
    loop {
        match words.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while words.get(at).is_some_and(|word| word != "}") {
                    let start = at;
                    let prefix = names.clone();
                    at = tree(words, at, &mut |rest| tell(&[&prefix[..], rest].concat()));
                    if words.get(at).is_some_and(|word| word == ",") {
                        at += 1;
                    } else if at == start {
                        // Not a use tree after all.
                        return at;
                    }
                }
                return at + 1;
            }
            Some(word) if word.chars().all(|c| c.is_alphanumeric() || c == '_') => {
                names.push(word.to_owned());
                at += 1;
            }
            _ => break,
        }
        if words.get(at).is_none_or(|word| word != "::") {
            // Skips a renaming.
            if words.get(at).is_some_and(|word| word == "as") {
                at += 2;
            }
            break;
        }
        at += 1;
    }
    tell(&names);
    at
}

fn imports(file: &File) -> Vec<String> {
    let Some(room) = file.room() else { return Vec::new() };
    let code = file.shipped();
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("{}: the room {room} is not in the import table", file.path)];
    };
    let is_room = |name: &str| IMPORTS.iter().any(|(room, _)| *room == name);
    let mut complaints = Vec::new();
    for (first, rest) in paths(&code, "crate").into_iter().chain(paths(&code, "huskv")) {
        if is_room(&first) && first != room && !allowed.contains(&first.as_str()) {
            complaints.push(format!("{}: {room} must not import {first}", file.path));
        }
        let facade = FACADES.iter().find(|(from, to, _)| *from == room && *to == first);
        if let (Some((_, _, names)), Some(name)) = (facade, rest.first())
            && name != "self"
            && !names.contains(&name.as_str())
        {
            complaints.push(format!("{}: {room} must not use {name} of {first}", file.path));
        }
    }
    // From the depth of a file that many steps lead out of its room, past the table above.
    let depth = file.path.matches('/').count() - usize::from(file.path.ends_with("/mod.rs"));
    let climb = vec!["super"; depth].join("::");
    if depth > 0 && words(&code).join("").contains(&format!("{climb}::")) {
        complaints.push(format!("{}: {climb} leaves the room; say crate::", file.path));
    }
    complaints
}

fn vendors(file: &File) -> Vec<String> {
    if file.room().is_none() {
        return Vec::new();
    }
    let words = words(&code_only(&file.text));
    let mut complaints = Vec::new();
    for (vendor, places) in VENDORS {
        let allowed = places.iter().any(|place| file.path.starts_with(place));
        let said = words.iter().enumerate().any(|(at, word)| {
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
        if said && !allowed {
            complaints.push(format!("{}: {vendor} is not for this file", file.path));
        }
    }
    complaints
}

fn size(file: &File) -> Vec<String> {
    let lines = file.text.lines().count();
    let most = if file.room().is_some() { MOST_LINES } else { MOST_TEST_LINES };
    if file.is_rust() && lines > most {
        return vec![format!("{}: {lines} lines, at most {most}", file.path)];
    }
    Vec::new()
}

fn header(file: &File) -> Vec<String> {
    if file.is_rust() && !file.text.starts_with("//! ") {
        return vec![format!("{}: does not open with a caption, `//! ...`", file.path)];
    }
    Vec::new()
}

fn unwraps(file: &File) -> Vec<String> {
    if file.room().is_none() {
        return Vec::new();
    }
    let words = words(&file.shipped());
    let found = words.windows(3).any(|w| w[0] == "." && w[1] == "unwrap" && w[2] == "(");
    found.then(|| format!("{}: unwrap outside tests", file.path)).into_iter().collect()
}

fn marks(file: &File) -> Vec<String> {
    if file.path == "tests/tidy.rs" {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    let mut words = file.text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '!');
    if let Some(mark) = words.find(|word| MARKS.contains(&word.trim_end_matches('!')) || *word == "todo!") {
        complaints.push(format!("{}: the mark {mark}", file.path));
    }
    if file.text.contains('\u{2014}') {
        complaints.push(format!("{}: an em-dash", file.path));
    }
    complaints
}

fn names(file: &File) -> Vec<String> {
    let words = words(&code_only(&file.text));
    let kinds = ["struct", "enum", "trait", "type", "union"];
    let named = words.windows(2).filter(|pair| kinds.contains(&pair[0].as_str()));
    named
        .filter(|pair| file.is_rust() && EMPTY_NAMES.iter().any(|ending| pair[1].ends_with(ending)))
        .map(|pair| format!("{}: the name {} says nothing", file.path, pair[1]))
        .collect()
}

/// All files that the rules look at.
fn tree_of_files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut open: Vec<PathBuf> = ["src", "tests", "config", "scripts", ".ci", ".config", "docs", "examples"]
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
    let complaints: Vec<String> = files.iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Asserts that `rule` has `expected` complaints about a made-up file.
fn complains(rule: fn(&File) -> Vec<String>, path: &str, text: &str, expected: usize) {
    let complaints = rule(&File::new(path, text));
    assert_eq!(complaints.len(), expected, "{path}: {text}\n{complaints:?}");
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    complains(imports, "src/model/a.rs", "use crate::storage::Db;", 1);
    complains(imports, "src/http/a.rs", "use crate::{model::X, client::Client};", 1);
    complains(imports, "src/http/a.rs", "fn f() { crate::config::load(); }", 1);
    complains(imports, "src/main.rs", "use huskv::{cli, storage::{self, Db}};", 2);
    complains(imports, "src/transport/a.rs", "use crate::storage::{Journal as J, Frame};", 1);
    complains(imports, "src/http/a.rs", "use crate::consensus::{Handle, Outbox};", 1);
    complains(imports, "src/storage/a.rs", "use super::super::http::Server;", 1);
    complains(imports, "src/storage/mod.rs", "use super::http::Server;", 1);
    complains(imports, "src/client.rs", "use super::http::Server;", 1);
    complains(imports, "src/attic/a.rs", "", 1);
    complains(imports, "src/http/a.rs", "// use crate::client::X;\nconst A: &str = \"crate::client::X\";", 0);
    complains(imports, "src/http/a.rs", "use crate::model::{A, b::C};\nuse super::errors;", 0);
    complains(imports, "src/http/a.rs", "#[cfg(test)]\nmod tests { use crate::storage::Db; }", 0);
    check(imports);
}

#[test]
fn vendors_are_named_only_where_they_belong() {
    complains(vendors, "src/consensus/a.rs", "fn f(db: sled::Db) {}", 1);
    complains(vendors, "src/http/a.rs", "use bincode;", 1);
    complains(vendors, "src/transport/a.rs", "use raft::RawNode;", 1);
    complains(vendors, "src/http/a.rs", "use raft::eraftpb::Message;", 2);
    complains(vendors, "src/node/a.rs", "let a = unsafe { f() };", 1);
    complains(vendors, "src/storage/a.rs", "use sled::Db; // not warp::", 0);
    complains(vendors, "src/http/a.rs", "use super::raft;\nfn f() { raft::join(); }", 0);
    complains(vendors, "src/config.rs", "config.raft.port = crate::raft::x;", 0);
    check(vendors);
}

#[test]
fn files_are_small_and_open_with_a_caption() {
    complains(size, "src/a.rs", &"\n".repeat(MOST_LINES + 1), 1);
    complains(size, "src/a.rs", &"\n".repeat(MOST_LINES), 0);
    complains(size, "tests/a.rs", &"\n".repeat(MOST_TEST_LINES + 1), 1);
    complains(header, "src/a.rs", "use std::io;\n//! late", 1);
    complains(header, "src/a.rs", "//! A caption.", 0);
    check(size);
    check(header);
}

#[test]
fn nothing_unwraps_outside_tests() {
    complains(unwraps, "src/a.rs", "fn f() { x\n    .unwrap(); }", 1);
    complains(unwraps, "src/http/tests/a.rs", "fn f() { x.unwrap(); }", 0);
    complains(unwraps, "src/a.rs", "fn f() { x.unwrap_or(1); } // .unwrap()", 0);
    complains(unwraps, "src/a.rs", "#[cfg(test)]\nmod tests { fn f() { x.unwrap(); } }\nfn g() {}", 0);
    complains(unwraps, "src/a.rs", "#[cfg(test)]\nmod tests { fn f() {} }\nfn g() { x.unwrap(); }", 1);
    check(unwraps);
}

#[test]
fn nothing_is_left_to_do_and_no_name_is_empty() {
    complains(marks, "src/a.rs", "// TODO: later", 1);
    complains(marks, "src/a.rs", "fn f() { todo!() }", 1);
    complains(marks, "README.md", "a \u{2014} b", 1);
    complains(marks, "src/a.rs", "// nothing todo: METHOD, HACKERS", 0);
    complains(names, "src/a.rs", "pub struct PeerManager;", 1);
    complains(names, "src/a.rs", "pub struct Peer; // PeerManager", 0);
    check(marks);
    check(names);
}
