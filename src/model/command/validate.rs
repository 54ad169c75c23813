//! Validation of commands and requests: one total, deterministic check.
//!
//! Why: a limit that only the client's node checks is no limit. Requests also arrive over the peer port, and every node applies
//! what is in the log, so one oversized or malformed command would hurt all of them, again at each restart.
//!
//! Invariants: the check is a function of the command and of constants, so every node decides alike. The limits of one node
//! ([`Limits`]) can only be stricter, and hold where a request arrives, never where an entry is applied. The work is bounded by
//! the size of the input.
//!
//! Called by http (for parts of a request), by the consensus loop before a proposal, and by
//! [`decide_write`](crate::model::decide_write), where an invalid command changes nothing.
//!
//! See also: [`TXN_BYTES`](crate::model::TXN_BYTES) and [`DELETE_PREFIX_BYTES`](crate::model::DELETE_PREFIX_BYTES) (limits on
//! stored data, which only the state machine can check).

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;
use std::str::FromStr;

use serde::de::IgnoredAny;

use super::Command;
use super::txn::{Check, Operation, Test, Txn};
use super::write_request::{IdempotencyKey, Write};
use crate::model::json_interoperability;
use crate::model::members::{MAX_RAFT_ID, Member, MemberChange};
use crate::model::node_name_and_address::{NodeAddress, NodeName};
use crate::model::peer::{JoinAccepted, Request, WhoAmI};
use crate::model::refusal::{Code, Refusal};
use crate::model::value::{Ttl, Value};

/// The maximum key and prefix, in bytes: what the tree stores without a blob.
pub const KEY_BYTES: usize = 1024;
/// The maximum value, in bytes.
pub const VALUE_BYTES: usize = 8 << 20;
/// The maximum bytes of keys, values and content types of one command.
pub const COMMAND_BYTES: usize = 16 << 20;
/// The maximum content type, in bytes.
pub const CONTENT_TYPE_BYTES: usize = 128;
/// The maximum checks of a transaction, and operations of each branch.
pub const TXN_PARTS: usize = 128;
/// The maximum idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES: usize = 64;
/// The maximum keys of one expiry command.
pub const EXPIRE_KEYS: usize = 128;
/// The maximum bytes of these keys.
pub const EXPIRE_BYTES: usize = 64 << 10;
/// The maximum characters of an input quoted in a message.
const QUOTED_CHARS: usize = 64;

/// The limits of one node, never above those of all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The maximum key, in bytes.
    pub key_bytes: usize,
    /// The maximum value, in bytes.
    pub value_bytes: usize,
    /// The maximum bytes of one command.
    pub command_bytes: usize,
}

impl Limits {
    /// The limits of every node.
    pub const ALL_NODES: Self = Self { key_bytes: KEY_BYTES, value_bytes: VALUE_BYTES, command_bytes: COMMAND_BYTES };

    /// Returns the limits of a node with these settings, never above [`Limits::ALL_NODES`].
    #[must_use]
    pub fn of_settings(key_bytes: usize, value_bytes: usize, body_bytes: usize) -> Self {
        Self {
            key_bytes: key_bytes.min(KEY_BYTES),
            value_bytes: value_bytes.min(VALUE_BYTES),
            // A content type is not part of the body.
            command_bytes: body_bytes.saturating_add(CONTENT_TYPE_BYTES).min(COMMAND_BYTES),
        }
    }
}

/// Validates a client request, received directly or forwarded; internal commands are refused.
///
/// # Errors
/// A refusal with the reason; nothing was applied.
pub fn request(request: &Request, limits: &Limits) -> Result<(), Refusal> {
    match request {
        // Internal commands are decisions of the leader. A forged `Move` from the peer port would redirect a member's peers.
        Request::Write(inner) if !inner.command.is_of_client() => {
            Err(refused("only a leader itself proposes such a command"))
        }
        Request::Write(inner) => write(inner, limits),
        Request::Join { node_id, raft_address, .. } => node(node_id, [raft_address.as_str()]),
        Request::Remove { node_id } | Request::Transfer { node_id: Some(node_id) } => node(node_id, []),
        Request::Transfer { node_id: None } => Ok(()),
        Request::Move { raft_address, http_address, .. } => addresses([raft_address, http_address]),
    }
}

/// Validates a write of a client or of the leader.
///
/// # Errors
/// As [`request`].
pub fn write(Write { idempotency_key, by, command }: &Write, limits: &Limits) -> Result<(), Refusal> {
    if let Some(IdempotencyKey { key, .. }) = idempotency_key {
        if !is_idempotency_key(key) {
            let detail = format!("an idempotency key must be 1 to {IDEMPOTENCY_KEY_BYTES} visible ASCII characters");
            return Err(refused(detail));
        }
        if !command.is_of_client() {
            return Err(refused("only a client's command has an idempotency key"));
        }
    }
    if by.is_some() && !command.is_of_client() {
        return Err(refused("only a client's command has a token name"));
    }
    // The whole size first: it bounds the work of the checks below, such as parsing JSON values.
    if command.size() > limits.command_bytes {
        let (bytes, most) = (command.size(), limits.command_bytes);
        return Err(too_large(format!("the command has {bytes} bytes, over the {most} that one may have")));
    }
    match command {
        Command::Put { key, value, ttl, .. } => {
            checked_key(key, limits)?;
            checked_value(value, limits)?;
            ttl.map_or(Ok(()), checked_ttl)
        }
        Command::Delete { key, .. } | Command::DeletePrefix { prefix: key } => checked_key(key, limits),
        Command::Touch { key, ttl, .. } => {
            checked_key(key, limits)?;
            checked_ttl(*ttl)
        }
        Command::Txn(inner) => txn(inner, limits),
        Command::Move { raft_address, http_address, .. } => addresses([raft_address, http_address]),
        Command::Expire { keys } => {
            // Its keys are stored ones, and were validated when they were put.
            let bytes = keys.iter().map(|(key, _)| key.len()).sum::<usize>();
            if keys.len() > EXPIRE_KEYS || bytes > EXPIRE_BYTES {
                return Err(too_large("a removal of expired keys names more than it may"));
            }
            Ok(())
        }
        Command::Tick => Ok(()),
    }
}

fn txn(Txn { checks, then, otherwise }: &Txn, limits: &Limits) -> Result<(), Refusal> {
    for (name, count) in [("if", checks.len()), ("then", then.len()), ("else", otherwise.len())] {
        if count > TXN_PARTS {
            return Err(refused(format!("`{name}` has {count} elements, over the {TXN_PARTS} that it may have")));
        }
    }
    for (at, check) in checks.iter().enumerate() {
        condition(check, limits).map_err(|refusal| within(refusal, "if", at))?;
    }
    for (name, branch) in [("then", then), ("else", otherwise)] {
        let mut written = BTreeSet::new();
        for (at, one) in branch.iter().enumerate() {
            operation(one, limits).map_err(|refusal| within(refusal, name, at))?;
            // One write per key and branch: a second one would hide the first without any trace.
            if !matches!(one, Operation::Get { .. }) && !written.insert(one.key()) {
                let key = String::from_utf8_lossy(one.key());
                return Err(refused(format!("`{name}` writes key `{}` more than once", clip(&key))));
            }
        }
    }
    Ok(())
}

fn condition(Check { key, test }: &Check, limits: &Limits) -> Result<(), Refusal> {
    checked_key(key, limits)?;
    match test {
        Test::Is(_) => Ok(()),
        // Bytes without a content type, so there is no JSON to check.
        Test::Holds(bytes) => value_length(bytes.len(), limits.value_bytes).map_err(too_large),
    }
}

fn operation(operation: &Operation, limits: &Limits) -> Result<(), Refusal> {
    checked_key(operation.key(), limits)?;
    match operation {
        Operation::Put { value, ttl, .. } => {
            checked_value(value, limits)?;
            ttl.map_or(Ok(()), checked_ttl)
        }
        Operation::Delete { .. } | Operation::Get { .. } => Ok(()),
    }
}

fn checked_key(bytes: &[u8], limits: &Limits) -> Result<(), Refusal> {
    key(bytes, limits.key_bytes).map_err(|detail| Refusal::not_applied(Code::BadKey, detail))
}

fn checked_value(value: &Value, limits: &Limits) -> Result<(), Refusal> {
    value_length(value.bytes.len(), limits.value_bytes).map_err(too_large)?;
    content_type(&value.content_type).map_err(|why| refused(format!("the content type {why}")))?;
    if is_json(&value.content_type) {
        json(&value.bytes).map_err(|why| refused(format!("the value {why}")))?;
    }
    Ok(())
}

fn checked_ttl(ttl: Ttl) -> Result<(), Refusal> {
    if is_ttl(ttl) {
        return Ok(());
    }
    Err(refused(format!("a ttl must be from 1 to {} seconds, not {}", Ttl::MAX_SECONDS, ttl.0)))
}

/// Validates a key of 1 to `limit` bytes of UTF-8.
///
/// # Errors
/// The reason, as a sentence.
pub fn key(bytes: &[u8], limit: usize) -> Result<(), String> {
    match bytes.len() {
        0 => Err("the key is empty".to_owned()),
        length if length > limit => Err(format!("the key has {length} bytes, over limits.key_bytes ({limit})")),
        _ if std::str::from_utf8(bytes).is_err() => Err("the key is not UTF-8".to_owned()),
        _ => Ok(()),
    }
}

/// Validates the length of a value.
///
/// # Errors
/// The reason, as a sentence.
pub fn value_length(length: usize, limit: usize) -> Result<(), String> {
    if length <= limit {
        return Ok(());
    }
    Err(format!("the value has {length} bytes, over limits.value_bytes ({limit})"))
}

/// Validates a content type (RFC 9110, 8.3.1) of printable ASCII.
///
/// # Errors
/// The reason, to continue "the content type".
pub fn content_type(text: &str) -> Result<(), String> {
    if text.len() > CONTENT_TYPE_BYTES {
        return Err(format!("has {} bytes, over the {CONTENT_TYPE_BYTES} that a content type may have", text.len()));
    }
    // `text/plain; charset=utf-8` has the tokens `text` and `plain`. Parameters are only checked to be printable, since the
    // content type is sent back as a header.
    let token = |part: &str| {
        let of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !part.is_empty() && part.bytes().all(of_token)
    };
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    match essence(text).split_once('/') {
        Some((kind, subtype)) if printable && token(kind) && token(subtype) => Ok(()),
        _ => Err(format!("must be a type such as text/plain, not `{}`", clip(text))),
    }
}

/// Returns type and subtype of a content type in lower case, without parameters.
#[must_use]
pub fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

/// Whether values of this content type are JSON.
#[must_use]
pub fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    essence == "application/json" || essence.ends_with("+json")
}

/// Validates one JSON text that can be embedded in another, as in [`json_interoperability::check`].
///
/// # Errors
/// The reason, to continue "the value".
pub fn json(bytes: &[u8]) -> Result<(), String> {
    let no_json = |error: String| json_interoperability::hint(bytes).unwrap_or_else(|| format!("is no JSON: {error}"));
    // The parser skips numbers and strings without decoding them, so invalid UTF-8 would pass.
    let text = std::str::from_utf8(bytes).map_err(|error| no_json(error.to_string()))?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| no_json(error.to_string()))?;
    json_interoperability::check(text)
}

/// Validates the JSON value of a client where its request arrives, as in [`json_interoperability::check_value`].
///
/// # Errors
/// The reason, to continue "the value".
pub fn client_json(bytes: &[u8]) -> Result<(), String> {
    json(bytes)?;
    std::str::from_utf8(bytes).map_or(Ok(()), json_interoperability::check_value)
}

/// Whether a time to live is in range.
#[must_use]
pub fn is_ttl(ttl: Ttl) -> bool {
    (1..=Ttl::MAX_SECONDS).contains(&ttl.0)
}

/// Whether these bytes are a valid idempotency key.
#[must_use]
pub fn is_idempotency_key(bytes: &[u8]) -> bool {
    (1..=IDEMPOTENCY_KEY_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// Validates a change of the member table.
///
/// # Errors
/// As [`request`].
pub fn member_change(change: &MemberChange) -> Result<(), Refusal> {
    match change {
        MemberChange::Set(row) => member(row),
        MemberChange::Remove { .. } => Ok(()),
    }
}

/// Validates a row of the member table.
///
/// # Errors
/// As [`request`].
pub fn member(Member { name, raft_id, raft_address, http_address, .. }: &Member) -> Result<(), Refusal> {
    if !(1..=MAX_RAFT_ID).contains(raft_id) {
        return Err(refused(format!("{raft_id} is no raft id")));
    }
    node(name, [raft_address.as_str(), http_address.as_str()])
}

/// Validates an identify answer.
///
/// # Errors
/// As [`request`].
pub fn who_am_i(WhoAmI { node_id, http_address, raft_address, .. }: &WhoAmI) -> Result<(), Refusal> {
    node(node_id, [http_address.as_str(), raft_address.as_str()])
}

/// Validates the answer of a joiner.
///
/// # Errors
/// As [`request`].
pub fn join_accepted(JoinAccepted { started_as, http_address, .. }: &JoinAccepted) -> Result<(), Refusal> {
    node(started_as, [http_address.as_str()])
}

fn node<const N: usize>(name: &str, its_addresses: [&str; N]) -> Result<(), Refusal> {
    NodeName::from_str(name).map_err(|what| refused(format!("{what}, not {:?}", clip(name))))?;
    addresses(its_addresses)
}

fn addresses<const N: usize>(addresses: [&str; N]) -> Result<(), Refusal> {
    addresses.into_iter().try_for_each(|address| {
        NodeAddress::from_str(address)
            .map(drop)
            .map_err(|why| refused(format!("an address must be host:port, not {:?}: {why}", clip(address))))
    })
}

fn refused(detail: impl Into<String>) -> Refusal {
    Refusal::not_applied(Code::BadRequest, detail)
}

fn too_large(detail: impl Into<String>) -> Refusal {
    Refusal::not_applied(Code::TooLarge, detail)
}

fn within(refusal: Refusal, name: &str, at: usize) -> Refusal {
    Refusal { detail: format!("`{name}[{at}]`: {}", refusal.detail), ..refusal }
}

/// Shortens an input for a message.
#[must_use]
pub fn clip(text: &str) -> String {
    // By characters and not by bytes, so that the cut is never inside of one.
    match text.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
