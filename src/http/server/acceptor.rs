//! Accepting connections, and sending away those that find no place or come during a stop.
//!
//! Why: a connection that is left in the system's queue hangs, and one that is in it when the port closes is reset. Both
//! look like a broken node; a 503 says what to do.
//!
//! Laws: whoever is sent away costs no task and no wait ([`super::lingering_close`]). What waits when the port closes is answered
//! before that.
//!
//! Not here: who finds a place ([`super::connection_slots`]).

use std::future::{Future, pending};
use std::io;
use std::time::{Duration, Instant};

use slog::{Logger, debug, warn};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, sleep_until};

use super::lingering_close::{LINGER, LOOK_EVERY, LingeringCloses, last_word};
use super::memory_budget::Source;
use super::socket;
use crate::http::response::problem::Problem;
use crate::logging::LogLimits;

/// How long accepting pauses after an error, most likely no file left to open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the acceptor keeps of connections that have no place.
pub(crate) struct Acceptor {
    partings: LingeringCloses,
    look: Instant,
    log_limits: LogLimits,
    log: Logger,
}

impl Acceptor {
    /// Keeps at most `most` of them for a moment.
    pub(crate) fn new(most: usize, log: Logger) -> Self {
        Self { partings: LingeringCloses::new(most), look: Instant::now(), log_limits: LogLimits::default(), log }
    }

    /// The next connection and where it is from; None where something else was done.
    pub(crate) async fn next(&mut self, listener: &TcpListener) -> Option<(TcpStream, Source)> {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sleep_until(self.look.into()), if !self.partings.is_empty() => {
                self.partings.look();
                self.look = Instant::now() + LOOK_EVERY;
                return None;
            }
        };
        match accepted {
            Ok((stream, address)) => {
                if let Err(error) = socket::prepare(&stream) {
                    debug!(self.log, "an http connection stays as the system made it"; "error" => %error);
                }
                Some((stream, Source::of(address.ip())))
            }
            Err(error) => {
                // Whoever has had an answer is the first to go where files are short.
                self.partings.close_all();
                self.warn_limited("an http connection cannot be accepted", &error.to_string());
                sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }

    /// Logs a rate-limited warning.
    pub(crate) fn warn_limited(&self, reason: &'static str, detail: &str) {
        if let Some(suppressed) = self.log_limits.due(reason) {
            warn!(self.log, "{}", reason; "detail" => detail, "more_like_this" => suppressed);
        }
    }

    /// Sends a connection away with this answer.
    pub(crate) fn send_away(&mut self, stream: TcpStream, word: &[u8]) {
        // An error means that the runtime ends.
        if let Ok(stream) = stream.into_std() {
            self.partings.send_away(stream, word);
        }
    }

    /// Tells whoever comes that the node stops, until `drained` has ended; then whoever waits, before the port is closed.
    /// By `end` everybody has gone.
    pub(crate) async fn until(mut self, drained: impl Future<Output = ()>, listener: TcpListener, end: Instant) {
        let stopping = last_word(&Problem::stopping());
        let telling = async {
            loop {
                if let Some((stream, _)) = self.next(&listener).await {
                    self.send_away(stream, &stopping);
                }
            }
        };
        tokio::select! {
            () = drained => {}
            () = telling => pending().await,
        }
        self.tell_the_last(listener, &stopping);
        let end = end.min(Instant::now() + LINGER);
        while !self.partings.is_empty() && Instant::now() < end {
            sleep(LOOK_EVERY.min(end.saturating_duration_since(Instant::now()))).await;
            self.partings.look();
        }
    }

    fn tell_the_last(&mut self, listener: TcpListener, word: &[u8]) {
        let Ok(listener) = listener.into_std() else { return };
        // As many as can be waiting now; a client that asks again at once must not hold up the end.
        for _ in 0..socket::BACKLOG {
            match listener.accept() {
                Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => self.partings.send_away(stream, word),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody waits, or no file is left to take them.
                Err(_) => return,
            }
        }
    }
}
