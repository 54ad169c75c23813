//! Many keys: `GET /store`, a page of them, and `DELETE /store?prefix=P`.
//!
//! Why: whoever keeps more than a few keys needs to find them again and to clear them away, without the node ever
//! holding all of them in one answer or one command.
//!
//! Laws: a page is one state, at the index that it names; a scan of several pages is not. A cursor is where the last
//! page ended and in which direction, and is refused where it cannot have come from the same range.
//!
//! Not here: how keys are found (`storage::kv::scan`), and how many a removal takes (`model::command::txn`).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::Serialize;
use warp::reply::Response;

use super::store;
use crate::consensus::{Bounds, Consistency, Listed};
use crate::http::request::conditions;
use crate::http::request::context::RequestContext;
use crate::http::request::query;
use crate::http::request::query::{FRESH, TIMEOUT};
use crate::http::response::item_json;
use crate::http::response::problem::{Problem, clip};
use crate::http::response::success;
use crate::model::{Command, CommandResult, List, after, after_prefix};

/// How many keys a page has where the request does not say, and at most.
const LIMIT: usize = 100;
const MOST: usize = 1000;
/// The most bytes of the items of a page as it is sent, unless the first has more: 1 MiB with what is around them.
const PAGE_BYTES: usize = (1 << 20) - (2 << 10);

/// The first byte of a cursor.
const UP: u8 = b'>';
const DOWN: u8 = b'<';

/// What DELETE answers.
#[derive(Serialize)]
struct Sweeping {
    data: PrefixDeleted,
    message: &'static str,
}

#[derive(Serialize)]
struct PrefixDeleted {
    deleted: u64,
    more: bool,
}

/// Answers `GET /store`.
pub(crate) async fn list(call: &RequestContext) -> Result<Response, Problem> {
    let Asked { timeout, fresh, list } = asked(&call.query, call.context.options.key_bytes)?;
    let deadline = query::deadline(timeout.as_deref(), call.context.options.request_timeout, call.arrived)?;
    let (reverse, keys_only) = (list.reverse, list.keys_only);
    let listed = call.context.list(list, fresh, deadline).await?;
    let body = shown(&listed, reverse, keys_only);
    let share = call.share(body.len())?;
    let mut response = success::json_text(body, Some(share));
    success::mark(&mut response, listed.index, listed.term);
    Ok(response)
}

/// What the query of a list says.
pub(crate) struct Asked {
    timeout: Option<String>,
    fresh: (Consistency, Bounds),
    pub(crate) list: List,
}

/// Reads the query of a list; keys have at most `key_bytes` bytes.
pub(crate) fn asked(query: &str, key_bytes: usize) -> Result<Asked, Problem> {
    let [one, two, three] = FRESH;
    let names = [TIMEOUT, one, two, three, "prefix", "start", "end", "limit", "cursor", "reverse", "keys"];
    let [timeout, one, two, three, prefix, start, end, limit, cursor, reverse, keys] = query::parameters(query, names)?;
    let fresh = query::freshness([one, two, three])?;
    for (name, text) in [("prefix", &prefix), ("start", &start), ("end", &end)] {
        let bytes = text.as_ref().map_or(0, String::len);
        if bytes > key_bytes {
            let detail = format!("query parameter `{name}` has {bytes} bytes, no key has over {key_bytes}");
            return Err(Problem::query(detail));
        }
    }
    let mut list = List {
        start: Vec::new(),
        end: None,
        reverse: query::flag(reverse.as_deref(), "reverse")?,
        limit: limited(limit.as_deref())?,
        keys_only: query::flag(keys.as_deref(), "keys")?,
    };
    narrow(&mut list, prefix, start, end)?;
    if let Some(cursor) = cursor {
        go_on(&mut list, &cursor)?;
    }
    Ok(Asked { timeout, fresh, list })
}

/// Answers `DELETE /store`.
pub(crate) async fn sweep(call: &RequestContext) -> Result<Response, Problem> {
    let [timeout, prefix] = query::parameters(&call.query, [TIMEOUT, "prefix"])?;
    let deadline = query::deadline(timeout.as_deref(), call.context.options.request_timeout, call.arrived)?;
    let prefix = prefix.unwrap_or_default();
    if prefix.is_empty() {
        return Err(Problem::query(
            "query parameter `prefix` must be given and not be empty; all keys are never removed",
        ));
    }
    if prefix.len() > call.context.options.key_bytes {
        return Err(Problem::query("query parameter `prefix` is longer than any key"));
    }
    conditions::none(call)?;
    let written = store::write(call, b"", Command::DeletePrefix { prefix: prefix.into() }, deadline).await?;
    let CommandResult::PrefixDeleted { deleted, more } = written.outcome else { return Err(Problem::internal()) };
    let data = PrefixDeleted { deleted, more };
    let mut response = success::json(&Sweeping { data, message: "success removing data" });
    success::mark_written(&mut response, &written);
    Ok(response)
}

fn limited(text: Option<&str>) -> Result<usize, Problem> {
    let Some(text) = text else { return Ok(LIMIT) };
    let limit = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    limit.filter(|limit| (1..=MOST).contains(limit)).ok_or_else(|| {
        Problem::query(format!("query parameter `limit` must be from 1 to {MOST}, not `{}`", clip(text)))
    })
}

/// Sets the bounds to what all parameters leave.
fn narrow(list: &mut List, prefix: Option<String>, start: Option<String>, end: Option<String>) -> Result<(), Problem> {
    if end.as_deref() == Some("") {
        return Err(Problem::query("query parameter `end` must not be empty: no key is smaller"));
    }
    let prefix = prefix.unwrap_or_default().into_bytes();
    list.end = match (after_prefix(&prefix), end.map(String::into_bytes)) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    list.start = prefix.max(start.unwrap_or_default().into_bytes());
    Ok(())
}

/// Lets the list go on where the page before it ended.
fn go_on(list: &mut List, cursor: &str) -> Result<(), Problem> {
    let bad = |why: &str| Problem::query(format!("query parameter `cursor` {why}; send a `next_cursor` as it came"));
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| bad("is none"))?;
    let direction = if list.reverse { DOWN } else { UP };
    let key = match bytes.split_first() {
        Some((found, key)) if std::str::from_utf8(key).is_ok() && [UP, DOWN].contains(found) => {
            if *found != direction {
                return Err(bad("goes in the other direction"));
            }
            key
        }
        _ => return Err(bad("is none")),
    };
    if key < &list.start[..] || list.end.as_ref().is_some_and(|end| key >= &end[..]) {
        return Err(bad("lies outside of what prefix, start and end leave"));
    }
    if list.reverse {
        list.end = Some(key.to_vec());
    } else {
        list.start = after(key);
    }
    Ok(())
}

fn cursor(key: &[u8], reverse: bool) -> String {
    URL_SAFE_NO_PAD.encode([&[if reverse { DOWN } else { UP }], key].concat())
}

/// The whole answer. Values grow when they are written as JSON, so a page may end here before it ended in the store.
fn shown(listed: &Listed, reverse: bool, keys_only: bool) -> Vec<u8> {
    let mut out = br#"{"data":{"items":["#.to_vec();
    let mut last: Option<&Bytes> = None;
    let mut more = listed.page.more;
    for (key, item) in &listed.page.items {
        // No key is other than UTF-8; whatever is stored, the others of its page can be read.
        let text = String::from_utf8_lossy(key);
        let before = out.len();
        if last.is_some() {
            out.push(b',');
        }
        match item {
            Some(item) if !keys_only => item_json::item(&mut out, &text, item, listed.clock),
            _ => item_json::string(&mut out, &text),
        }
        if last.is_some() && out.len() > PAGE_BYTES {
            out.truncate(before);
            more = true;
            break;
        }
        last = Some(key);
    }
    out.extend_from_slice(br#"],"next_cursor":"#);
    match last.filter(|_| more) {
        Some(key) => item_json::string(&mut out, &cursor(key, reverse)),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(format!(r#","index":{}}},"message":"success fetching data"}}"#, listed.index).as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(prefix: &str, start: &str, end: &str) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut list = List { start: vec![], end: None, reverse: false, limit: 1, keys_only: false };
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        narrow(&mut list, given(prefix), given(start), given(end)).unwrap();
        (list.start, list.end)
    }

    #[test]
    fn all_bounds_hold_together() {
        assert_eq!(range("", "", ""), (vec![], None));
        assert_eq!(range("b", "", ""), (b"b".to_vec(), Some(b"c".to_vec())));
        assert_eq!(range("b", "a", "bx"), (b"b".to_vec(), Some(b"bx".to_vec())));
        assert_eq!(range("b", "bb", "z"), (b"bb".to_vec(), Some(b"c".to_vec())));
        assert_eq!(range("b", "z", ""), (b"z".to_vec(), Some(b"c".to_vec())), "an empty range");
    }

    #[test]
    fn a_cursor_goes_on_behind_its_key_in_its_own_range_and_direction() {
        let list = List { start: b"b".to_vec(), end: Some(b"c".to_vec()), reverse: false, limit: 1, keys_only: false };
        let down = List { reverse: true, ..list.clone() };
        let next = |list: &List, cursor: &str| {
            let mut list = list.clone();
            go_on(&mut list, cursor).map(|()| (list.start, list.end))
        };
        assert_eq!(next(&list, &cursor(b"bb", false)).unwrap(), (b"bb\0".to_vec(), Some(b"c".to_vec())));
        assert_eq!(next(&down, &cursor(b"bb", true)).unwrap(), (b"b".to_vec(), Some(b"bb".to_vec())));
        for bad in ["", "x", "=", "PmI=", &cursor(b"bb", true), &cursor(b"a", false), &cursor(b"c", false)] {
            assert!(next(&list, bad).is_err(), "{bad}");
        }
        assert!(next(&list, &URL_SAFE_NO_PAD.encode(b">b\xff")).is_err());
    }
}
