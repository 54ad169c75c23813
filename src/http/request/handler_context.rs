//! The contexts of handlers: what all of them share, and one request.
//!
//! Why: the handlers of all routes need the same of the node and of their request. A request that the consensus loop does not answer
//! gets a response all the same ([`super::loop_wait`]), with what is known then.
//!
//! Invariants: the loop is asked at most once for a request, and not at all for one that is refused here. Status requests
//! take one slot of the queue that peers use, however many clients ask.
//!
//! See also: routes ([`crate::http::routes`]), responses ([`crate::http::response::success`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use tokio::time::timeout;
use warp::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use warp::http::request::Parts;
use warp::http::{Method, Uri};
use warp::reply::Response;

use super::body::{self, Body, BodyQuota};
use super::caller::Caller;
use super::client_certificate::ClientCertificate;
use super::loop_wait::{Ending, NoAnswer};
use super::media_type;
use super::timers::Timers;
use super::unread_body::RequestBody;
use super::uri::Deadline;
use crate::auth::LastReload;
use crate::changefeed::ChangeFeed;
use crate::consensus::{Bounds, Consistency, Fetched, Handle, Listed, Names};
use crate::http::audit::Trail;
use crate::http::clients::RequestClient;
use crate::http::metrics;
use crate::http::node_events::overload::OverloadPeriod;
use crate::http::options::Options;
use crate::http::reload::{Present, Reloadable};
use crate::http::response::node_headers::NodeHeaders;
use crate::http::response::problem::{Problem, clip};
use crate::http::server::client_socket::Fin;
use crate::http::server::fair_memory::{Budget, Holder, Share};
use crate::http::server::watchers::WatcherSlots;
use crate::model::{Answer, Code, List, Millis, Refusal, Request, Status, TXN_BYTES};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::node_events::NodeEvents;

/// The budget of bodies in units of the longest body, at least: a JSON body is in memory twice while it is parsed, and the
/// first share of an address may leave as much for others.
const BODY_COPIES: usize = 4;

/// What all handlers of a server share.
pub(crate) struct ServerContext {
    /// The server's options.
    pub(crate) options: Options,
    present: ArcSwap<Present>,
    /// The latest reload of the settings; None before the first.
    pub(crate) last_reload: ArcSwapOption<LastReload>,
    /// The consensus loop.
    pub(crate) handle: Handle,
    bodies: Arc<Budget>,
    answers: Arc<Budget>,
    transactions: Arc<Budget>,
    renewals: Arc<Budget>,
    /// The budget of events that are partly sent.
    pub(crate) events: Arc<Budget>,
    /// The `Keep-Alive` header, unless the idle timeout is less than a second.
    pub(crate) keep_alive: Option<HeaderValue>,
    /// The slots of watchers.
    pub(crate) watchers: Arc<WatcherSlots>,
    /// The headers of the names that the loop has published last.
    node_headers: ArcSwap<NodeHeaders>,
    /// Whether requests are refused for want of room.
    pub(crate) overload: Arc<OverloadPeriod>,
    /// The timers of requests.
    pub(super) timers: Timers,
    /// Whether the process is about to end, so that no request waits for the loop any more.
    pub(super) ending: Ending,
}

/// One request, whose body is not read yet.
pub(crate) struct RequestContext {
    /// What all handlers share.
    pub(crate) context: Arc<ServerContext>,
    /// Its method.
    pub(crate) method: Method,
    /// Its target, not decoded.
    uri: Uri,
    /// Where the rest of the path begins that its route has not matched.
    tail_at: usize,
    /// When its head had arrived.
    pub(crate) arrived: Instant,
    /// Whose shares it takes.
    pub(crate) holder: Holder,
    /// Signals the client's FIN.
    pub(crate) fin: Fin,
    /// Which client asks, by its token.
    pub(crate) caller: Caller,
    /// The certificate of its connection.
    pub(crate) certificate: ClientCertificate,
    /// What is noted for the audit file, where there is one.
    pub(crate) trail: Option<Trail>,
    /// Its headers.
    pub(crate) headers: HeaderMap,
    body: RequestBody,
}

impl ServerContext {
    /// Creates the context of a server with these options.
    pub(crate) fn new(handle: Handle, options: Options) -> Self {
        Self {
            present: ArcSwap::from_pointee(Present::new(&options)),
            last_reload: ArcSwapOption::empty(),
            // At least as much as one body or response of the longest kind takes, or it could never be accepted.
            bodies: Budget::new(options.budgets.bodies.max(BODY_COPIES * options.body_bytes)),
            answers: Budget::new(options.budgets.answers.max(options.body_bytes)),
            transactions: Budget::new(options.budgets.transactions.max(TXN_BYTES)),
            events: Budget::new(options.budgets.events),
            renewals: Budget::new(options.budgets.renewals.max(options.value_bytes)),
            keep_alive: keep_alive(options.idle_timeout),
            watchers: WatcherSlots::new(options.watchers, options.connections),
            node_headers: ArcSwap::from_pointee(NodeHeaders::of(handle.names())),
            options,
            handle,
            overload: Arc::default(),
            timers: Timers::default(),
            ending: Ending::default(),
        }
    }

    /// What requests are checked by at present.
    pub(crate) fn present(&self) -> Guard<Arc<Present>> {
        self.present.load()
    }

    /// The timeout of a request without `?timeout=`.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.present.load().request_timeout
    }

    /// Uses these options from now on.
    pub(crate) fn apply(&self, new: Reloadable) {
        self.watchers.set_max(new.watchers, self.options.connections);
        self.options.limiter.set(new.requests_per_second, new.request_burst);
        self.options.trusted_proxies.set(new.trusted_proxies.clone());
        self.present.store(Arc::new(Present::changed(&self.options, new)));
    }

    /// Sends `request` to the loop, which forwards it to the leader where the node is a follower.
    pub(crate) async fn request(&self, request: Request, deadline: Deadline) -> Result<Answer, Problem> {
        let code = if matches!(request, Request::Join { .. }) { Code::JoinUnfinished } else { Code::Timeout };
        let left = deadline.left();
        let (is_write, began) = (matches!(request, Request::Write(_)), Instant::now());
        let answer = self.answer_of(left, self.handle.request(request, left)).await;
        // The loop has the request and may still propose it, so neither case may say `not_applied`.
        let no_answer = |reason| match reason {
            NoAnswer::Late | NoAnswer::Stalled => {
                Refusal::unknown(code, "the node's loop did not answer by the deadline; its disk may be slow")
            }
            NoAnswer::Ending => Refusal::unknown(
                Code::Stopping,
                "the node stops, and its loop has not answered the request; its disk may be slow",
            ),
        };
        let result = answer.map_err(no_answer).and_then(|result| result);
        if is_write {
            metrics::count_write(&self.metrics().proposals, &result, began.elapsed());
        }
        Ok(result?)
    }

    /// The change feed of the node.
    pub(crate) fn feed(&self) -> &ChangeFeed {
        self.handle.feed()
    }

    /// The figures of the process.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        self.handle.metrics()
    }

    /// The events of the node.
    pub(crate) fn events_of_node(&self) -> &Arc<NodeEvents> {
        self.handle.events()
    }

    /// The present time of the clock that the feed uses.
    pub(crate) fn now(&self) -> Millis {
        self.handle.clock().now()
    }

    /// Returns the failure of all requests before the loop's first turn has ended: until then the node reads its data
    /// directory, which may take longer than a client waits.
    pub(crate) fn starting(&self) -> Option<Problem> {
        let starts = !self.handle.is_serving();
        let detail = "this node is starting and reads its data directory; use another node, or wait";
        starts.then(|| Refusal::not_applied(Code::Starting, detail).into())
    }

    /// The names of this node, of the leader and of the members' hosts, as far as the node knows them.
    pub(crate) fn names(&self) -> Arc<Names> {
        self.handle.names()
    }

    /// How long ago the loop ended its last turn, None before the first; and whether it waits for the disk.
    pub(crate) fn silence(&self) -> (Option<Duration>, bool) {
        (self.handle.silence(), self.handle.is_waiting_for_disk())
    }

    /// Adds the headers with the cluster id, the node and the leader, as far as the node knows them.
    pub(crate) fn with_node_headers(&self, mut response: Response) -> Response {
        let names = self.handle.names();
        let mut last = self.node_headers.load();
        if !last.are_of(&names) {
            self.node_headers.store(Arc::new(NodeHeaders::of(names)));
            last = self.node_headers.load();
        }
        last.insert_into(response.headers_mut());
        response
    }

    /// Reads one key through the loop.
    pub(crate) async fn read(
        &self,
        key: Vec<u8>,
        fresh: (Consistency, Bounds),
        deadline: Deadline,
    ) -> Result<Fetched, Problem> {
        let left = deadline.left();
        let fetched = self.answer_unless_stalled(left, self.handle.read(key, fresh, left)).await;
        self.counted_read(
            fetched.map_or_else(|reason| Err(unanswered_read(reason, fresh.0)), |fetched| Ok(fetched?)),
            fresh.0,
        )
    }

    /// Reads a page of keys, with leave of the loop, and renders it.
    pub(crate) async fn list<R: Send + 'static>(
        &self,
        list: List,
        fresh: (Consistency, Bounds),
        deadline: Deadline,
        render: impl FnOnce(Listed) -> R + Send + 'static,
    ) -> Result<R, Problem> {
        let left = deadline.left();
        let rendered = self.answer_unless_stalled(left, self.handle.list(list, fresh, left, render)).await;
        self.counted_read(
            rendered.map_or_else(|reason| Err(unanswered_read(reason, fresh.0)), |rendered| Ok(rendered?)),
            fresh.0,
        )
    }

    /// Counts the failure of a linearizable read.
    fn counted_read<T>(&self, read: Result<T, Problem>, consistency: Consistency) -> Result<T, Problem> {
        if consistency == Consistency::Linearizable && read.is_err() {
            self.metrics().reads.read_indexes_failed.inc();
        }
        read
    }

    /// Makes a checkpoint of the state machine.
    pub(crate) async fn snapshot(&self, deadline: Deadline) -> Result<(), Problem> {
        let left = deadline.left();
        let taken = self.answer_of(left, self.handle.snapshot(left)).await;
        taken.map_or_else(|reason| Err(reason.into()), |taken| Ok(taken?))
    }

    /// Returns the status of the node, by the deadline.
    pub(crate) async fn status(&self, deadline: Deadline) -> Result<Arc<Status>, Problem> {
        let status = self.answer_of(deadline.left(), self.handle.status()).await;
        status.map_or_else(|reason| Err(reason.into()), |status| Ok(status?))
    }

    /// Replaces `problem` by 503 `joining` where the node belongs to no cluster yet: that comes before whatever else is wrong
    /// with a request.
    pub(crate) fn joining_or(&self, problem: Problem) -> Problem {
        // What the loop has refused says it already, with a reason of its own.
        if !problem.is_local() {
            return problem;
        }
        if self.names().in_no_cluster {
            return Refusal::not_applied(Code::Joining, "this node belongs to no cluster yet and waits to join one")
                .into();
        }
        problem
    }
}

fn keep_alive(idle: Duration) -> Option<HeaderValue> {
    let seconds = idle.as_secs();
    (seconds > 0).then(|| HeaderValue::from_str(&format!("timeout={seconds}")).ok()).flatten()
}

/// The failure of a read without an answer from the loop.
fn unanswered_read(reason: NoAnswer, consistency: Consistency) -> Problem {
    match (reason, consistency) {
        // A read that waits for its read index is late for want of a quorum, not of a disk.
        (NoAnswer::Late, Consistency::Linearizable) => {
            Refusal::not_applied(Code::NoQuorum, "the read was not confirmed by the deadline").into()
        }
        (reason, _) => reason.into(),
    }
}

impl RequestContext {
    /// Creates the context of a request whose head has just arrived.
    pub(crate) fn new(
        context: Arc<ServerContext>,
        parts: Parts,
        (client, fin, trail): (RequestClient, Fin, Option<Trail>),
        body: RequestBody,
    ) -> Self {
        let holder = Holder::of(&client);
        let RequestClient { caller, certificate, .. } = client;
        let Parts { method, uri, headers, .. } = parts;
        let (arrived, tail_at) = (Instant::now(), uri.path().len());
        Self { context, method, uri, tail_at, arrived, holder, fin, caller, certificate, trail, headers, body }
    }

    /// Notes that a route has it; the rest of its path begins at this byte.
    pub(crate) fn routed(mut self, tail_at: usize) -> Self {
        self.trail.iter().for_each(Trail::routed);
        self.tail_at = tail_at;
        self
    }

    /// Its target, not decoded.
    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Its path, not decoded.
    pub(crate) fn path(&self) -> &str {
        self.uri.path()
    }

    /// The rest of its path that the route has not matched, not decoded.
    pub(crate) fn tail(&self) -> &str {
        self.path().get(self.tail_at..).unwrap_or_default()
    }

    /// Its query, not decoded, empty where there is none.
    pub(crate) fn query(&self) -> &str {
        self.uri.query().unwrap_or_default()
    }

    /// Takes a share of the budget of responses for one of this size.
    pub(crate) fn share(&self, bytes: usize) -> Result<Share, Problem> {
        self.context.answers.take(&self.holder, bytes).ok_or_else(Problem::answers_full)
    }

    /// Takes a share for what a transaction may return; None where that is nothing. It waits until the deadline, before the
    /// transaction is proposed.
    pub(crate) async fn share_for_transaction(
        &self,
        bytes: usize,
        deadline: Deadline,
    ) -> Result<Option<Share>, Problem> {
        // Unlike a read, a transaction that was applied must be answered, so the share comes before the proposal and is for
        // the worst case: the longest value for each `get`.
        if bytes == 0 {
            return Ok(None);
        }
        let share = self.context.transactions.take_when_free(&self.holder, bytes.min(TXN_BYTES));
        timeout(deadline.left(), share).await.map(Some).map_err(|_| Problem::answers_full())
    }

    /// Takes a share for the value that a renewal may return. The caller drops it as soon as the loop has answered, so that
    /// renewals wait for the loop alone and not for slow clients.
    pub(crate) async fn share_for_renewal(&self, deadline: Deadline) -> Result<Share, Problem> {
        let share = self.context.renewals.take_when_free(&self.holder, self.context.options.value_bytes);
        timeout(deadline.left(), share).await.map_err(|_| Problem::answers_full())
    }

    /// Refuses other methods than GET and HEAD.
    pub(crate) fn takes_get(&self) -> Result<(), Problem> {
        match self.method {
            Method::GET | Method::HEAD => Ok(()),
            _ => Err(Problem::method(&self.method, "GET, HEAD, OPTIONS")),
        }
    }

    /// Refuses other methods than POST.
    pub(crate) fn takes_post(&self) -> Result<(), Problem> {
        if self.method == Method::POST { Ok(()) } else { Err(Problem::method(&self.method, "POST, OPTIONS")) }
    }

    /// Returns the header of this name, without surrounding white space; an error where it is given more than once.
    pub(crate) fn header(&self, name: &HeaderName) -> Result<Option<&str>, Problem> {
        let mut values = self.headers.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Problem::header(format!("header `{name}` is given more than once")));
        }
        let text = value.to_str().map_err(|_| Problem::header(format!("header `{name}` must be ASCII")))?;
        Ok(Some(text.trim()))
    }

    /// Reads a JSON body, up to the limit and by the deadline.
    pub(crate) async fn body(&mut self, deadline: Deadline) -> Result<Body, Problem> {
        let types = self.headers.get_all(CONTENT_TYPE).iter().filter_map(|kind| kind.to_str().ok());
        if let Some(charset) = types.filter_map(media_type::foreign_charset).next() {
            return Err(Problem::media_type(format!("the body is JSON, which is UTF-8, not `{}`", clip(charset))));
        }
        let mut body = self.raw_body(deadline).await?;
        // The members that are copied out of it may be as long together.
        body.grow(body.bytes.len())?;
        Ok(body)
    }

    /// Reads a body of any type, up to the limit and by the deadline.
    pub(crate) async fn raw_body(&mut self, deadline: Deadline) -> Result<Body, Problem> {
        // A hint for the allocation. hyper has refused malformed and conflicting lengths, and the limit holds for the bytes that
        // arrive.
        let content_length = self.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let body = std::mem::take(&mut self.body);
        let context = &self.context;
        let (limit, grace) = (context.options.body_bytes, context.options.rate_grace);
        let quota = BodyQuota { budget: &context.bodies, holder: &self.holder, grace, timers: &context.timers };
        // A client that is still sending would hold up the end of the process. Nothing was proposed yet.
        let read = context.ending.unless(body::read(body, content_length, limit, quota, deadline)).await;
        read.unwrap_or_else(|| Err(Problem::from(NoAnswer::Ending).closing()))
    }
}
