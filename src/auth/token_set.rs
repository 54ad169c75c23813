//! Tokens with their grants, and the lookup of the token behind a secret.
//!
//! Why: what a client may do follows from one table, which fits in memory and is compared as a whole.
//!
//! Invariants: a secret is compared with every token, without an early end, so the time of an answer says nothing about hashes. What no
//! grant allows is denied; grants add up.
//!
//! Example: `{prefix = "a/", do = ["read"]}` and `{prefix = "a/b/", do = ["write"]}` allow to read all of `a/`, and to write below
//! `a/b/` only.

use std::sync::Arc;
use std::time::SystemTime;

use subtle::{ConditionallySelectable, ConstantTimeEq};
use thiserror::Error;

use super::expiry::format_time;
use super::secret::{self, Malformed};
use crate::model::TokenName;

/// What a grant allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Gets, lists and watches.
    Read,
    /// Puts, removals and renewals.
    Write,
}

/// What is allowed for all keys with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub(super) prefix: String,
    pub(super) read: bool,
    pub(super) write: bool,
}

/// What shows that a client has the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credential {
    /// The SHA-256 hash of its secret.
    Sha256([u8; 32]),
    /// The subject of its certificate.
    Certificate(String),
}

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub(super) name: TokenName,
    pub(super) credential: Credential,
    pub(super) grants: Vec<Grant>,
    pub(super) admin: bool,
    pub(super) metrics: bool,
    pub(super) expires: Option<SystemTime>,
}

/// Why a client has no token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Denied {
    /// The text is no secret.
    #[error("the token is not valid: {0}")]
    Malformed(#[from] Malformed),
    /// No token has this secret or certificate.
    #[error("no token of this node has this secret")]
    Unknown,
    /// The token has expired.
    #[error("token {name:?} has expired at {at}")]
    Expired {
        /// Its name.
        name: String,
        /// When it has.
        at: String,
    },
}

/// All tokens of a file.
#[derive(Debug, Clone, Default)]
pub struct TokenSet(pub(super) Vec<Arc<Token>>);

impl Token {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &TokenName {
        &self.name
    }

    /// Whether it may do everything.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.admin
    }

    /// Whether it may read the figures of the node.
    #[must_use]
    pub fn allows_metrics(&self) -> bool {
        self.admin || self.metrics
    }

    /// Whether it may do this to every key that begins with `prefix`; a key is the prefix of itself.
    #[must_use]
    pub fn allows(&self, action: Action, prefix: &[u8]) -> bool {
        let granted = |grant: &Grant| match action {
            Action::Read => grant.read,
            Action::Write => grant.write,
        };
        self.admin || self.grants.iter().any(|grant| granted(grant) && prefix.starts_with(grant.prefix.as_bytes()))
    }

    /// Whether it has expired.
    #[must_use]
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    fn unless_expired(self: Arc<Self>, now: SystemTime) -> Result<Arc<Self>, Denied> {
        match self.expires {
            Some(at) if self.has_expired(now) => {
                Err(Denied::Expired { name: self.name.to_string(), at: format_time(at) })
            }
            _ => Ok(self),
        }
    }
}

impl TokenSet {
    /// The number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The number of those that a client certificate stands for.
    #[must_use]
    pub fn with_certificate(&self) -> usize {
        self.0.iter().filter(|token| matches!(token.credential, Credential::Certificate(_))).count()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Finds the token with this secret.
    ///
    /// # Errors
    /// [`Denied`] where there is none, or where it has expired.
    pub fn authenticate(&self, secret: &str, now: SystemTime) -> Result<Arc<Token>, Denied> {
        let hash = secret::hash(secret)?;
        // No early end: all places are compared, and the one that is equal is selected without a branch.
        let mut found = u64::MAX;
        for (place, token) in (0_u64..).zip(&self.0) {
            let Credential::Sha256(known) = &token.credential else { continue };
            found.conditional_assign(&place, known.ct_eq(&hash));
        }
        let token = usize::try_from(found).ok().and_then(|place| self.0.get(place)).ok_or(Denied::Unknown)?;
        Arc::clone(token).unless_expired(now)
    }

    /// Finds the token of the client certificate with this subject; None without a certificate.
    ///
    /// # Errors
    /// [`Denied`] where there is none, or where it has expired.
    pub fn authenticate_certificate(
        &self,
        subject: Option<&str>,
        now: SystemTime,
    ) -> Result<Option<Arc<Token>>, Denied> {
        let Some(subject) = subject else { return Ok(None) };
        // A subject is public, so this needs no constant time.
        let has_subject =
            |token: &&Arc<Token>| matches!(&token.credential, Credential::Certificate(known) if known == subject);
        let token = self.0.iter().find(has_subject).ok_or(Denied::Unknown)?;
        Arc::clone(token).unless_expired(now).map(Some)
    }

    /// Returns the present form of a token that was authenticated earlier: the one with the same secret or certificate.
    ///
    /// # Errors
    /// [`Denied`] where there is none any more, or where it has expired.
    pub fn renewed(&self, token: &Token, now: SystemTime) -> Result<Arc<Token>, Denied> {
        let same = self.0.iter().find(|other| other.credential == token.credential).ok_or(Denied::Unknown)?;
        Arc::clone(same).unless_expired(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::auth::{Secret, parse};

    fn token(grants: &[(&str, bool, bool)], admin: bool) -> Token {
        let grants = grants.iter().map(|&(prefix, read, write)| Grant { prefix: prefix.into(), read, write }).collect();
        let credential = Credential::Sha256([0; 32]);
        Token { name: "t".parse().unwrap(), credential, grants, admin, metrics: false, expires: None }
    }

    #[test]
    fn what_no_grant_allows_is_denied_and_grants_add_up() {
        let two = token(&[("a/", true, false), ("a/b/", false, true)], false);
        let every = token(&[("", true, false)], false);
        for (token, action, prefix, allowed) in [
            (&two, Action::Read, "a/", true),
            (&two, Action::Read, "a/x", true),
            (&two, Action::Read, "a/b/c", true),
            (&two, Action::Write, "a/b/c", true),
            (&two, Action::Write, "a/b/", true),
            (&two, Action::Write, "a/b", false),
            (&two, Action::Write, "a/x", false),
            (&two, Action::Read, "a", false),
            (&two, Action::Read, "", false),
            (&two, Action::Read, "b", false),
            (&every, Action::Read, "", true),
            (&every, Action::Read, "b", true),
            (&every, Action::Write, "b", false),
            (&token(&[], true), Action::Write, "", true),
            (&token(&[], false), Action::Read, "a", false),
        ] {
            assert_eq!(token.allows(action, prefix.as_bytes()), allowed, "{token:?} {action:?} {prefix:?}");
        }
    }

    #[test]
    fn a_secret_finds_its_token_until_it_expires() {
        let [one, two] = [(); 2].map(|()| Secret::generate().unwrap());
        let hex = |secret: &Secret| {
            let hash = secret::hash(secret.expose()).unwrap();
            hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let text = format!(
            "[[token]]\nname = \"one\"\nsha256 = \"{}\"\nadmin = true\n[[token]]\nname = \"two\"\nsha256 = \"{}\"\n\
             admin = true\nexpires = \"2000-01-01T00:00:00Z\"\n[[token]]\nname = \"three\"\ncert = \"CN=c\"\nadmin = true\n",
            hex(&one),
            hex(&two).to_uppercase()
        );
        let set = parse(text.as_bytes()).unwrap();
        let before = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let name = |found: Result<Arc<Token>, Denied>| found.map(|token| token.name().to_string());
        assert_eq!(name(set.authenticate(one.expose(), SystemTime::now())), Ok("one".into()));
        assert_eq!(name(set.authenticate(two.expose(), before)), Ok("two".into()));
        let expired = set.authenticate(two.expose(), SystemTime::now()).unwrap_err();
        assert_eq!(expired.to_string(), "token \"two\" has expired at 2000-01-01T00:00:00Z");
        let other = Secret::generate().unwrap();
        assert_eq!(name(set.authenticate(other.expose(), before)), Err(Denied::Unknown));
        assert_eq!(name(set.authenticate("x", before)), Err(Denied::Malformed(Malformed::Form)));
        assert_eq!(name(TokenSet::default().authenticate(one.expose(), before)), Err(Denied::Unknown));

        let subject = |subject| {
            set.authenticate_certificate(subject, before).map(|found| found.map(|token| token.name().to_string()))
        };
        assert_eq!(subject(None), Ok(None));
        assert_eq!(subject(Some("CN=c")), Ok(Some("three".into())));
        assert_eq!(subject(Some("CN=C")), Err(Denied::Unknown));

        let held = set.authenticate(two.expose(), before).unwrap();
        assert_eq!(name(set.renewed(&held, before)), Ok("two".into()));
        assert!(matches!(set.renewed(&held, SystemTime::now()), Err(Denied::Expired { .. })));
        assert_eq!(name(TokenSet::default().renewed(&held, before)), Err(Denied::Unknown));
    }
}
