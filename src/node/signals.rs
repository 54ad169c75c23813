//! When to stop: SIGTERM, SIGINT, or the end of the process that started the node.
//!
//! Why: the demo's nodes must not outlive it, even when it is killed outright. Its end closes their standard input, which
//! needs no signal and works wherever there are pipes.
//!
//! Laws: SIGHUP stops nothing: a terminal that closes, or a supervisor that means "reload", must not end a node.
//!
//! Not here: what a stop does ([`crate::node`]).

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// What makes a node stop, before it is listened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM and SIGINT.
    Signals,
    /// These, and the end of standard input.
    SignalsAndStdin,
}

/// What makes a node stop, listened for.
pub(super) struct Stopping {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    stdin: Option<oneshot::Receiver<()>>,
}

impl Stop {
    /// Begins to listen; from then on the signals no longer end the process by themselves.
    pub(super) fn listen(self) -> io::Result<Stopping> {
        let stdin = match self {
            Self::Signals => None,
            Self::SignalsAndStdin => Some(end_of_stdin()?),
        };
        Ok(Stopping {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            stdin,
        })
    }
}

impl Stopping {
    /// Waits for any of them and says which.
    pub(super) async fn wait(&mut self) -> &'static str {
        let stdin = async {
            match &mut self.stdin {
                Some(ended) => drop(ended.await),
                None => std::future::pending().await,
            }
        };
        let hangups = async { while self.hangup.recv().await.is_some() {} };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = stdin => "standard input ended",
            () = hangups => "signals can no longer be received",
        }
    }
}

/// Reads standard input on a thread of its own, since a read from a pipe cannot be given up, until it ends.
fn end_of_stdin() -> io::Result<oneshot::Receiver<()>> {
    let (ended, wait) = oneshot::channel();
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        drop(io::copy(&mut io::stdin().lock(), &mut io::sink()));
        ended.send(()).ok();
    })?;
    Ok(wait)
}
