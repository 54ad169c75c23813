//! What each route needs of a token.
//!
//! Why: the table of routes names a rule for each route, so a route without one does not compile, and one place decides.
//!
//! Invariants: keys and prefixes are parsed by the same functions as in the handlers, so that a right is never checked for another key than
//! the one that is used. What cannot be parsed is refused here already. A request is checked before its body is read; keys in a body are
//! checked with the command that they make, before it is proposed ([`Caller::check_command`]).
//!
//! See also: the table ([`super::routes`]), tokens of requests ([`super::request::caller`]).

use warp::http::Method;

use super::api::{range_and_prefix_delete, watch};
use super::request::caller::{Caller, Need};
use super::request::handler_context::RequestContext;
use super::request::uri;
use super::response::problem::Problem;
use crate::auth::Action;

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Nothing; without a token the handler answers with less.
    Open,
    /// A valid token. Without any the handler answers with less; with a wrong one it is not called.
    Outline,
    /// A valid token.
    AnyToken,
    /// An admin's token.
    Admin,
    /// A token for figures, or an admin's.
    Metrics,
    /// Read for GET, write for other methods, on the key in the path.
    KeyInPath,
    /// As `KeyInPath`; without a key the prefix in the query (GET, DELETE), or the key in the body (POST).
    Store,
    /// Read and write for the keys in the body.
    KeysInBody,
    /// Read for the key or the prefix in the query.
    Watch,
}

/// Returns the 401 or 403 of a request that may not use its route.
pub(super) fn check(rule: Rule, request: &RequestContext) -> Result<(), Problem> {
    let caller = &request.caller;
    // The methods of a route are no secret, and the preflight of a browser has no token.
    if matches!(caller, Caller::Unrestricted) || request.method == Method::OPTIONS {
        return Ok(());
    }
    match rule {
        Rule::Open => Ok(()),
        Rule::Outline if matches!(caller, Caller::Anonymous(_)) => Ok(()),
        Rule::Outline | Rule::AnyToken | Rule::KeysInBody => caller.check(&Need::AnyToken),
        Rule::Admin => caller.check(&Need::Admin),
        Rule::Metrics => caller.check(&Need::Metrics),
        Rule::KeyInPath | Rule::Store | Rule::Watch => {
            // Before anything is parsed, so that a client without a token learns nothing of its request.
            caller.check(&Need::AnyToken)?;
            caller.check(&need(rule, request)?)
        }
    }
}

/// Parses what a request to a route of keys needs.
fn need(rule: Rule, request: &RequestContext) -> Result<Need, Problem> {
    let key_bytes = request.context.options.key_bytes;
    let action = match request.method {
        Method::GET | Method::HEAD => Action::Read,
        _ => Action::Write,
    };
    if rule == Rule::Watch {
        return Ok(Need::of_filter(&watch::parse(request.query(), None, key_bytes)?.0));
    }
    let tail = request.tail();
    let raw_key = tail.strip_suffix('/').unwrap_or(tail);
    if rule == Rule::Store && raw_key.is_empty() {
        return Ok(match request.method {
            Method::GET | Method::HEAD => {
                Need::Prefix(action, range_and_prefix_delete::parse(request.query(), key_bytes)?.prefix)
            }
            Method::DELETE => {
                Need::Prefix(action, range_and_prefix_delete::parse_delete(request.query(), key_bytes)?.1.into_bytes())
            }
            // A POST has its key in the body. The route takes no other method.
            _ => Need::AnyToken,
        });
    }
    Ok(Need::Key(action, uri::key_in_path(raw_key, key_bytes)?.into_bytes()))
}
