//! The table of routes.
//!
//! Why: it lists every path that huskv serves, with the handler behind it and what a node outside of a cluster answers there.
//!
//! Invariants: warp tries the routes in this order, so the most frequent ones come first. No route rejects once its path
//! matches, so warp's own plain-text errors are never sent. A trailing slash is the same route.
//!
//! See also: the handlers ([`super::api`]), connections ([`super::server`]).

use std::convert::Infallible;
use std::sync::Arc;

use warp::filters::BoxedFilter;
use warp::http::Method;
use warp::path::{FullPath, Tail};
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::api::{cluster, compat, health, openapi, probes, store, touch, txn, watch};
use super::request::body::boxed;
use super::request::context::{ClientCertificate, RequestContext, ServerContext};
use super::response::problem::Problem;
use super::server::client_socket::Fin;
use super::server::fair_shares::Source;

/// How a problem of a route's handler is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// As it is: the route serves on any node.
    AnyNode,
    /// On a node outside of a cluster as 503 `joining`, whatever else is wrong with the request.
    Member,
    /// As `Member`; to an `EventSource` a problem of the node is an event, `refused`.
    Watch,
}

/// Combines routes so that the first one whose path matches answers.
macro_rules! first_match {
    ($first:expr $(, $next:expr)* $(,)?) => { $first $(.or($next).unify())* };
}

/// Returns the filter that serves every route.
pub(super) fn routes(
    context: &Arc<ServerContext>,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + use<> + 'static {
    use Scope::{AnyNode, Member, Watch};
    let request = request(Arc::clone(context));
    let raft = warp::path("raft");
    let others = first_match!(
        exact(warp::path("txn"), &request, Member, txn::handle),
        below("touch", &request, Member, touch::handle),
        exact(warp::path("watch"), &request, Watch, watch::handle),
        exact(warp::path("health"), &request, AnyNode, health::health),
        exact(warp::path("readyz"), &request, AnyNode, probes::readyz),
        exact(warp::path("livez"), &request, AnyNode, probes::livez),
        exact(raft.and(warp::path("stats")), &request, AnyNode, cluster::stats),
        exact(raft.and(warp::path("join")), &request, Member, cluster::join),
        exact(raft.and(warp::path("remove")), &request, Member, cluster::remove),
        exact(raft.and(warp::path("transfer")), &request, Member, cluster::transfer),
        exact(raft.and(warp::path("snapshot")), &request, Member, cluster::snapshot),
        exact(warp::path("openapi.json"), &request, AnyNode, openapi::document),
        below("keys", &request, Member, compat::keys),
        below("kv", &request, Member, compat::kv),
    )
    .boxed();
    // For each request warp clones every filter that it may still try. Boxed, all routes but the hottest are one pointer.
    first_match!(below("store", &request, Member, store::handle), others, unknown(Arc::clone(context)))
}

/// Serves exactly `path`.
fn exact<P, F>(
    path: P,
    request: &BoxedFilter<(RequestContext,)>,
    scope: Scope,
    handler: fn(RequestContext) -> F,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + use<P, F> + 'static
where
    P: Filter<Extract = (), Error = Rejection> + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response, Problem>> + Send + 'static,
{
    path.and(warp::path::end()).and(request.clone()).then(move |request| respond(request, scope, handler))
}

/// Serves the path segment `name` and every path below it.
fn below<F>(
    name: &'static str,
    request: &BoxedFilter<(RequestContext,)>,
    scope: Scope,
    handler: fn(RequestContext, Tail) -> F,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + use<F> + 'static
where
    F: Future<Output = Result<Response, Problem>> + Send + 'static,
{
    warp::path(name)
        .and(warp::path::tail())
        .and(request.clone())
        .then(move |tail, request| respond(request, scope, move |request| handler(request, tail)))
}

/// Runs a handler and answers its problem by the scope of the route.
async fn respond<F>(request: RequestContext, scope: Scope, handler: impl FnOnce(RequestContext) -> F) -> Response
where
    F: Future<Output = Result<Response, Problem>>,
{
    // The handler consumes the request, so what an answer to its problem needs is taken out first.
    let (method, context) = (request.method.clone(), Arc::clone(&request.context));
    let is_event_source = scope == Scope::Watch && watch::accepts_only_events(&request);
    let problem = match handler(request).await {
        Ok(response) => return response,
        // Health, probes and stats describe a node outside of a cluster too, so their own problem is the right answer.
        Err(problem) if scope == Scope::AnyNode => problem,
        Err(problem) => context.joining_or(problem),
    };
    if is_event_source && problem.is_server_side() { watch::refused_stream(&problem) } else { problem.respond(&method) }
}

/// Extracts the context of a request, its body unread.
fn request(context: Arc<ServerContext>) -> BoxedFilter<(RequestContext,)> {
    // `raw` rejects a request without a query.
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::ext::optional::<Source>())
        .and(warp::ext::optional::<Fin>())
        .and(warp::ext::optional::<ClientCertificate>())
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .map(move |method, path, query, source: Option<_>, fin: Option<_>, certificate: Option<_>, headers, body| {
            let source = source.unwrap_or(Source::loopback());
            let client = (source, fin.unwrap_or_default(), certificate.unwrap_or_default());
            RequestContext::new(Arc::clone(&context), method, (path, query), client, (headers, boxed(body)))
        })
        .boxed()
}

/// Answers every other path.
fn unknown(
    context: Arc<ServerContext>,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    warp::method().and(warp::path::full()).then(move |method: Method, path: FullPath| {
        let context = Arc::clone(&context);
        async move { context.joining_or(Problem::no_route(path.as_str())).respond(&method) }
    })
}
