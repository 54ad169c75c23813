//! A page of the documents as tests read it: its code blocks, its directives and its links.
//!
//! Why: what a page shows is run, and what it points to must exist. Both need to know where a block begins and what it is.
//!
//! Invariants: the word behind the fence is the language; `sh` alone is run in the page's session, and
//! `sh in=PATH ...` is run by the tests or scripts that it names. A `text`, `json` or bare block behind a `sh` block is
//! what that one prints; `text example` is not compared. `text terminal=N` is what the N-th terminal shows.
//! `<!-- session: ... -->` and `<!-- kill: ... -->` are directives: readers of the page do not see them.

use std::path::{Path, PathBuf};

/// A section of a page that a test acts on.
#[derive(Debug)]
pub enum Section {
    /// A code block: the line of its fence, language, further words behind the fence, text.
    Block { line: usize, language: String, tags: Vec<String>, text: String },
    /// `<!-- name: value -->`, and its line.
    Directive { line: usize, name: String, value: String },
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README, CONTRIBUTING, CHANGELOG, SECURITY and all pages under docs.
pub fn pages() -> Vec<PathBuf> {
    let docs = std::fs::read_dir(root().join("docs")).expect("docs is a folder");
    let mut pages: Vec<PathBuf> = docs.map(|entry| entry.expect("readable").path()).collect();
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"].map(|name| root().join(name)));
    pages.sort();
    pages
}

/// The sections of a page in order.
pub fn sections(page: &str) -> Vec<Section> {
    let mut found = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let mut words = info.split_whitespace().map(str::to_owned);
            let language = words.next().unwrap_or_default();
            let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| !line.starts_with("```"));
            let text = inside.map(|line| format!("{line}\n")).collect();
            found.push(Section::Block { line: at + 1, language, tags: words.collect(), text });
        } else if let Some(inside) = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"))
            && let Some((name, value)) = inside.split_once(": ")
            && !name.contains(' ')
        {
            found.push(Section::Directive { line: at + 1, name: name.to_owned(), value: value.to_owned() });
        }
    }
    found
}
