//! Range reads and deletes by prefix: `GET /store` and `DELETE /store?prefix=P`.
//!
//! Why: a client lists and clears any number of keys, while each answer and each command stays bounded.
//!
//! Invariants: a page is one state, at the index that it names; a scan over several pages is not. A cursor holds the last
//! key of the page and the direction of the scan. One that does not fit the range and direction of the request is refused.
//!
//! Example: the keys are `u/1` to `u/5`, and the request is `?prefix=u/&limit=2`. The prefix is the range `u/` to `u0`
//! (exclusive). The first page is `u/1`, `u/2`, and its cursor is base64 of `>u/2`. With it the range is `u/2\0` to `u0`, so
//! the next page starts at the first key after `u/2`, even if `u/2` was deleted meanwhile. With `reverse` the pages are
//! `u/5`, `u/4` and so on: the cursor is base64 of `<u/4`, and the next range is `u/` to `u/4` (exclusive).
//!
//! See also: `storage::kv::scan` (execution), `model::command::txn` (limits of a delete by prefix).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::Serialize;
use warp::reply::Response;

use super::deadline_after;
use super::propose::propose;
use crate::consensus::{Bounds, Consistency, Listed};
use crate::http::request::conditions;
use crate::http::request::handler_context::RequestContext;
use crate::http::request::uri;
use crate::http::request::uri::{FRESH, TIMEOUT};
use crate::http::response::item_json;
use crate::http::response::problem::{Problem, clip};
use crate::http::response::success;
use crate::model::{Command, CommandResult, List, after, after_prefix};

/// The keys of a page if the request has no `limit`.
const DEFAULT_LIMIT: usize = 100;
/// The maximum `limit`.
const MAX_LIMIT: usize = 1000;
/// The maximum bytes of the items of a page as JSON, 1 MiB with the members around them; a larger first item is sent anyway.
const PAGE_BYTES: usize = (1 << 20) - (2 << 10);

/// The first byte of a cursor of an ascending scan.
const ASCENDING: u8 = b'>';
/// The first byte of a cursor of a descending scan.
const DESCENDING: u8 = b'<';

/// The body of the answer to DELETE.
#[derive(Serialize)]
struct DeleteBody {
    data: PrefixDeleted,
    message: &'static str,
}

#[derive(Serialize)]
struct PrefixDeleted {
    deleted: u64,
    more: bool,
}

/// Serves `GET /store`.
pub(crate) async fn list(request: &RequestContext) -> Result<Response, Problem> {
    let ListQuery { timeout, fresh, list, .. } = parse(request.query(), request.context.options.key_bytes)?;
    let deadline = deadline_after(request, timeout.as_deref())?;
    let (reverse, keys_only) = (list.reverse, list.keys_only);
    let render = move |listed: Listed| (render(&listed, reverse, keys_only), listed.index, listed.term);
    let (body, index, term) = request.context.list(list, fresh, deadline, render).await?;
    let share = request.share(body.len())?;
    let mut response = success::json_text(body, Some(share));
    success::set_raft_headers(&mut response, index, term);
    Ok(response)
}

/// The parsed query of a list.
pub(crate) struct ListQuery {
    timeout: Option<String>,
    fresh: (Consistency, Bounds),
    pub(crate) list: List,
    /// The prefix that all keys of the list have.
    pub(crate) prefix: Vec<u8>,
}

/// Parses the query of a list; `key_bytes` is the maximum key.
pub(crate) fn parse(query: &str, key_bytes: usize) -> Result<ListQuery, Problem> {
    let [one, two, three] = FRESH;
    let names = [TIMEOUT, one, two, three, "prefix", "start", "end", "limit", "cursor", "reverse", "keys"];
    let [timeout, one, two, three, prefix, start, end, limit, cursor, reverse, keys] = uri::parameters(query, names)?;
    let fresh = uri::freshness([one, two, three])?;
    // Longer than any key: it is a mistake, and the range would be empty or equal to a shorter one.
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
        reverse: uri::flag(reverse.as_deref(), "reverse")?,
        limit: parse_limit(limit.as_deref())?,
        keys_only: uri::flag(keys.as_deref(), "keys")?,
    };
    let prefix = prefix.unwrap_or_default();
    apply_bounds(&mut list, prefix.clone(), start, end)?;
    if let Some(cursor) = cursor {
        apply_cursor(&mut list, &cursor)?;
    }
    Ok(ListQuery { timeout, fresh, list, prefix: prefix.into_bytes() })
}

/// Serves `DELETE /store`.
pub(crate) async fn delete_prefix(request: &RequestContext) -> Result<Response, Problem> {
    let (timeout, prefix) = parse_delete(request.query(), request.context.options.key_bytes)?;
    let deadline = deadline_after(request, timeout.as_deref())?;
    // `If-Match` is about one key; ignoring it here would remove keys that the client meant to protect.
    conditions::none(request)?;
    let written = propose(request, b"", Command::DeletePrefix { prefix: prefix.into() }, deadline).await?;
    let CommandResult::PrefixDeleted { deleted, more } = written.outcome else { return Err(Problem::internal()) };
    let data = PrefixDeleted { deleted, more };
    let mut response = success::json(&DeleteBody { data, message: "success removing data" });
    success::set_write_headers(&mut response, &written);
    Ok(response)
}

/// Parses the query of a delete by prefix: the timeout and the prefix.
pub(crate) fn parse_delete(query: &str, key_bytes: usize) -> Result<(Option<String>, String), Problem> {
    let [timeout, prefix] = uri::parameters(query, [TIMEOUT, "prefix"])?;
    let prefix = prefix.unwrap_or_default();
    if prefix.is_empty() {
        return Err(Problem::query(
            "query parameter `prefix` must be given and not be empty; all keys are never removed",
        ));
    }
    if prefix.len() > key_bytes {
        return Err(Problem::query("query parameter `prefix` is longer than any key"));
    }
    Ok((timeout, prefix))
}

fn parse_limit(text: Option<&str>) -> Result<usize, Problem> {
    let Some(text) = text else { return Ok(DEFAULT_LIMIT) };
    let limit = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    limit.filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(|| {
        Problem::query(format!("query parameter `limit` must be from 1 to {MAX_LIMIT}, not `{}`", clip(text)))
    })
}

/// Intersects the ranges of `prefix`, `start` and `end`: the greatest lower bound and the least upper bound.
fn apply_bounds(list: &mut List, prefix: String, start: Option<String>, end: Option<String>) -> Result<(), Problem> {
    if end.as_deref() == Some("") {
        return Err(Problem::query("query parameter `end` must not be empty: no key is smaller"));
    }
    let prefix = prefix.into_bytes();
    // `prefix=b&start=a&end=bx` is `b` to `bx`: the prefix raises the start, and `end` lies below the end of the prefix, `c`.
    list.end = match (after_prefix(&prefix), end.map(String::into_bytes)) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    list.start = prefix.max(start.unwrap_or_default().into_bytes());
    Ok(())
}

/// Continues the list behind the last key of the previous page.
fn apply_cursor(list: &mut List, cursor: &str) -> Result<(), Problem> {
    let bad = |why: &str| Problem::query(format!("query parameter `cursor` {why}; send a `next_cursor` unchanged"));
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| bad("is invalid"))?;
    let direction = if list.reverse { DESCENDING } else { ASCENDING };
    let key = match bytes.split_first() {
        Some((found, key)) if std::str::from_utf8(key).is_ok() && [ASCENDING, DESCENDING].contains(found) => {
            if *found != direction {
                return Err(bad("is of the other direction"));
            }
            key
        }
        _ => return Err(bad("is invalid")),
    };
    // The cursor is of another request: continuing would skip keys or return some twice, without any sign of it.
    if key < &list.start[..] || list.end.as_ref().is_some_and(|end| key >= &end[..]) {
        return Err(bad("is outside of the range of `prefix`, `start` and `end`"));
    }
    if list.reverse {
        list.end = Some(key.to_vec());
    } else {
        list.start = after(key);
    }
    Ok(())
}

/// Encodes the cursor of a page that ended with `key`.
fn encode_cursor(key: &[u8], reverse: bool) -> String {
    URL_SAFE_NO_PAD.encode([&[if reverse { DESCENDING } else { ASCENDING }], key].concat())
}

/// Renders a page. Values grow when they are written as JSON, so a page may end earlier here than in storage.
fn render(listed: &Listed, reverse: bool, keys_only: bool) -> Vec<u8> {
    let mut out = br#"{"data":{"items":["#.to_vec();
    let mut last: Option<&Bytes> = None;
    let mut more = listed.page.more;
    for (key, item) in &listed.page.items {
        // Every key is validated UTF-8. If a stored one is not, it must not make the rest of the page unreadable.
        let text = String::from_utf8_lossy(key);
        let before = out.len();
        if last.is_some() {
            out.push(b',');
        }
        match item {
            Some(item) if !keys_only => item_json::item(&mut out, &text, item, listed.clock),
            _ => item_json::string(&mut out, &text),
        }
        // Over the limit: takes back this item, so the cursor points behind the previous one. The first item always stays, or a
        // value larger than a page would end every scan at its key.
        if last.is_some() && out.len() > PAGE_BYTES {
            out.truncate(before);
            more = true;
            break;
        }
        last = Some(key);
    }
    // No cursor without more keys: `null` ends the client's scan.
    out.extend_from_slice(br#"],"next_cursor":"#);
    match last.filter(|_| more) {
        Some(key) => item_json::string(&mut out, &encode_cursor(key, reverse)),
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
        apply_bounds(&mut list, prefix.to_owned(), given(start), given(end)).unwrap();
        (list.start, list.end)
    }

    #[test]
    fn all_bounds_hold_together() {
        assert_eq!(range("", "", ""), (vec![], None));
        assert_eq!(range("b", "", ""), (b"b".to_vec(), Some(b"c".to_vec())));
        assert_eq!(range("b", "a", "bx"), (b"b".to_vec(), Some(b"bx".to_vec())));
        assert_eq!(range("b", "bb", "z"), (b"bb".to_vec(), Some(b"c".to_vec())));
        // Start above end: the list is empty and not an error, since bounds may come from a program.
        assert_eq!(range("b", "z", ""), (b"z".to_vec(), Some(b"c".to_vec())), "an empty range");
    }

    #[test]
    fn a_cursor_continues_behind_its_key_in_its_own_range_and_direction() {
        let list = List { start: b"b".to_vec(), end: Some(b"c".to_vec()), reverse: false, limit: 1, keys_only: false };
        let down = List { reverse: true, ..list.clone() };
        let next = |list: &List, cursor: &str| {
            let mut list = list.clone();
            apply_cursor(&mut list, cursor).map(|()| (list.start, list.end))
        };
        assert_eq!(next(&list, &encode_cursor(b"bb", false)).unwrap(), (b"bb\0".to_vec(), Some(b"c".to_vec())));
        assert_eq!(next(&down, &encode_cursor(b"bb", true)).unwrap(), (b"b".to_vec(), Some(b"bb".to_vec())));
        for bad in [
            "",
            "x",
            "=",
            "PmI=",
            &encode_cursor(b"bb", true),
            &encode_cursor(b"a", false),
            &encode_cursor(b"c", false),
        ] {
            assert!(next(&list, bad).is_err(), "{bad}");
        }
        assert!(next(&list, &URL_SAFE_NO_PAD.encode(b">b\xff")).is_err());
    }
}
