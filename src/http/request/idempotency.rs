//! `Idempotency-Key`: the client's name for a write.
//!
//! Why: a client that lost an answer sends the same request again, and gets the first result instead of a second effect.
//!
//! Laws: the name stands for all that the request asks: method, path, query, conditions, content type and body. Only
//! `timeout` may differ from one try to the next, for it says nothing of what is to be done.
//!
//! Not here: what is kept and for how long ([`crate::model::Results`]).

use bytes::Bytes;
use sha2::{Digest, Sha256};
use warp::http::header::{CONTENT_TYPE, HeaderName, IF_MATCH, IF_NONE_MATCH};

use super::context::RequestContext;
use super::query::TIMEOUT;
use crate::http::response::problem::Problem;
use crate::model::IdempotencyKey;
use crate::model::validate;

/// The header with the name.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What keeps a write with this body from being done twice, where its client has given it a name.
pub(crate) fn of(call: &RequestContext, body: &[u8]) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(key) = call.header(&IDEMPOTENCY_KEY)? else { return Ok(None) };
    if !validate::is_idempotency_key(key.as_bytes()) {
        let most = validate::IDEMPOTENCY_KEY_BYTES;
        let detail = format!("header `{IDEMPOTENCY_KEY}` must be 1 to {most} visible ASCII characters");
        return Err(Problem::header(detail));
    }
    let mut parts = vec![call.method.as_str(), call.path.as_str()];
    let is_timeout = |part: &&str| part.split('=').next() == Some(TIMEOUT);
    parts.extend(call.query.split('&').filter(|part| !part.is_empty() && !is_timeout(part)));
    for name in [&IF_MATCH, &IF_NONE_MATCH, &CONTENT_TYPE] {
        // No part of a query has a white space in it, so none is taken for a header.
        parts.extend([" ", call.header(name)?.unwrap_or(" ")]);
    }
    Ok(Some(IdempotencyKey { key: Bytes::copy_from_slice(key.as_bytes()), fingerprint: fingerprint(&parts, body) }))
}

/// A sum over the parts and the body that no client can make two requests have, but by will and great expense.
fn fingerprint(parts: &[&str], body: &[u8]) -> u128 {
    let mut sum = Sha256::new();
    for part in parts.iter().map(|part| part.as_bytes()).chain([body]) {
        sum.update((part.len() as u64).to_le_bytes());
        sum.update(part);
    }
    let sum: [u8; 32] = sum.finalize().into();
    let (first, _) = sum.split_first_chunk().expect("a sum has more than 16 bytes");
    u128::from_le_bytes(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_tells_parts_and_their_borders_apart() {
        let all = [
            fingerprint(&["PUT", "/store/a"], b"1"),
            fingerprint(&["PUT", "/store/a"], b"2"),
            fingerprint(&["PUT", "/store/b"], b"1"),
            fingerprint(&["PUT", "/store/a", ""], b"1"),
            fingerprint(&["PUT", "/store/", "a"], b"1"),
            fingerprint(&["PUT/store/a"], b"1"),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{at}");
        }
        // As Python's hashlib has it: the sum lies in logs, so it must stay the same.
        assert_eq!(fingerprint(&["PUT"], b"1"), 0x32dd6138fceb8861309abdc2c5769ed3);
    }
}
