//! The part of `/raft/stats` about TLS, tokens and reloads.
//!
//! See also: [`super::status_json`] (the whole).

use serde::Serialize;

use crate::auth::{LastReload, TokenStore, format_time};
use crate::http::options::Options;
use crate::trust::Mode;
use crate::trust::credentials::CredentialStore;
use crate::trust::peer_tls::PeerTls;

/// The latest reload that was asked for.
#[derive(Serialize)]
pub(crate) struct ReloadStats {
    reloaded_at: String,
    reloaded_ok: bool,
    /// It names files and values of settings, so it is for admins.
    #[serde(skip_serializing_if = "Option::is_none")]
    reload_problem: Option<String>,
}

impl ReloadStats {
    /// Returns the stats of a reload, with the problem where it `shows_problem`.
    pub(crate) fn of(last: &LastReload, shows_problem: bool) -> Self {
        Self {
            reloaded_at: format_time(last.at),
            reloaded_ok: last.problem.is_none(),
            reload_problem: last.problem.clone().filter(|_| shows_problem),
        }
    }
}

/// TLS of both ports.
#[derive(Serialize)]
pub(super) struct TlsStats {
    tls_http: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_http_not_after: Option<String>,
    tls_peer: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_peer_not_after: Option<String>,
}

impl TlsStats {
    pub(super) fn of(options: &Options) -> Self {
        let not_after = |credentials: &CredentialStore| format_time(credentials.info().not_after);
        Self {
            tls_http: options.tls_mode().as_str(),
            tls_http_not_after: options.tls.as_deref().map(|tls| not_after(tls.acceptor.credentials())),
            tls_peer: options.peer_tls.as_deref().map_or(Mode::Off, PeerTls::mode).as_str(),
            tls_peer_not_after: options.peer_tls.as_deref().map(|tls| not_after(tls.credentials())),
        }
    }
}

/// The tokens of a node that wants them. The hash of the file shows whether all nodes have the same.
#[derive(Serialize)]
pub(super) struct TokenStats {
    auth_tokens_sha256: String,
    auth_tokens_reloaded_at: String,
    auth_tokens_reloaded_ok: bool,
}

impl TokenStats {
    pub(super) fn of(tokens: &TokenStore) -> Self {
        let last = tokens.last_reload();
        Self {
            auth_tokens_sha256: tokens.sha256(),
            auth_tokens_reloaded_at: format_time(last.at),
            auth_tokens_reloaded_ok: last.problem.is_none(),
        }
    }
}
