//! Access: TLS or plain HTTP, and the token that a client sends.
//!
//! Why: a token is as good as its owner, so where it may go is decided in one place.
//!
//! Invariants: a token is in no message and in no `Debug` output. It is sent over TLS or to this machine only (`dialer`), to
//! the endpoints that the caller named, since the client uses no others (`endpoints`) and follows no redirect.
//!
//! See also: [`crate::trust::connector`], RFC 6750 (bearer tokens).

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use crate::trust::connector::TlsConnector;

/// The maximum length of a token.
const MAX_TOKEN_BYTES: usize = 4096;

/// How a client reaches its endpoints; by default with plain HTTP and without a token.
#[derive(Debug, Clone, Default)]
pub struct Access {
    pub(super) tls: Option<TlsConnector>,
    pub(super) token: Option<Token>,
}

impl Access {
    /// Access over TLS.
    #[must_use]
    pub fn over_tls(connector: TlsConnector) -> Self {
        Self { tls: Some(connector), token: None }
    }

    /// The same, with a token. Without TLS only endpoints on this machine can then be reached.
    #[must_use]
    pub fn with_token(self, token: Token) -> Self {
        Self { token: Some(token), ..self }
    }

    /// The scheme of its URLs.
    pub(super) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Adds the token to the headers of a request.
    pub(super) fn authorize(&self, headers: &mut HeaderMap) {
        if let Some(Token(header)) = &self.token {
            headers.insert(AUTHORIZATION, header.clone());
        }
    }
}

/// A bearer token.
#[derive(Clone)]
pub struct Token(HeaderValue);

/// The text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token is 1 to {MAX_TOKEN_BYTES} visible ASCII characters")]
pub struct InvalidToken;

impl Token {
    /// Checks that a header can hold `secret`.
    ///
    /// # Errors
    /// [`InvalidToken`], which does not have the text.
    pub fn new(secret: &str) -> Result<Self, InvalidToken> {
        let is_token = (1..=MAX_TOKEN_BYTES).contains(&secret.len()) && secret.bytes().all(|b| b.is_ascii_graphic());
        if !is_token {
            return Err(InvalidToken);
        }
        let mut header = HeaderValue::from_str(&format!("Bearer {secret}")).map_err(|_| InvalidToken)?;
        header.set_sensitive(true);
        Ok(Self(header))
    }

    /// Whether a request with these headers has this token. The time that this takes says nothing of it: keyed hashes are compared first.
    #[must_use]
    pub fn is_sent_in(&self, headers: &HeaderMap) -> bool {
        let keyed = RandomState::new();
        let is_equal = |sent: &HeaderValue| keyed.hash_one(sent) == keyed.hash_one(&self.0) && *sent == self.0;
        headers.get(AUTHORIZATION).is_some_and(is_equal)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Whether `host`, with or without brackets, is a name or an address of this machine only.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_address = bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    is_address || bare.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_in_no_debug_output_and_no_error() {
        let access = Access::default().with_token(Token::new("hkv_secret").unwrap());
        let mut headers = HeaderMap::new();
        access.authorize(&mut headers);
        assert_eq!(headers[AUTHORIZATION], "Bearer hkv_secret");
        let token = |secret| Token::new(secret).unwrap();
        assert!(token("hkv_secret").is_sent_in(&headers) && !token("hkv_secre").is_sent_in(&headers));
        assert!(!token("hkv_secret").is_sent_in(&HeaderMap::new()));
        let client = super::super::Client::with_access(["a:1"], super::super::Client::TIMEOUT, access.clone());
        for text in [format!("{access:?}"), format!("{headers:?}"), format!("{client:?}")] {
            assert!(!text.contains("secret"), "{text}");
        }
        for text in ["", "hkv_secret\n", "hkv secret", "hkv_s\u{e9}cret", &"s".repeat(4097)] {
            assert_eq!(Token::new(text).unwrap_err(), InvalidToken, "{text:?}");
        }
        assert!(!InvalidToken.to_string().contains("secret"));
    }

    #[test]
    fn loopback_is_this_machine_only() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "[::ffff:127.0.0.1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.org", "10.0.0.1", "0.0.0.0", "[::]", "127.0.0.1.nip.io", "kv1", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
