//! `huskv list`: prints keys in order, page by page.
//!
//! Invariants: each page is one state of the store; the whole list is not, if keys change meanwhile.
//!
//! See also: `render` for the format of an item.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::render;
use crate::cli::common;
use crate::cli::exit::ExitError;
use crate::client::{Client, Range, Read};

const PREFIX: &str = "prefix";
const START: &str = "start";
const END: &str = "end";
const LIMIT: &str = "limit";
const KEYS: &str = "keys";
const REVERSE: &str = "reverse";

/// The number of keys of a page.
const PAGE_SIZE: u64 = 1000;

/// The subcommand.
pub(crate) fn command() -> Command {
    let text = |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    common::command("list", "10s")
        .about("Print keys and values in byte order, a line each; all of them, in as many requests as it takes")
        .arg(text(PREFIX, "PREFIX").help("Only keys with this prefix"))
        .arg(text(START, "KEY").help("Begin with this key"))
        .arg(text(END, "KEY").help("End before this key"))
        .arg(text(LIMIT, "NUMBER").value_parser(value_parser!(u64).range(1..)).help("Maximum number of keys"))
        .arg(flag(KEYS).help("Print keys without values"))
        .arg(flag(REVERSE).help("Descending order"))
        .args(common::consistency_arguments())
}

/// Runs the subcommand and returns the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    let range = Range {
        prefix: common::text(matches, PREFIX),
        start: common::text(matches, START),
        end: common::text(matches, END),
        reverse: matches.get_flag(REVERSE),
        keys: matches.get_flag(KEYS),
        limit: None,
    };
    let limit = matches.get_one(LIMIT).copied();
    common::run(matches, |client| {
        print_pages(client, range, common::consistency(matches), limit, common::json(matches))
    })
}

async fn print_pages(
    client: Client,
    mut range: Range,
    read: Read,
    limit: Option<u64>,
    json: bool,
) -> Result<(), ExitError> {
    let mut left = limit.unwrap_or(u64::MAX);
    let mut cursor = None;
    loop {
        // `--limit 1500` is a page of 1 000 and one of 500.
        range.limit = Some(left.min(PAGE_SIZE));
        let page = client.list(&range, &read, cursor.as_deref()).await?;
        for item in &page.items {
            if json {
                common::print_line(render::json(item))?;
            } else {
                common::print_line(render::item(item)?)?;
            }
        }
        left = left.saturating_sub(page.items.len() as u64);
        cursor = page.next_cursor;
        if left == 0 || cursor.is_none() {
            return Ok(());
        }
    }
}
