//! Progress lines in the log while a node opens its data directory.
//!
//! Why: a large directory takes many seconds to open, and an operator must see that the start goes on.
//!
//! See also: `http::server`, which answers clients with 503 `starting` meanwhile.

use std::future::Future;
use std::time::Duration;

use slog::{Logger, info};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{Error, Opened};

/// The interval of progress lines.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Awaits `opening`, logs every two seconds that it goes on, and logs what the directory holds.
pub(super) async fn logged(
    log: &Logger,
    opening: impl Future<Output = Result<Opened, Error>>,
) -> Result<Opened, Error> {
    let begun = Instant::now();
    let mut opening = std::pin::pin!(opening);
    let mut ticks = interval_at(begun + PROGRESS_EVERY, PROGRESS_EVERY);
    // One line after a pause of the machine, not one for each missed interval.
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
