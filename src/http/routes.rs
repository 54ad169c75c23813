//! The table of routes.
//!
//! Why: it lists every path that huskv serves, with the handler behind it and what a node outside of a cluster answers there.
//!
//! Invariants: each route has a rule, which says what it needs of a token and is checked before its handler is called. No route rejects
//! once its path matches, so warp's own plain-text errors are never sent. A trailing slash is the same route. `/store` is found without
//! warp: almost all requests are for it, and warp's filters cost as much as the rest of its way through this module.
//!
//! See also: the handlers ([`super::api`]), connections ([`super::server`]).

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::service::Service;
use warp::filters::BoxedFilter;
use warp::http::Method;
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::api::probes::{self, health, readyz, version};
use super::api::{admin, cluster, compat, openapi, store, touch, txn, watch};
use super::metrics;
use super::node_events;
use super::request::caller::Need;
use super::request::handler_context::RequestContext;
use super::response::problem::Problem;
use super::rules::{self, Rule};
use super::ui;

/// How a problem of a route's handler is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// As it is: the route serves on any node.
    AnyNode,
    /// On a node outside of a cluster as 503 `joining`, whatever else is wrong with the request.
    Member,
    /// As `Member`; to an `EventSource` a problem of the node is an event, `refused`.
    Watch,
    /// As `AnyNode`; to an `EventSource` as `Watch`.
    Events,
}

/// Combines routes so that the first one whose path matches answers.
macro_rules! first_match {
    ($first:expr $(, $next:expr)* $(,)?) => { $first $(.or($next).unify())* };
}

/// A request on its way through warp, which lends its parts only; the route that matches takes it.
#[derive(Clone)]
struct Unrouted(Arc<Mutex<Option<RequestContext>>>);

impl Unrouted {
    fn take(self) -> Option<RequestContext> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Serves a request; `others` is the service of [`others`].
pub(super) async fn serve<S>(others: &S, request: RequestContext) -> Result<Response, Infallible>
where
    S: Service<hyper::Request<Empty<Bytes>>, Response = Response, Error = Infallible>,
{
    if let Some(tail_at) = tail_below("store", request.path()) {
        return Ok(respond(request.routed(tail_at), (Rule::Store, Scope::Member), store::handle).await);
    }
    let mut plain = hyper::Request::new(Empty::new());
    plain.method_mut().clone_from(&request.method);
    plain.uri_mut().clone_from(request.uri());
    plain.extensions_mut().insert(Unrouted(Arc::new(Mutex::new(Some(request)))));
    others.call(plain).await
}

/// Where the path goes on below its first segment `name`; None where that is another one.
fn tail_below(name: &str, path: &str) -> Option<usize> {
    match path.strip_prefix('/')?.strip_prefix(name)?.as_bytes().first() {
        None => Some(path.len()),
        Some(b'/') => Some(name.len() + 2),
        Some(_) => None,
    }
}

/// Returns the filter that serves every route but `/store`.
pub(super) fn others() -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + use<> + 'static
{
    use Scope::{AnyNode, Events, Member, Watch};
    use rules::Rule::{Admin, AnyToken, KeyInPath, KeysInBody, Open, Outline};
    let raft = warp::path("raft");
    let admin = warp::path("admin");
    let of_cluster = warp::path("cluster");
    let page = warp::path("ui");
    let known = first_match!(
        exact(warp::path("txn"), (KeysInBody, Member), txn::handle),
        below("touch", (KeyInPath, Member), touch::handle),
        exact(warp::path("watch"), (Rule::Watch, Watch), watch::handle),
        exact(warp::path("health"), (Open, AnyNode), health::health),
        below("readyz", (Open, AnyNode), readyz::readyz),
        exact(warp::path("livez"), (Open, AnyNode), probes::livez),
        exact(warp::path("version"), (Open, AnyNode), version::version),
        exact(warp::path("metrics"), (Rule::Metrics, AnyNode), metrics::metrics),
        exact(warp::path("events"), (Rule::Metrics, Events), node_events::handle),
        exact(warp::path("load"), (Rule::Metrics, AnyNode), metrics::load::load),
        exact(of_cluster.and(warp::path("overview")), (Rule::Metrics, AnyNode), metrics::overview::overview),
        exact(of_cluster.and(warp::path("events")), (Rule::Metrics, AnyNode), node_events::cluster::events),
        exact(page, (Open, AnyNode), ui::page),
        exact(page.and(warp::path("app.js")), (Open, AnyNode), ui::script),
        exact(page.and(warp::path("app.css")), (Open, AnyNode), ui::style),
        exact(raft.and(warp::path("stats")), (Outline, AnyNode), cluster::stats),
        exact(raft.and(warp::path("join")), (Admin, Member), cluster::join),
        exact(raft.and(warp::path("remove")), (Admin, Member), cluster::remove),
        exact(raft.and(warp::path("transfer")), (Admin, Member), cluster::transfer),
        exact(raft.and(warp::path("snapshot")), (Admin, Member), cluster::snapshot),
        exact(admin.and(warp::path("reload")), (Admin, AnyNode), admin::reload),
        exact(warp::path("openapi.json"), (AnyToken, AnyNode), openapi::document),
        below("keys", (KeyInPath, Member), compat::keys),
        below("kv", (KeyInPath, Member), compat::kv),
    )
    .boxed();
    known.or(unknown()).unify()
}

/// Serves exactly `path`.
fn exact<P, F>(
    path: P,
    rules: (Rule, Scope),
    handler: fn(RequestContext) -> F,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + use<P, F> + 'static
where
    P: Filter<Extract = (), Error = Rejection> + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response, Problem>> + Send + 'static,
{
    path.and(warp::path::end()).and(request()).then(move |request: Option<RequestContext>| async move {
        match request {
            Some(request) => {
                let end = request.path().len();
                respond(request.routed(end), rules, handler).await
            }
            None => lost(),
        }
    })
}

/// Serves the path segment `name` and every path below it.
fn below<F>(
    name: &'static str,
    rules: (Rule, Scope),
    handler: fn(RequestContext) -> F,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + use<F> + 'static
where
    F: Future<Output = Result<Response, Problem>> + Send + 'static,
{
    warp::path(name).and(warp::path::tail()).and(request()).then(
        move |tail: warp::path::Tail, request: Option<RequestContext>| async move {
            match request {
                Some(request) => {
                    let tail_at = request.path().len() - tail.as_str().len();
                    respond(request.routed(tail_at), rules, handler).await
                }
                None => lost(),
            }
        },
    )
}

/// Runs the handler of a request that its rule allows, and answers a problem by the scope of the route.
async fn respond<F>(
    request: RequestContext,
    (rule, scope): (Rule, Scope),
    handler: impl FnOnce(RequestContext) -> F,
) -> Response
where
    F: Future<Output = Result<Response, Problem>>,
{
    // The handler consumes the request, so what an answer to its problem needs is taken out first.
    let (method, context) = (request.method.clone(), Arc::clone(&request.context));
    let is_event_source = matches!(scope, Scope::Watch | Scope::Events) && watch::accepts_only_events(&request.headers);
    let handled = match rules::check(rule, &request) {
        Ok(()) => handler(request).await.map_err(|problem| match scope {
            // Health, probes, metrics and stats describe a node outside of a cluster too, so their own problem is the right answer.
            Scope::AnyNode | Scope::Events => problem,
            Scope::Member | Scope::Watch => context.joining_or(problem),
        }),
        // As it is: a client without the right learns nothing of the node.
        Err(problem) => Err(problem),
    };
    match handled {
        Ok(response) => response,
        Err(problem) if is_event_source && problem.is_server_side() => watch::refused_stream(&problem),
        Err(problem) => problem.respond(&method),
    }
}

/// Extracts the request.
fn request() -> BoxedFilter<(Option<RequestContext>,)> {
    warp::ext::optional::<Unrouted>().map(|request: Option<Unrouted>| request.and_then(Unrouted::take)).boxed()
}

/// Answers a request that another route has taken; none takes one and rejects it.
fn lost() -> Response {
    Problem::internal().respond(&Method::GET)
}

/// Answers every other path. With tokens it needs one, so that the paths of the future need one as well.
fn unknown() -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    warp::ext::optional::<Unrouted>().then(|request: Option<Unrouted>| async move {
        let Some(request) = request.and_then(Unrouted::take) else { return lost() };
        let end = request.path().len();
        let request = request.routed(end);
        if let Some(response) = ui::from_root(&request) {
            return response;
        }
        let problem = match request.caller.check(&Need::AnyToken) {
            Ok(()) => request.context.joining_or(Problem::no_route(request.path())),
            Err(problem) => problem,
        };
        problem.respond(&request.method)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_key_begins_behind_one_slash() {
        let tail = |path: &'static str| tail_below("store", path).map(|at| &path[at..]);
        for (path, expected) in [("/store", ""), ("/store/", ""), ("/store/k", "k"), ("/store//a/b/", "/a/b/")] {
            assert_eq!(tail(path), Some(expected), "{path}");
        }
        for path in ["/", "", "/stor", "/stores", "/store%2Fk", "//store", "/Store/k"] {
            assert_eq!(tail(path), None, "{path}");
        }
    }
}
