//! Reloads of the tokens: every 10 s by a look at the file, and at SIGHUP.
//!
//! Invariants: no wrong file ends a node that runs. Disk I/O is done on a thread for that.
//!
//! See also: [`crate::auth::TokenStore`] (what a reload does), [`super::stop_conditions`] (without tokens SIGHUP does nothing).

use std::sync::Arc;

use slog::{Logger, warn};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::{Error, system};
use crate::auth::TokenStore;

/// Begins to follow the token file, and warns where secrets cross a network that may be listened to.
pub(super) fn spawn(
    tokens: Option<&Arc<TokenStore>>,
    loopback: bool,
    log: &Logger,
) -> Result<Option<JoinHandle<()>>, Error> {
    let Some(tokens) = tokens.map(Arc::clone) else { return Ok(None) };
    if !loopback {
        warn!(
            log,
            "tokens travel over plain HTTP beyond this machine, and a listener on the network reads them; \
            put a proxy with TLS before the HTTP port"
        );
    }
    let mut hangup = signal(SignalKind::hangup()).map_err(system("cannot listen for signals"))?;
    Ok(Some(tokio::spawn(async move {
        let hangups = async {
            while hangup.recv().await.is_some() {
                let tokens = Arc::clone(&tokens);
                // What is wrong is in the log. A join error means that the runtime ends.
                drop(tokio::task::spawn_blocking(move || tokens.reload()).await);
            }
        };
        tokio::join!(Arc::clone(&tokens).follow(), hangups);
    })))
}
