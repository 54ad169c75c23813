//! What the log says while a node reads its directory.
//!
//! Why: a node with much to read is silent for seconds, and whoever waits for it must see that it goes on.
//!
//! Not here: what clients are told meanwhile (`http::server`).

use std::future::Future;
use std::time::Duration;

use slog::{Logger, info};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{Error, Opened};

/// How often the log says that the directory is still read.
const SAY_EVERY: Duration = Duration::from_secs(2);

/// Waits for the directory, and says in the log that it takes long and what was found.
pub(super) async fn told(log: &Logger, opening: impl Future<Output = Result<Opened, Error>>) -> Result<Opened, Error> {
    let begun = Instant::now();
    let mut opening = std::pin::pin!(opening);
    let mut ticks = interval_at(begun + SAY_EVERY, SAY_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            opened = &mut opening => {
                let opened = opened?;
                let (journal, state_machine) = (&opened.incarnation.journal, &opened.incarnation.state_machine);
                info!(log, "the directory is read"; "ms" => u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                    "keys" => state_machine.keys(), "applied" => state_machine.applied().0, "last_log_index" => journal.last_index());
                return Ok(opened);
            }
            _ = ticks.tick() => {
                info!(log, "still reading the directory; clients are answered 503 starting"; "seconds" => begun.elapsed().as_secs());
            }
        }
    }
}
