//! The reload of what can change while the node runs: every 10 s, and at SIGHUP.
//!
//! Why: certificates are renewed every few weeks or months and tokens change any day; a restart for that would cost an election.
//!
//! Invariants: the files are read on a thread for blocking work, one reload at a time. A failed reload changes nothing and is
//! tried again soon, because it may have met a replacement that was half done.
//!
//! See also: [`crate::trust::credentials`] (what is read, and when it is used).

use std::sync::Arc;
use std::time::Duration;

use slog::{Logger, info, warn};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::access_warnings;
use crate::auth::TokenStore;
use crate::http;
use crate::trust::Mode;
use crate::trust::credentials::{CredentialStore, Reload};
use crate::trust::expiry::ExpiryLog;

/// The interval of reloads.
const INTERVAL: Duration = Duration::from_secs(10);
/// The interval while the files are wrong.
const RETRY: Duration = Duration::from_secs(2);

/// What is reloaded.
pub(super) struct Reloader {
    /// The certificates of the HTTP port, where it uses TLS.
    pub(super) http: Option<Arc<CredentialStore>>,
    /// The certificates of the peer port, where it uses TLS.
    pub(super) peer: Option<Arc<CredentialStore>>,
    /// The tokens, where requests need one.
    pub(super) tokens: Option<Arc<TokenStore>>,
    /// Whether the HTTP port asks clients for certificates.
    pub(super) asks_for_certificates: bool,
    /// Where the node logs.
    pub(super) log: Logger,
}

impl Reloader {
    /// Reloads at SIGHUP and in intervals, until it is aborted.
    pub(super) async fn run(self, hangup: Arc<Notify>) {
        let reloader = Arc::new(self);
        let mut expiry = [ExpiryLog::default(), ExpiryLog::default()];
        let mut wait = INTERVAL;
        loop {
            for (log, (port, store)) in expiry.iter_mut().zip([("http", &reloader.http), ("peer", &reloader.peer)]) {
                store.iter().for_each(|store| log.check(port, &store.info(), &reloader.log));
            }
            let asked = timeout(wait, hangup.notified()).await.is_ok();
            let reload = Arc::clone(&reloader);
            // An error means that the process ends.
            let Ok(failed) = tokio::task::spawn_blocking(move || reload.reload(asked)).await else { return };
            wait = if failed { RETRY } else { INTERVAL };
        }
    }

    /// Reads everything again; true where something was wrong. Where it was asked for by a signal, an unchanged state is
    /// logged, too.
    fn reload(&self, asked: bool) -> bool {
        let tokens = self.tokens.as_ref().map_or(Ok(()), |tokens| {
            let before = tokens.generation();
            let reloaded = tokens.reload(asked);
            if tokens.generation() != before {
                access_warnings::of_unusable_tokens(tokens, self.asks_for_certificates, &self.log);
            }
            reloaded
        });
        let stores = [&self.http, &self.peer].into_iter().flatten();
        let certificates: Vec<Reload> = stores.map(|store| store.reload(&self.log)).collect();
        if asked && !certificates.is_empty() && certificates.iter().all(|it| matches!(it, Reload::Unchanged)) {
            info!(self.log, "SIGHUP: the certificates are unchanged");
        }
        tokens.is_err() || certificates.iter().any(|it| matches!(it, Reload::Failed(_)))
    }
}

/// Warns where the secrets of tokens cross a network that may be listened to.
pub(super) fn warn_of_plain_tokens(options: &http::Options, log: &Logger) {
    if options.tokens.is_some() && !options.loopback && options.tls_mode() != Mode::On {
        warn!(
            log,
            "tokens travel over plain HTTP beyond this machine, and a listener on the network reads them; set tls.dir and tls.http \
            (docs/tls.md), or put a proxy with TLS before the HTTP port"
        );
    }
}
