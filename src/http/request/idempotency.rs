//! Idempotency keys: the key and the fingerprint of a write that its client may send again.
//!
//! Why: a client that has lost the response sends the same request again, and gets the first result instead of a second
//! effect.
//!
//! ```text
//!   PUT /store/n?timeout=1s  Idempotency-Key: a  "5"  -> 504 unknown, but applied
//!   PUT /store/n?timeout=9s  Idempotency-Key: a  "5"  -> 200, the first result, Idempotency-Replayed: true
//!   PUT /store/n             Idempotency-Key: a  "6"  -> 422 idempotency_key_reused
//! ```
//!
//! Invariants: a fingerprint covers everything that determines the effect: method, path, query, conditions, content type and
//! body. Only `timeout` may differ between attempts, because it does not determine the effect.
//!
//! With tokens each token has keys of its own ([`of_token`]).
//!
//! See also: how long results are stored ([`crate::model::DedupTable`]).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use warp::http::header::{CONTENT_TYPE, HeaderName, IF_MATCH, IF_NONE_MATCH};

use super::handler_context::RequestContext;
use super::uri::TIMEOUT;
use crate::http::response::problem::Problem;
use crate::model::IdempotencyKey;
use crate::model::validate;

/// The header with the key.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Returns the key and the fingerprint of a write with this body; None where the request has no key.
pub(crate) fn of(request: &RequestContext, body: &[u8]) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(key) = request.header(&IDEMPOTENCY_KEY)? else { return Ok(None) };
    if !validate::is_idempotency_key(key.as_bytes()) {
        let max = validate::IDEMPOTENCY_KEY_BYTES;
        let detail = format!("header `{IDEMPOTENCY_KEY}` must be 1 to {max} visible ASCII characters");
        return Err(Problem::header(detail));
    }
    // Compared as it was sent, not by meaning: `?a=1&b=2` and `?b=2&a=1` are two requests. A client that sends a request again
    // sends the same bytes, and the stricter comparison can only refuse too much, never replay a wrong result.
    let mut parts = vec![request.method.as_str(), request.path()];
    let is_timeout = |part: &&str| part.split('=').next() == Some(TIMEOUT);
    parts.extend(request.query().split('&').filter(|part| !part.is_empty() && !is_timeout(part)));
    for name in [&IF_MATCH, &IF_NONE_MATCH, &CONTENT_TYPE] {
        // A raw path or query has no space, so ` ` separates: `?x` followed by `If-Match: y` is ["x", " ", "y"], which no
        // query makes. A missing header is ` ` as well, which no trimmed header is.
        parts.extend([" ", request.header(name)?.unwrap_or(" ")]);
    }
    let key = match request.caller.name() {
        Some(token) => of_token(token, key),
        None => Bytes::copy_from_slice(key.as_bytes()),
    };
    Ok(Some(IdempotencyKey { key, fingerprint: fingerprint(&parts, body) }))
}

/// Returns the key under which the cluster stores a token's result: a hash of the token's name and the client's key.
///
/// It has the form that every key has, visible ASCII within the bound, so entries, tables and the wire are as without tokens, and all
/// versions read them. A key out of name and key would not fit into the bound. Base 64 of SHA-256 has 43 characters, and two pairs have
/// one hash only by an attack that takes 2^128 steps. The name and not the secret: a token keeps its results when its secret changes.
fn of_token(token: &str, key: &str) -> Bytes {
    // A name has no space, so no other pair gives the same text.
    URL_SAFE_NO_PAD.encode(Sha256::digest(format!("{token} {key}"))).into()
}

/// Hashes the parts and the body. 128 bits of SHA-256: two different requests have the same value only by an attack that
/// takes 2^64 steps.
fn fingerprint(parts: &[&str], body: &[u8]) -> u128 {
    // Each part after its length, or ["a", "bc"] and ["ab", "c"] would be alike.
    let mut hash = Sha256::new();
    for part in parts.iter().map(|part| part.as_bytes()).chain([body]) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let hash: [u8; 32] = hash.finalize().into();
    let (first, _) = hash.split_first_chunk().expect("a hash has more than 16 bytes");
    u128::from_le_bytes(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_has_keys_of_its_own() {
        let keys = [of_token("a", "k"), of_token("b", "k"), of_token("a", "k2"), of_token("a", &"x".repeat(64))];
        for (at, key) in keys.iter().enumerate() {
            assert!(validate::is_idempotency_key(key) && !keys[..at].contains(key), "{key:?}");
        }
        // Computed with Python's hashlib. These keys are in log entries, so they must not change between versions.
        assert_eq!(keys[0], "1IRPWWPv7DAWz45J4jhAvX9_MJUi4sD-_DcyQkQ2Kj0");
    }

    #[test]
    fn a_fingerprint_depends_on_parts_and_their_borders() {
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
        // Computed with Python's hashlib. Fingerprints are in log entries, so they must not change between versions.
        assert_eq!(fingerprint(&["PUT"], b"1"), 0x32dd6138fceb8861309abdc2c5769ed3);
    }
}
