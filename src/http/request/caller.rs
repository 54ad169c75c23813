//! Which client asks, by the token in its request, and what that client may do.
//!
//! Why: a request is authenticated where it enters the routes, and each right is compared with the token found then.
//!
//! Invariants: without `auth.tokens` every client may do everything, and no answer differs. A secret stays in this file: neither a problem
//! nor a log line repeats it. A 401 or 403 depends on the request and the token alone, and never on a stored key.
//!
//! See also: which right each route needs ([`crate::http::rules`]), the tokens ([`crate::auth`]).

use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use warp::http::header::{AUTHORIZATION, HeaderMap};

use super::handler_context::RequestContext;
use crate::auth::{Action, Denied, Token, TokenStore};
use crate::changefeed::Filter;
use crate::http::request::client_certificate::ClientCertificate;
use crate::http::response::problem::{Problem, clip};
use crate::model::{Command, Operation, TokenName};
use crate::trust::certificate::CertificateInfo;

/// The client of a request.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// The node has no tokens, so every client may do everything.
    Unrestricted,
    /// The request has no token; the subject of its client certificate, where it has one.
    Anonymous(Option<String>),
    /// The request has a token that is not valid, and why.
    Refused(String),
    /// The request has this token.
    Token(Arc<Token>),
}

/// What a request needs of its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Need {
    /// Any valid token.
    AnyToken,
    /// An admin's token.
    Admin,
    /// The right to read figures.
    Metrics,
    /// The right to do this to one key.
    Key(Action, Vec<u8>),
    /// The right to do this to every key with a prefix.
    Prefix(Action, Vec<u8>),
}

impl Caller {
    /// Finds the token of a request: by its secret, or without one by the verified certificate of the connection.
    pub(crate) fn of(tokens: Option<&TokenStore>, headers: &HeaderMap, certificate: Option<&CertificateInfo>) -> Self {
        let Some(tokens) = tokens else { return Self::Unrestricted };
        let now = SystemTime::now();
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else {
            let subject = certificate.map(|info| info.subject.as_str());
            return match tokens.with_tokens(|tokens| tokens.authenticate_certificate(subject, now)) {
                Ok(Some(token)) => Self::Token(token),
                // A certificate without a token is what every client has where they are required.
                Ok(None) | Err(Denied::Unknown) => Self::Anonymous(subject.map(str::to_owned)),
                Err(denied) => Self::Refused(denied.to_string()),
            };
        };
        if values.next().is_some() {
            return Self::Refused("header `Authorization` is given more than once".to_owned());
        }
        let secret = value.to_str().ok().and_then(secret_in);
        let Some(secret) = secret else {
            return Self::Refused(
                "header `Authorization` must be `Bearer SECRET`, or Basic with it as password".into(),
            );
        };
        match tokens.with_tokens(|tokens| tokens.authenticate(&secret, now)) {
            Ok(token) => Self::Token(token),
            Err(denied) => Self::Refused(denied.to_string()),
        }
    }

    /// Whether the node has no tokens, or the request a valid one.
    pub(crate) fn is_known(&self) -> bool {
        matches!(self, Self::Unrestricted | Self::Token(_))
    }

    /// Whether it may do everything.
    pub(crate) fn is_admin(&self) -> bool {
        match self {
            Self::Unrestricted => true,
            Self::Token(token) => token.is_admin(),
            Self::Anonymous(_) | Self::Refused(_) => false,
        }
    }

    /// The name of its token.
    pub(crate) fn name(&self) -> Option<&str> {
        self.token_name().map(|name| &**name)
    }

    /// The name of its token, as writes carry it.
    pub(crate) fn token_name(&self) -> Option<&TokenName> {
        match self {
            Self::Token(token) => Some(token.name()),
            _ => None,
        }
    }

    /// Its token, where it has a valid one.
    pub(crate) fn token(&self) -> Option<TokenName> {
        match self {
            Self::Token(token) => Some(token.name().clone()),
            _ => None,
        }
    }

    /// Whether it may read this key.
    pub(crate) fn may_read(&self, key: &str) -> bool {
        match self {
            Self::Unrestricted => true,
            Self::Token(token) => token.allows(Action::Read, key.as_bytes()),
            Self::Anonymous(_) | Self::Refused(_) => false,
        }
    }

    /// Returns the 401 or 403 of a client that lacks something.
    pub(crate) fn check(&self, need: &Need) -> Result<(), Problem> {
        match self {
            Self::Unrestricted => Ok(()),
            Self::Anonymous(subject) => {
                let wanted = "this node wants a token: `Authorization: Bearer SECRET`";
                Err(Problem::unauthorized(match subject {
                    None => wanted.to_owned(),
                    Some(subject) => {
                        format!("{wanted}; no token has `cert = \"{subject}\"`, the subject of the client certificate")
                    }
                }))
            }
            Self::Refused(reason) => Err(Problem::unauthorized(reason.as_str())),
            Self::Token(token) => need.of(token),
        }
    }
}

impl Caller {
    /// Returns the 401 or 403 of a client that may not propose this command.
    pub(crate) fn check_command(&self, command: &Command) -> Result<(), Problem> {
        if matches!(self, Self::Unrestricted) {
            return Ok(());
        }
        let read = |key: &[u8]| self.check(&Need::Key(Action::Read, key.to_vec()));
        let write = |key: &[u8]| self.check(&Need::Key(Action::Write, key.to_vec()));
        match command {
            Command::Put { key, .. } | Command::Delete { key, .. } | Command::Touch { key, .. } => write(key),
            Command::DeletePrefix { prefix } => self.check(&Need::Prefix(Action::Write, prefix.to_vec())),
            Command::Txn(txn) => {
                txn.checks.iter().try_for_each(|check| read(&check.key))?;
                // Both branches count: which of them runs depends on keys, so a refusal by the one that runs would tell of them.
                txn.then.iter().chain(&txn.otherwise).try_for_each(|operation| match operation {
                    Operation::Get { key } => read(key),
                    Operation::Put { key, .. } | Operation::Delete { key } => write(key),
                })
            }
            // Only the leader itself proposes these.
            Command::Move { .. } | Command::Expire { .. } | Command::Tick => self.check(&Need::Admin),
        }
    }
}

impl Need {
    /// What a watch with this filter needs.
    pub(crate) fn of_filter(filter: &Filter) -> Self {
        match filter {
            Filter::Key(key) => Self::Key(Action::Read, key.to_vec()),
            Filter::Prefix(prefix) => Self::Prefix(Action::Read, prefix.to_vec()),
        }
    }

    /// Returns the 403 of a token that lacks this.
    fn of(&self, token: &Token) -> Result<(), Problem> {
        let (allowed, missing) = match self {
            Self::AnyToken => (true, String::new()),
            Self::Admin => (token.is_admin(), "admin".to_owned()),
            Self::Metrics => (token.allows_metrics(), "metrics".to_owned()),
            Self::Key(action, key) => (token.allows(*action, key), format!("{} on {}", word(*action), quoted(key))),
            Self::Prefix(action, prefix) => (
                token.allows(*action, prefix),
                format!("{} on every key with the prefix {}", word(*action), quoted(prefix)),
            ),
        };
        if allowed { Ok(()) } else { Err(Problem::forbidden(format!("token \"{}\" needs {missing}", token.name()))) }
    }
}

/// The right that a request had when it began, for as long as its answer goes on.
pub(crate) struct HeldRight {
    /// None where the node has no tokens.
    held: Option<(Arc<TokenStore>, Arc<Token>)>,
    certificate: ClientCertificate,
    need: Need,
    generation: u64,
}

impl HeldRight {
    /// The right of a request that was checked for `need`.
    pub(crate) fn new(request: &RequestContext, need: Need) -> Self {
        let held = match (&request.context.options.tokens, &request.caller) {
            (Some(tokens), Caller::Token(token)) => Some((Arc::clone(tokens), Arc::clone(token))),
            _ => None,
        };
        // Of no generation, so the first check looks: a reload may have come since the request was checked.
        Self { held, certificate: request.certificate.clone(), need, generation: u64::MAX }
    }

    /// Returns the 401 or 403 once the right is gone.
    pub(crate) fn check(&mut self) -> Result<(), Problem> {
        self.certificate.check()?;
        let Some((tokens, token)) = &mut self.held else { return Ok(()) };
        let (generation, now) = (tokens.generation(), SystemTime::now());
        // It is asked before each event, so tokens are searched only after a change.
        if generation == self.generation && !token.has_expired(now) {
            return Ok(());
        }
        match tokens.with_tokens(|tokens| tokens.renewed(token, now)) {
            Ok(renewed) => *token = renewed,
            Err(denied) => return Err(Problem::unauthorized(denied.to_string())),
        }
        self.need.of(token)?;
        self.generation = generation;
        Ok(())
    }
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Read => "read",
        Action::Write => "write",
    }
}

fn quoted(key: &[u8]) -> String {
    format!("\"{}\"", clip(&String::from_utf8_lossy(key)))
}

/// Extracts the secret from `Bearer SECRET` or `Basic base64(USER:SECRET)`.
fn secret_in(value: &str) -> Option<String> {
    let (scheme, rest) = value.trim().split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
    // A user's name has no colon (RFC 7617), so the first one ends it.
    text.split_once(':').map(|(_, password)| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_bearer_token_or_the_password_of_any_user() {
        for (value, secret) in [
            ("Bearer s", Some("s")),
            ("bearer  s ", Some("s")),
            ("Basic dTpz", Some("s")),
            ("basic OnM=", Some("s")),
            ("Basic dTpzOnQ=", Some("s:t")),
            ("Basic dQ==", None),
            ("Basic !", None),
            ("Basic /w==", None),
            ("Digest s", None),
            ("s", None),
            ("", None),
        ] {
            assert_eq!(secret_in(value).as_deref(), secret, "{value}");
        }
    }
}
