//! Flags that `put`, `delete` and `txn` share: conditions and the idempotency key.
//!
//! See also: [`crate::client::Write`], which they fill.

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use crate::cli::common;
use crate::client::{Condition, Write};

/// The flag for the condition on a version.
pub(crate) const IF_VERSION: &str = "if-version";
/// The flag for the condition that the key exists.
pub(crate) const IF_EXISTS: &str = "if-exists";
const CREATE_ONLY: &str = "create-only";
/// The flag for the idempotency key.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The flags for conditions on an existing key.
pub(crate) fn conditions() -> [Arg; 2] {
    [
        Arg::new(IF_VERSION)
            .long(IF_VERSION)
            .value_name("VERSION")
            .value_parser(value_parser!(u64))
            .help("Only where the key has this version; 0 is a key that does not exist"),
        Arg::new(IF_EXISTS)
            .long(IF_EXISTS)
            .action(ArgAction::SetTrue)
            .conflicts_with(IF_VERSION)
            .help("Only where the key exists"),
    ]
}

/// The flag for the condition that the key does not exist.
pub(crate) fn create_only() -> Arg {
    Arg::new(CREATE_ONLY)
        .long(CREATE_ONLY)
        .action(ArgAction::SetTrue)
        .conflicts_with_all([IF_VERSION, IF_EXISTS])
        .help("Only where there is no such key")
}

/// The flag for the idempotency key.
pub(crate) fn idempotency_key() -> Arg {
    Arg::new(IDEMPOTENCY_KEY).long(IDEMPOTENCY_KEY).value_name("TEXT").help(
        "Idempotency key of at most 64 bytes: the write is applied once however often it is sent with it, and is \
             retried where its outcome is unknown",
    )
}

/// The options of the write.
pub(crate) fn given(matches: &ArgMatches) -> Write {
    // Not every subcommand has every flag.
    let is_set = |name| matches.try_get_one::<bool>(name).ok().flatten().copied().unwrap_or(false);
    let condition = match matches.get_one::<u64>(IF_VERSION) {
        Some(version) => Condition::Version(*version),
        None if is_set(CREATE_ONLY) => Condition::Absent,
        None if is_set(IF_EXISTS) => Condition::Exists,
        None => Condition::None,
    };
    Write { condition, idempotency_key: common::text(matches, IDEMPOTENCY_KEY), ..Write::default() }
}
