//! Stop conditions: SIGTERM, SIGINT, or the end of the process that started the node.
//!
//! Why: the demo's nodes must not outlive it, even when it is killed. Its end closes their standard input, which needs no
//! signal and works wherever there are pipes. Over the same pipe it isolates a node from its peers, and ends that.
//!
//! Invariants: SIGHUP does not stop a node: neither a terminal that closes nor a supervisor that means "reload" ends it. It
//! wakes the reload of the settings.
//!
//! See also: [`crate::node`] (what a stop does), [`super::reload`].

use std::io::{self, BufRead};
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot};

use crate::transport::isolation;

/// The line on standard input that isolates the node from its peers.
pub const ISOLATE: &str = "isolate";
/// The line that ends this.
pub const RECONNECT: &str = "reconnect";

/// The conditions that stop a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM and SIGINT.
    Signals,
    /// SIGTERM, SIGINT, and the end of standard input, whose lines [`ISOLATE`] and [`RECONNECT`] are obeyed.
    SignalsAndStdin,
}

/// The installed handlers of the stop conditions.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    stdin: Option<oneshot::Receiver<()>>,
    /// Notified at each SIGHUP.
    pub(super) reload: Arc<Notify>,
}

impl Stop {
    /// Installs the handlers; from then on the signals do not end the process by themselves.
    pub(super) fn listen(self) -> io::Result<StopSignals> {
        let stdin = match self {
            Self::Signals => None,
            Self::SignalsAndStdin => Some(follow_stdin()?),
        };
        Ok(StopSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            stdin,
            reload: Arc::default(),
        })
    }
}

impl StopSignals {
    /// Waits for the first of them and returns its name.
    pub(super) async fn wait(&mut self) -> &'static str {
        let stdin = async {
            match &mut self.stdin {
                Some(ended) => drop(ended.await),
                None => std::future::pending().await,
            }
            // A receiver that has ended must not be asked again.
            self.stdin = None;
        };
        // The stream ends where the runtime can receive no signals; then the node must stop, or none could stop it.
        let hangups = async {
            while self.hangup.recv().await.is_some() {
                self.reload.notify_one();
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = stdin => "standard input ended",
            () = hangups => "signals cannot be received",
        }
    }
}

/// Obeys standard input to its end, on a thread of its own, because a blocking read from a pipe cannot be cancelled.
fn follow_stdin() -> io::Result<oneshot::Receiver<()>> {
    let (ended, wait) = oneshot::channel();
    // Paused, it would not see the end of its input, should the demo be killed meanwhile.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::CONT))?;
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            match line.as_str() {
                ISOLATE => isolation::set(true),
                RECONNECT => isolation::set(false),
                _ => {}
            }
        }
        ended.send(()).ok();
    })?;
    Ok(wait)
}
