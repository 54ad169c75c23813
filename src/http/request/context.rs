//! What every handler has: the way to the loop, the limits, and the request it answers.
//!
//! Why: the loop answers at a request's deadline itself, but a loop whose disk stalls answers nothing at all. The client
//! gets its answer all the same, shortly after the deadline, or before the process ends, and it says what is known then.
//!
//! Laws: this room never asks the loop twice for one request, and for what is refused here not at all. Requests for the
//! node's status take one place of the queue that peers use, however many clients ask.
//!
//! Not here: routes ([`crate::http::routes`]) and how an answer looks ([`crate::http::response::success`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch as signal;
use tokio::time::{sleep, timeout};
use warp::http::Method;
use warp::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use warp::path::FullPath;
use warp::reply::Response;

use super::body::{self, Account, Body, Unread};
use super::content;
use super::query::Deadline;
use crate::changefeed::ChangeFeed;
use crate::consensus::{Bounds, Consistency, Fetched, Handle, Listed, Names};
use crate::http::Options;
use crate::http::api::watch::Watchers;
use crate::http::response::problem::{Problem, clip};
use crate::http::server::browser_guard::BrowserGuard;
use crate::http::server::host_guard::HostGuard;
use crate::http::server::memory_budget::{Budget, Share, Source};
use crate::http::server::socket::Fin;
use crate::model::Millis;
use crate::model::{Answer, Code, List, Refusal, Request, Status, TXN_BYTES};

/// The header with the id of its cluster: versions and indexes of another cluster mean nothing in this one.
const X_HUSKV_CLUSTER: HeaderName = HeaderName::from_static("x-huskv-cluster");
/// The header with the name of the node that answers.
const X_HUSKV_NODE: HeaderName = HeaderName::from_static("x-huskv-node");
/// The header with the name of the leader, where one is known.
const X_HUSKV_LEADER: HeaderName = HeaderName::from_static("x-huskv-leader");
/// How much later than its deadline a request is given up where the loop says nothing.
const GRACE: Duration = Duration::from_millis(250);
/// After how long without a turn of the loop the node takes no requests; a tick has at most 1 s.
pub(crate) const STALLED_AFTER: Duration = Duration::from_secs(3);
/// How many times a body that is JSON may be in memory while it is taken apart, with as much again for others.
const BODY_COPIES: usize = 4;

/// What the handlers share.
pub(crate) struct ServerContext {
    /// The limits and names that the server was started with.
    pub(crate) options: Options,
    /// Which hosts the node answers for.
    pub(crate) hosts: HostGuard,
    /// Which pages may use the node.
    pub(crate) origins: BrowserGuard,
    handle: Handle,
    bodies: Arc<Budget>,
    answers: Arc<Budget>,
    transactions: Arc<Budget>,
    renewals: Arc<Budget>,
    /// What watchers hold of the events that they are in the midst of.
    pub(crate) events: Arc<Budget>,
    /// What clients are told of how long their connections may be idle, unless it is less than a second.
    pub(crate) keep_alive: Option<HeaderValue>,
    /// Who watches.
    pub(crate) watchers: Watchers,
    /// Whether the process is about to end, so that nothing is waited for any more.
    ending: signal::Sender<bool>,
}

/// Why the loop has said nothing to a request.
enum Silence {
    /// It had not by the deadline.
    Late,
    /// It makes no turns.
    Stalled,
    /// The process ends.
    Ending,
}

/// One request, its body not read yet.
pub(crate) struct RequestContext {
    /// What the handlers share.
    pub(crate) context: Arc<ServerContext>,
    /// The method.
    pub(crate) method: Method,
    /// The raw path.
    pub(crate) path: FullPath,
    /// The raw query, empty where there is none.
    pub(crate) query: String,
    /// When the head had arrived.
    pub(crate) arrived: Instant,
    /// Where the client is.
    pub(crate) source: Source,
    /// Tells that the client sends no more, or has gone.
    pub(crate) fin: Fin,
    headers: HeaderMap,
    body: Unread,
}

impl ServerContext {
    /// What handlers of a server with these options share.
    pub(crate) fn new(handle: Handle, options: Options) -> Self {
        Self {
            hosts: HostGuard::new(&options),
            origins: BrowserGuard::new(&options),
            // However large a body or an answer may be, one of them always fits.
            bodies: Budget::new(options.budgets.bodies.max(BODY_COPIES * options.body_bytes)),
            answers: Budget::new(options.budgets.answers.max(options.body_bytes)),
            transactions: Budget::new(options.budgets.transactions.max(TXN_BYTES)),
            events: Budget::new(options.budgets.events),
            renewals: Budget::new(options.budgets.renewals.max(options.value_bytes)),
            keep_alive: keep_alive(options.idle_timeout),
            watchers: Watchers::new(options.watchers, options.connections),
            options,
            handle,
            ending: signal::Sender::new(false),
        }
    }

    /// Has the loop, or the leader, carry out `request`.
    pub(crate) async fn request(&self, request: Request, deadline: Deadline) -> Result<Answer, Problem> {
        let code = if matches!(request, Request::Join { .. }) { Code::JoinUnfinished } else { Code::Timeout };
        let left = deadline.left();
        let answer = self.told(left, self.handle.request(request, left)).await;
        let silent = |silence| match silence {
            Silence::Late | Silence::Stalled => {
                Refusal::unknown(code, "the node's loop did not answer by the deadline; its disk may be slow")
            }
            Silence::Ending => Refusal::unknown(
                Code::Stopping,
                "the node stops, and its loop has not said what became of the request; its disk may be slow",
            ),
        };
        Ok(answer.map_err(silent)??)
    }

    /// What the loop says by the deadline, or a little later, unless the process ends before.
    async fn told<T>(&self, left: Duration, told: impl Future<Output = T>) -> Result<T, Silence> {
        tokio::select! {
            biased;
            told = timeout(left + GRACE, told) => told.map_err(|_| Silence::Late),
            () = self.ending() => Err(Silence::Ending),
        }
    }

    /// As [`ServerContext::told`], for a read: one that waits for a loop without turns would wait until its deadline.
    async fn told_unless_stalled<T>(&self, left: Duration, told: impl Future<Output = T>) -> Result<T, Silence> {
        tokio::select! {
            biased;
            told = self.told(left, told) => told,
            () = self.stall() => Err(Silence::Stalled),
        }
    }

    /// Whether the loop has begun, and has made no turn for long.
    fn is_stalled(&self) -> bool {
        self.handle.silence().is_some_and(|silence| silence > STALLED_AFTER)
    }

    /// Ends once the loop is stalled. A process that was stopped looks like that at first, so it is looked at twice.
    async fn stall(&self) {
        loop {
            let turned = self.handle.silence().unwrap_or_default();
            sleep(STALLED_AFTER.saturating_sub(turned) + GRACE).await;
            if turned > STALLED_AFTER && self.is_stalled() {
                return;
            }
        }
    }

    /// Ends all waiting for the loop: whoever waits is answered with what is known, since the process is about to end.
    pub(crate) fn give_up(&self) {
        self.ending.send_replace(true);
        // Whatever the loop may still apply, those who watch hear of it from another node, or from this one's next start.
        self.feed().close();
    }

    async fn ending(&self) {
        // The sender is here, so this is no error.
        drop(self.ending.subscribe().wait_for(|ending| *ending).await);
    }

    /// What the node applies.
    pub(crate) fn feed(&self) -> &ChangeFeed {
        self.handle.feed()
    }

    /// The present time, as the feed means it.
    pub(crate) fn now(&self) -> Millis {
        self.handle.clock().now()
    }

    /// The failure of whatever is asked before the loop has ended its first turn: the node still reads its directory, which
    /// may take as long as a client waits.
    pub(crate) fn starting(&self) -> Option<Problem> {
        let starts = !self.handle.is_serving();
        let detail = "this node reads its directory and has not begun to serve yet; ask another one, or wait";
        starts.then(|| Refusal::not_applied(Code::Starting, detail).into())
    }

    /// Who this node is, who leads and who else belongs to the cluster, as far as it knows.
    pub(crate) fn names(&self) -> Arc<Names> {
        self.handle.names()
    }

    /// How long ago the loop has ended its last turn, None before the first; and whether a disk is waited for.
    pub(crate) fn silence(&self) -> (Option<Duration>, bool) {
        (self.handle.silence(), self.handle.is_waiting_for_disk())
    }

    /// Says in the answer which node of which cluster gives it, and who leads as far as it knows.
    pub(crate) fn with_node_headers(&self, mut response: Response) -> Response {
        let names = self.handle.names();
        if names.cluster_id != 0 {
            response.headers_mut().insert(X_HUSKV_CLUSTER, HeaderValue::from(names.cluster_id));
        }
        for (header, name) in [(X_HUSKV_NODE, Some(&names.node)), (X_HUSKV_LEADER, names.leader.as_ref())] {
            let name = name.filter(|name| !name.is_empty()).and_then(|name| HeaderValue::from_str(name).ok());
            if let Some(name) = name {
                response.headers_mut().insert(header, name);
            }
        }
        response
    }

    /// Reads one key.
    pub(crate) async fn read(
        &self,
        key: Vec<u8>,
        fresh: (Consistency, Bounds),
        deadline: Deadline,
    ) -> Result<Fetched, Problem> {
        let left = deadline.left();
        let fetched = self.told_unless_stalled(left, self.handle.read(key, fresh, left)).await;
        fetched.map_or_else(|silence| Err(silent_read(silence, fresh.0)), |fetched| Ok(fetched?))
    }

    /// Reads a page of keys.
    pub(crate) async fn list(
        &self,
        list: List,
        fresh: (Consistency, Bounds),
        deadline: Deadline,
    ) -> Result<Listed, Problem> {
        let left = deadline.left();
        let listed = self.told_unless_stalled(left, self.handle.list(list, fresh, left)).await;
        listed.map_or_else(|silence| Err(silent_read(silence, fresh.0)), |listed| Ok(listed?))
    }

    /// Takes a durable cut of the machine.
    pub(crate) async fn snapshot(&self, deadline: Deadline) -> Result<(), Problem> {
        let left = deadline.left();
        let taken = self.told(left, self.handle.snapshot(left)).await;
        taken.map_or_else(|silence| Err(silence.into()), |taken| Ok(taken?))
    }

    /// How the node is, by the deadline.
    pub(crate) async fn status(&self, deadline: Deadline) -> Result<Arc<Status>, Problem> {
        let status = self.told(deadline.left(), self.handle.status()).await;
        status.map_or_else(|silence| Err(silence.into()), |status| Ok(status?))
    }

    /// The failure that the client is to see for `problem`: a node that belongs to no cluster yet says that first,
    /// whatever else is wrong with a request.
    pub(crate) fn seen(&self, problem: Problem) -> Problem {
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

/// The failure of what changes no key and to which the loop said nothing.
impl From<Silence> for Problem {
    fn from(silence: Silence) -> Self {
        match silence {
            Silence::Late | Silence::Stalled => Self::stalled(),
            Silence::Ending => Self::stopping(),
        }
    }
}

fn keep_alive(idle: Duration) -> Option<HeaderValue> {
    let seconds = idle.as_secs();
    (seconds > 0).then(|| HeaderValue::from_str(&format!("timeout={seconds}")).ok()).flatten()
}

/// The failure of a read to which the loop said nothing.
fn silent_read(silence: Silence, consistency: Consistency) -> Problem {
    match (silence, consistency) {
        (Silence::Late, Consistency::Linearizable) => {
            Refusal::not_applied(Code::NoQuorum, "the read was not confirmed by the deadline").into()
        }
        (silence, _) => silence.into(),
    }
}

impl RequestContext {
    /// A request whose head has just arrived.
    pub(crate) fn new(
        context: Arc<ServerContext>,
        method: Method,
        (path, query): (FullPath, String),
        (source, fin): (Source, Fin),
        (headers, body): (HeaderMap, Unread),
    ) -> Self {
        Self { context, method, path, query, arrived: Instant::now(), source, fin, headers, body }
    }

    /// Takes what an answer of so many bytes needs of the memory that all of them share.
    pub(crate) fn share(&self, bytes: usize) -> Result<Share, Problem> {
        self.context.answers.take(self.source, bytes).ok_or_else(Problem::answers_full)
    }

    /// As [`RequestContext::share`], for what a transaction may have to answer: it waits, before anything is done, until the
    /// deadline.
    pub(crate) async fn share_for_transaction(
        &self,
        bytes: usize,
        deadline: Deadline,
    ) -> Result<Option<Share>, Problem> {
        if bytes == 0 {
            return Ok(None);
        }
        let share = self.context.transactions.take_in_time(self.source, bytes.min(TXN_BYTES));
        timeout(deadline.left(), share).await.map(Some).map_err(|_| Problem::answers_full())
    }

    /// As [`RequestContext::share`], for what a renewal may have to show. It is to be given back as soon as the loop has answered,
    /// so that a renewal waits for the loop alone and for no client.
    pub(crate) async fn share_for_renewal(&self, deadline: Deadline) -> Result<Share, Problem> {
        let share = self.context.renewals.take_in_time(self.source, self.context.options.value_bytes);
        timeout(deadline.left(), share).await.map_err(|_| Problem::answers_full())
    }

    /// Whether the request is a GET or a HEAD, on a route that takes no other.
    pub(crate) fn takes_get(&self) -> Result<(), Problem> {
        match self.method {
            Method::GET | Method::HEAD => Ok(()),
            _ => Err(Problem::method(&self.method, "GET, HEAD, OPTIONS")),
        }
    }

    /// Whether the request is a POST, on a route that takes no other.
    pub(crate) fn takes_post(&self) -> Result<(), Problem> {
        if self.method == Method::POST { Ok(()) } else { Err(Problem::method(&self.method, "POST, OPTIONS")) }
    }

    /// The header of this name, without surrounding white space; it may stand there once.
    pub(crate) fn header(&self, name: &HeaderName) -> Result<Option<&str>, Problem> {
        let mut values = self.headers.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Problem::header(format!("header `{name}` is given more than once")));
        }
        let text = value.to_str().map_err(|_| Problem::header(format!("header `{name}` must be ASCII")))?;
        Ok(Some(text.trim()))
    }

    /// Reads the body, which is JSON and so UTF-8, up to the limit and the deadline.
    pub(crate) async fn body(&mut self, deadline: Deadline) -> Result<Body, Problem> {
        let announced = self.headers.get_all(CONTENT_TYPE).iter().filter_map(|kind| kind.to_str().ok());
        if let Some(charset) = announced.filter_map(content::foreign_charset).next() {
            return Err(Problem::media_type(format!("the body is JSON, which is UTF-8, not `{}`", clip(charset))));
        }
        let mut body = self.raw_body(deadline).await?;
        // What it says is taken out of it, and may be as much.
        body.grow(body.bytes.len())?;
        Ok(body)
    }

    /// Reads the body, up to the limit and the deadline.
    pub(crate) async fn raw_body(&mut self, deadline: Deadline) -> Result<Body, Problem> {
        let announced = self.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let stream = std::mem::replace(&mut self.body, Box::pin(futures_util::stream::empty()));
        let account =
            Account { budget: &self.context.bodies, source: self.source, patience: self.context.options.rate_grace };
        let body = body::read(stream, announced, self.context.options.body_bytes, account, deadline);
        tokio::select! {
            biased;
            body = body => body,
            () = self.context.ending() => Err(Problem::from(Silence::Ending).closing()),
        }
    }
}
