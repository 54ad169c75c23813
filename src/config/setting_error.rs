//! A wrong setting: which one, where it is from, and why.
//!
//! Invariants: an error is one line, whatever a settings file holds.

use std::fmt;

use thiserror::Error;

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The table of settings.
    Default,
    /// The file of this name.
    File(String),
    /// The variable of this name.
    Variable(String),
    /// The flag of this name, without the dashes.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::File(path) => write!(f, "the file {path}"),
            Self::Variable(name) => write!(f, "the variable {name}"),
            Self::Flag(name) => write!(f, "the flag --{name}"),
        }
    }
}

/// A wrong setting: one line with its name and its source.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", plain(&format!("{setting}: {problem} (from {origin})")))]
pub struct ConfigError {
    /// The key, or the unknown name.
    pub setting: String,
    /// The source.
    pub origin: Source,
    /// The reason.
    pub problem: String,
}

/// Escapes control characters: a settings file can hold any character, and the error must stay one line.
fn plain(line: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    line.chars().map(shown).collect()
}
