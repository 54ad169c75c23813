//! Warnings of settings and files that contradict what is probably meant, though a node can start with them.
//!
//! See also: `config::tls` (contradictions that no node starts with), [`crate::auth::TokenStore`] (the mode of the token file).

use slog::{Logger, warn};

use crate::auth::TokenStore;
use crate::http;
use crate::trust::{ClientAuth, Mode};

/// Warns, at the start, of clients that get in without a certificate, of a certificate that no client can verify, and of tokens that no
/// client can have.
pub(super) fn at_start(options: &http::Options, log: &Logger) {
    let asks = asks_for_certificates(options);
    if let Some(tls) = &options.tls {
        if asks && tls.mode == Mode::Accept {
            warn!(
                log,
                "tls.http is accept: plain connections are served without a client certificate, whatever \
                tls.http_client_auth says; set tls.http to on once all clients use https://"
            );
        }
        let info = tls.acceptor.credentials().info();
        if !info.has_names() {
            warn!(log, "the certificate of the HTTP port has no names (subject alternative name), so clients refuse it; issue one with \
                the hosts that they dial, as huskv certs node does"; "certificate" => info.to_string());
        }
    }
    if let Some(tokens) = &options.tokens {
        of_unusable_tokens(tokens, asks, log);
    }
}

/// Whether the HTTP port asks clients for certificates.
pub(super) fn asks_for_certificates(options: &http::Options) -> bool {
    options.tls.as_ref().is_some_and(|tls| tls.acceptor.client_auth() != ClientAuth::None)
}

/// Warns of tokens that client certificates stand for, where none is asked for.
pub(super) fn of_unusable_tokens(tokens: &TokenStore, asks_for_certificates: bool, log: &Logger) {
    let (by_certificate, all) = tokens.with_tokens(|tokens| (tokens.with_certificate(), tokens.len()));
    if by_certificate > 0 && !asks_for_certificates {
        warn!(log, "no client can use the tokens with `cert`: the HTTP port asks for no client certificates; set tls.http_client_auth to \
            optional or required, or give the tokens a sha256"; "tokens_with_cert" => by_certificate, "tokens" => all);
    }
}
