//! One row of the table of settings: its names, type, bounds, default and help.
//!
//! See also: the rows ([`super::keys`]), how their values are read ([`crate::config`]).

use super::Config;

/// The type of a setting, its bounds, and the field of [`Config`] that it sets.
pub enum Kind {
    /// A whole number from `min` to `max`.
    Number {
        /// The minimum.
        min: u64,
        /// The maximum.
        max: u64,
        /// Stores it.
        set: fn(&mut Config, u64),
    },
    /// A whole number from `min` to `max`, or `auto`, which the node replaces by a value that fits the machine.
    NumberOrAuto {
        /// The minimum.
        min: u64,
        /// The maximum.
        max: u64,
        /// Stores it; None for `auto`.
        set: fn(&mut Config, Option<u64>),
    },
    /// A port, 0 to 65535; the help explains 0.
    Port(
        /// Stores it.
        fn(&mut Config, u16),
    ),
    /// Either `true` or `false`.
    Switch(
        /// Stores it.
        fn(&mut Config, bool),
    ),
    /// A text; an empty one is allowed only where the default is empty.
    Text {
        /// Parses and stores it; the error is the reason, with the text.
        set: fn(&mut Config, &str) -> Result<(), String>,
    },
    /// A list: comma-separated in variables and flags, an array of strings in the file.
    List {
        /// Parses and stores it; the error is the reason, with the wrong element.
        set: fn(&mut Config, &[String]) -> Result<(), String>,
    },
}

/// One setting.
pub struct Key {
    /// The name in the file: `section.key`, or `key` at the top level.
    pub path: &'static str,
    /// A second, short variable.
    pub short: Option<&'static str>,
    /// Further flags besides the one made from the path, without the dashes.
    pub aliases: &'static [&'static str],
    /// The default, as text of a variable.
    pub default: &'static str,
    /// The type.
    pub kind: Kind,
    /// The meaning, for the help.
    pub help: &'static str,
}

impl Key {
    /// Returns the variable made from the path, such as `HUSKV_RAFT_TICK_MS`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("HUSKV_{}", self.path.replace('.', "_").to_uppercase())
    }

    /// Returns the flag made from the path, without the dashes, such as `raft-tick-ms`.
    #[must_use]
    pub fn flag(&self) -> String {
        self.path.replace(['.', '_'], "-")
    }

    /// Returns the documented name: the short variable, or the one made from the path.
    #[must_use]
    pub fn known_as(&self) -> String {
        self.short.map_or_else(|| self.variable(), str::to_owned)
    }
}
