//! The events of the node as server-sent events.
//!
//! Why: a page or a terminal that follows should not poll.
//!
//! Invariants: events come in order, each once; where a client is slower than the ring, the ids show the gap. A comment every few seconds
//! shows that the node is there. A stream whose token has lost its right ends with `denied`. A stream ends after the last event of a node
//! that stops.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::watch::Receiver;
use tokio::time::sleep;
use warp::Reply;
use warp::http::Method;
use warp::reply::Response;

use super::Wanted;
use crate::http::api::watch;
use crate::http::request::caller::{HeldRight, Need};
use crate::http::request::handler_context::{RequestContext, ServerContext};
use crate::http::response::problem::Problem;
use crate::http::server::client_socket::Fin;
use crate::http::server::watchers::WatcherSlot;
use crate::telemetry::node_events::NodeEvent;

/// The time between two comments.
const COMMENT_INTERVAL: Duration = Duration::from_secs(4);

/// A client that follows.
struct Follower {
    context: Arc<ServerContext>,
    right: HeldRight,
    /// The id of the last event that was sent.
    sent: u64,
    changes: Receiver<u64>,
    begun: bool,
    closed: bool,
    fin: Fin,
    _slot: WatcherSlot,
}

/// Serves a stream.
pub(super) fn serve(request: RequestContext, wanted: &Wanted) -> Result<Response, Problem> {
    let slot = request.context.watchers.take(request.holder.clone()).ok_or_else(Problem::watchers_full)?;
    let mut response = if request.method == Method::HEAD {
        Response::default()
    } else {
        let right = HeldRight::new(&request, Need::Metrics);
        let events = request.context.events_of_node();
        let changes = events.changes();
        let latest = || events.read(None, wanted.limit);
        let sent = wanted.since.unwrap_or_else(|| {
            let latest = latest();
            latest.events.first().map_or(latest.last, |first| first.id - 1)
        });
        let follower = Follower {
            right,
            sent,
            changes,
            begun: false,
            closed: false,
            fin: request.fin,
            _slot: slot,
            context: request.context,
        };
        warp::reply::stream(stream::unfold(follower, Follower::next)).into_response()
    };
    watch::set_stream_headers(&mut response);
    Ok(response)
}

impl Follower {
    /// Returns the next text of the stream, once there is some; None at the end.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if !std::mem::replace(&mut self.begun, true) {
            return Some((Ok(watch::retry_field().into()), self));
        }
        if self.closed {
            return None;
        }
        let context = Arc::clone(&self.context);
        let mut ends = false;
        loop {
            // Registered before right and events are looked at, or a change in between would wake nothing.
            let reloaded = context.watchers.changed();
            let mut reloaded = std::pin::pin!(reloaded);
            reloaded.as_mut().enable();
            self.changes.mark_unchanged();
            if let Err(problem) = self.right.check() {
                self.closed = true;
                return Some((Ok(watch::problem_event("denied", &problem).into()), self));
            }
            if let Some(event) = context.events_of_node().read(Some(self.sent), 1).events.first() {
                self.sent = event.id;
                let text = encode(context.events_of_node().boot(), event);
                return Some((Ok(text), self));
            }
            if ends {
                return None;
            }
            tokio::select! {
                changed = self.changes.changed() => ends = changed.is_err(),
                () = reloaded => {}
                () = context.feed().closed() => ends = true,
                () = sleep(COMMENT_INTERVAL) => return Some((Ok(watch::EMPTY_COMMENT.into()), self)),
                () = self.fin.seen() => return Some((Ok(watch::EMPTY_COMMENT.into()), self)),
            }
        }
    }
}

fn encode(boot: &str, event: &NodeEvent) -> Bytes {
    let data = serde_json::to_string(event).expect("events have string keys and numbers that JSON can hold");
    format!("id:{boot}.{}\nevent:{}\ndata:{data}\n\n", event.id, event.kind.name()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::node_events::{Kind, NodeEvents};

    #[test]
    fn an_event_is_three_fields_and_a_blank_line() {
        let events = NodeEvents::default();
        events.note(Kind::MemberRemoved { member: "a\nb".into() });
        let event = &events.read(None, 1).events[0];
        let text = String::from_utf8(encode("ab", event).to_vec()).unwrap();
        let lines: Vec<_> = text.split('\n').collect();
        assert_eq!(
            (lines.len(), lines[0], lines[1], lines[3], lines[4]),
            (5, "id:ab.1", "event:member_removed", "", "")
        );
        let data: serde_json::Value = serde_json::from_str(lines[2].strip_prefix("data:").unwrap()).unwrap();
        assert_eq!((&data["id"], &data["member"]), (&1.into(), &"a\nb".into()));
    }
}
