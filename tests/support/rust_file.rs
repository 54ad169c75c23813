//! A file of the tree read as Rust tokens, for the rules of `tests/tidy.rs`.
//!
//! Invariants: a word in a comment or a literal never counts as code.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// A file of the tree: its path from the root with slashes, and its text.
pub struct File {
    pub path: String,
    pub text: String,
}

impl File {
    /// Creates a file of this path and text.
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The module that the file belongs to: the first folder or file below `src`.
    pub fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        Some(inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs"))
    }

    /// The words of the code that ships: no test modules, be they items of the file or the file itself.
    pub fn shipped(&self) -> Vec<String> {
        if self.path.contains("/tests/") || self.path.ends_with("/tests.rs") { Vec::new() } else { self.words(true) }
    }

    /// The words of the code; of a file that is not Rust none.
    pub fn words(&self, skip_tests: bool) -> Vec<String> {
        let mut words = Vec::new();
        if self.is_rust() {
            let tokens: TokenStream = self.text.parse().unwrap_or_else(|error| panic!("{}: {error}", self.path));
            flatten(tokens, skip_tests, &mut words);
        }
        words
    }

    /// Whether it is Rust.
    pub fn is_rust(&self) -> bool {
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
pub fn paths(words: &[String], root: &str) -> Vec<(String, Vec<String>)> {
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
