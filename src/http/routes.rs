//! The table of routes.
//!
//! Why: it lists every path that huskv serves, with the handler behind it and what a node outside of a cluster answers there.
//!
//! Invariants: each route has a rule, which says what it needs of a token and is checked before its handler is called. warp tries the routes in this order, so the most frequent ones come first. No route rejects once its path
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

use super::api::{admin, cluster, compat, health, openapi, probes, store, touch, txn, watch};
use super::audit::Trail;
use super::clients::RequestClient;
use super::request::body::boxed;
use super::request::caller::{Caller, Need};
use super::request::handler_context::{RequestContext, ServerContext};
use super::response::problem::Problem;
use super::rules::{self, Rule};
use super::server::client_socket::Fin;

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
    use rules::Rule::{Admin, AnyToken, KeyInPath, KeysInBody, Open, Outline};
    let request = request(Arc::clone(context));
    let raft = warp::path("raft");
    let admin = warp::path("admin");
    let others = first_match!(
        exact(warp::path("txn"), &request, (KeysInBody, Member), txn::handle),
        below("touch", &request, (KeyInPath, Member), touch::handle),
        exact(warp::path("watch"), &request, (Rule::Watch, Watch), watch::handle),
        exact(warp::path("health"), &request, (Open, AnyNode), health::health),
        exact(warp::path("readyz"), &request, (Open, AnyNode), probes::readyz),
        exact(warp::path("livez"), &request, (Open, AnyNode), probes::livez),
        exact(raft.and(warp::path("stats")), &request, (Outline, AnyNode), cluster::stats),
        exact(raft.and(warp::path("join")), &request, (Admin, Member), cluster::join),
        exact(raft.and(warp::path("remove")), &request, (Admin, Member), cluster::remove),
        exact(raft.and(warp::path("transfer")), &request, (Admin, Member), cluster::transfer),
        exact(raft.and(warp::path("snapshot")), &request, (Admin, Member), cluster::snapshot),
        exact(admin.and(warp::path("reload")), &request, (Admin, AnyNode), admin::reload),
        exact(warp::path("openapi.json"), &request, (AnyToken, AnyNode), openapi::document),
        below("keys", &request, (KeyInPath, Member), compat::keys),
        below("kv", &request, (KeyInPath, Member), compat::kv),
    )
    .boxed();
    // For each request warp clones every filter that it may still try. Boxed, all routes but the hottest are one pointer.
    first_match!(below("store", &request, (Rule::Store, Member), store::handle), others, unknown(Arc::clone(context)))
}

/// Serves exactly `path`.
fn exact<P, F>(
    path: P,
    request: &BoxedFilter<(RequestContext,)>,
    (rule, scope): (Rule, Scope),
    handler: fn(RequestContext) -> F,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + use<P, F> + 'static
where
    P: Filter<Extract = (), Error = Rejection> + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response, Problem>> + Send + 'static,
{
    path.and(warp::path::end()).and(request.clone()).then(move |request: RequestContext| {
        let allowed = rules::check(rule, &request, "");
        respond(request, allowed, scope, handler)
    })
}

/// Serves the path segment `name` and every path below it.
fn below<F>(
    name: &'static str,
    request: &BoxedFilter<(RequestContext,)>,
    (rule, scope): (Rule, Scope),
    handler: fn(RequestContext, Tail) -> F,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + use<F> + 'static
where
    F: Future<Output = Result<Response, Problem>> + Send + 'static,
{
    warp::path(name).and(warp::path::tail()).and(request.clone()).then(move |tail: Tail, request: RequestContext| {
        let allowed = rules::check(rule, &request, tail.as_str());
        respond(request, allowed, scope, move |request| handler(request, tail))
    })
}

/// Runs the handler of a request that its rule allows, and answers a problem by the scope of the route.
async fn respond<F>(
    request: RequestContext,
    allowed: Result<(), Problem>,
    scope: Scope,
    handler: impl FnOnce(RequestContext) -> F,
) -> Response
where
    F: Future<Output = Result<Response, Problem>>,
{
    // The handler consumes the request, so what an answer to its problem needs is taken out first.
    let (method, context) = (request.method.clone(), Arc::clone(&request.context));
    let is_event_source = scope == Scope::Watch && watch::accepts_only_events(&request.headers);
    let handled = match allowed {
        Ok(()) => handler(request).await.map_err(|problem| match scope {
            // Health, probes and stats describe a node outside of a cluster too, so their own problem is the right answer.
            Scope::AnyNode => problem,
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

/// Extracts the context of a request, its body unread.
fn request(context: Arc<ServerContext>) -> BoxedFilter<(RequestContext,)> {
    // `raw` rejects a request without a query.
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::ext::get::<RequestClient>())
        .and(warp::ext::optional::<Fin>())
        .and(warp::ext::optional::<Trail>())
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .map(move |method, path, query, client, fin: Option<_>, trail, headers, body| {
            let client = (client, fin.unwrap_or_default(), trail);
            RequestContext::new(Arc::clone(&context), method, (path, query), client, (headers, boxed(body)))
        })
        .boxed()
}

/// Answers every other path. With tokens it needs one, so that the paths of the future need one as well.
fn unknown(
    context: Arc<ServerContext>,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    let client = warp::ext::optional::<RequestClient>().and(warp::ext::optional::<Trail>());
    let unknown = warp::method().and(warp::path::full()).and(client);
    unknown.then(move |method: Method, path: FullPath, client: Option<RequestClient>, trail: Option<Trail>| {
        let context = Arc::clone(&context);
        async move {
            trail.iter().for_each(Trail::routed);
            let caller = client.map_or(Caller::Anonymous(None), |client| client.caller);
            let problem = match caller.check(&Need::AnyToken) {
                Ok(()) => context.joining_or(Problem::no_route(path.as_str())),
                Err(problem) => problem,
            };
            problem.respond(&method)
        }
    })
}
