//! When the server began and ended to refuse requests for want of room.
//!
//! Why: a client refuses to believe that it was turned away, and a counter does not say when.
//!
//! Invariants: one event at the beginning and one at the end, however many requests are refused. The end is [`QUIET`] without a refusal.
//!
//! See also: what is counted of each (`telemetry::metrics`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::http::request::handler_context::ServerContext;
use crate::telemetry::metrics::Overload;
use crate::telemetry::node_events::{Kind, NodeEvents};

/// The time without a refusal after which an overload is over.
const QUIET: Duration = Duration::from_secs(5);

/// The overload of a server, if there is one.
#[derive(Debug, Default)]
pub(crate) struct OverloadPeriod(Mutex<Option<Period>>);

#[derive(Debug, Clone, Copy)]
struct Period {
    began: Instant,
    last: Instant,
    refused: u64,
}

impl ServerContext {
    /// Counts a request or a connection that was refused for want of room.
    pub(crate) fn count_overload(&self, why: Overload) {
        self.metrics().http.overloaded(why);
        self.overload.refused(self.events_of_node(), why);
    }
}

impl OverloadPeriod {
    /// Notes a refused request.
    pub(crate) fn refused(self: &Arc<Self>, events: &Arc<NodeEvents>, why: Overload) {
        let now = Instant::now();
        let mut period = self.period();
        if let Some(period) = period.as_mut() {
            (period.last, period.refused) = (now, period.refused + 1);
            return;
        }
        *period = Some(Period { began: now, last: now, refused: 1 });
        drop(period);
        events.note(Kind::OverloadBegan { why: why.as_str() });
        tokio::spawn(Arc::clone(self).end(Arc::clone(events)));
    }

    /// Waits for the end.
    async fn end(self: Arc<Self>, events: Arc<NodeEvents>) {
        loop {
            let Some(until) = self.period().map(|period| period.last + QUIET) else { return };
            sleep_until(until).await;
            let ended = self.period().take_if(|period| period.last + QUIET <= Instant::now());
            if let Some(Period { began, last, refused }) = ended {
                let ms = u64::try_from((last - began).as_millis()).unwrap_or(u64::MAX);
                return events.note(Kind::OverloadEnded { ms, refused });
            }
        }
    }

    fn period(&self) -> MutexGuard<'_, Option<Period>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    #[tokio::test(start_paused = true)]
    async fn an_overload_has_one_beginning_and_one_end() {
        let (overload, events) = (Arc::<OverloadPeriod>::default(), Arc::<NodeEvents>::default());
        let kinds = || events.read(Some(0), 9).events.iter().map(|event| event.kind.clone()).collect::<Vec<_>>();
        for _ in 0..3 {
            overload.refused(&events, Overload::Watchers);
            sleep(QUIET / 2).await;
        }
        assert_eq!(kinds(), [Kind::OverloadBegan { why: "watchers" }]);
        sleep(QUIET).await;
        assert_eq!(kinds()[1..], [Kind::OverloadEnded { ms: 5000, refused: 3 }]);
        overload.refused(&events, Overload::Bodies);
        assert_eq!(kinds()[2..], [Kind::OverloadBegan { why: "bodies" }]);
    }
}
