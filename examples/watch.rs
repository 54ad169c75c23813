//! A local mirror of all keys under a prefix: list once, then watch from the index of the list.
//!
//! Why: caches, routers and configuration reloads need the present state and every later change, without a gap between
//! the two. The first page of a list names the index that it was read at, and a watch from the next index on misses
//! nothing. Where the nodes have dropped the changes (`compacted`, `lagged`), the mirror lists again.
//!
//! Run it beside `cargo run --release -- demo`: `cargo run --example watch`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::process::ExitCode;

use huskv::client::{Client, EventKind, Failure, Range, Read, Scope};
use serde::Deserialize;

/// The keys under the prefix, each with its value as JSON text.
pub type Mirror = BTreeMap<String, String>;

#[derive(Deserialize)]
struct Item {
    key: String,
    value: Box<serde_json::value::RawValue>,
}

/// Keeps a mirror of the keys under `prefix` and shows it to `changed` after the list and after each change, until that
/// answers `Break`.
///
/// # Errors
/// No node could be asked for longer than the client's timeout.
pub async fn follow(
    client: &Client,
    prefix: &str,
    mut changed: impl FnMut(&Mirror) -> ControlFlow<()>,
) -> Result<(), Failure> {
    loop {
        let (mut mirror, index) = list(client, prefix).await?;
        if changed(&mirror).is_break() {
            return Ok(());
        }
        let mut watch = client.watch(Scope::Prefix(prefix.to_owned()), Some(index + 1), None);
        loop {
            let event = match watch.next().await {
                Ok(event) => event,
                Err(failure) if failure.code == "compacted" || failure.code == "lagged" => break,
                Err(failure) => return Err(failure),
            };
            let Ok(item) = serde_json::from_str::<Item>(event.data.get()) else { continue };
            match event.kind {
                EventKind::Put => mirror.insert(item.key, item.value.get().to_owned()),
                EventKind::Delete | EventKind::Expire => mirror.remove(&item.key),
                EventKind::Progress | EventKind::Lagged => continue,
            };
            if changed(&mirror).is_break() {
                return Ok(());
            }
        }
    }
}

/// All pages of a list, and the index of the first: later pages may show later states, whose changes the watch repeats.
async fn list(client: &Client, prefix: &str) -> Result<(Mirror, u64), Failure> {
    let range = Range { prefix: Some(prefix.to_owned()), ..Range::default() };
    let mut mirror = Mirror::new();
    let mut first = None;
    let mut cursor: Option<String> = None;
    loop {
        let page = client.list(&range, &Read::default(), cursor.as_deref()).await?;
        let items = page.items.iter().filter_map(|item| serde_json::from_str::<Item>(item.get()).ok());
        mirror.extend(items.map(|item| (item.key, item.value.get().to_owned())));
        let index = *first.get_or_insert(page.index);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok((mirror, index));
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let endpoints = std::env::var("HUSKV_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:2221".to_owned());
    let client = Client::new(endpoints.split(','), Client::TIMEOUT);
    let print = |mirror: &Mirror| {
        println!("{mirror:?}");
        ControlFlow::Continue(())
    };
    match follow(&client, "example/", print).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("watch: {failure}");
            ExitCode::FAILURE
        }
    }
}
