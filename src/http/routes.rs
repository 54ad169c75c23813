//! The one page of routes.
//!
//! Why: whoever wants to know what huskv answers reads this page. Each line hands method, headers, raw query and unread
//! body to the handler of its topic, which checks them.
//!
//! Laws: warp tries the lines in their order, so the hot ones come first. No line rejects once its path fits, so a
//! failure is never warp's plain text. A slash at the end is the same route.
//!
//! Not here: connections ([`super::server`]).

use std::convert::Infallible;
use std::sync::Arc;

use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::Method;
use warp::path::{FullPath, Tail};
use warp::reply::Response;

use super::api::{cluster, compat, health, openapi, probes, store, touch, txn, watch};
use super::request::body::boxed;
use super::request::context::{RequestContext, ServerContext};
use super::response::problem::Problem;
use super::server::memory_budget::Source;
use super::server::socket::Fin;

/// Every route.
pub(super) fn routes(
    context: &Arc<ServerContext>,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + use<> + 'static {
    let call = call(Arc::clone(context));
    let raft = warp::path("raft");
    let at = |name: &'static str| raft.and(warp::path(name)).and(warp::path::end()).and(call.clone());

    let data = warp::path("store").and(warp::path::tail()).and(call.clone()).then(data);
    let txn = warp::path("txn").and(warp::path::end()).and(call.clone()).then(|call| unless_joining(call, txn::handle));
    let touch = warp::path("touch").and(warp::path::tail()).and(call.clone()).then(touched);
    let watch = warp::path("watch").and(warp::path::end()).and(call.clone()).then(watching);
    let health =
        warp::path("health").and(warp::path::end()).and(call.clone()).then(|call| always(call, health::health));
    let readyz =
        warp::path("readyz").and(warp::path::end()).and(call.clone()).then(|call| always(call, probes::readyz));
    let livez = warp::path("livez").and(warp::path::end()).and(call.clone()).then(|call| always(call, probes::livez));
    let stats = at("stats").then(|call| always(call, cluster::stats));
    let join = at("join").then(|call| unless_joining(call, cluster::join));
    let remove = at("remove").then(|call| unless_joining(call, cluster::remove));
    let transfer = at("transfer").then(|call| unless_joining(call, cluster::transfer));
    let snapshot = at("snapshot").then(|call| unless_joining(call, cluster::snapshot));
    let keys = warp::path("keys").and(warp::path::tail()).and(call.clone()).then(keys);
    let kv = warp::path("kv").and(warp::path::tail()).and(call.clone()).then(kv);
    let openapi = warp::path("openapi.json")
        .and(warp::path::end())
        .and(call.clone())
        .then(|call| always(call, openapi::document));
    let unknown = unknown(Arc::clone(context));

    let others = txn
        .or(touch)
        .unify()
        .or(watch)
        .unify()
        .or(health)
        .unify()
        .or(readyz)
        .unify()
        .or(livez)
        .unify()
        .or(stats)
        .unify()
        .or(join)
        .unify()
        .or(remove)
        .unify()
        .or(transfer)
        .unify()
        .or(snapshot)
        .unify()
        .or(openapi)
        .unify()
        .or(keys)
        .unify()
        .or(kv)
        .unify()
        .boxed();
    // Warp clones for each request what it may have to try next, so all but the hottest line are behind one pointer.
    data.or(others).unify().or(unknown).unify()
}

async fn data(tail: Tail, call: RequestContext) -> Response {
    unless_joining(call, |call| async move { store::handle(call, tail.as_str()).await }).await
}

async fn keys(tail: Tail, call: RequestContext) -> Response {
    unless_joining(call, |call| async move { compat::keys(call, tail.as_str()).await }).await
}

async fn kv(tail: Tail, call: RequestContext) -> Response {
    unless_joining(call, |call| async move { compat::kv(call, tail.as_str()).await }).await
}

async fn touched(tail: Tail, call: RequestContext) -> Response {
    unless_joining(call, |call| async move { touch::handle(call, tail.as_str()).await }).await
}

/// As [`unless_joining`], in the form that whoever asks can read.
async fn watching(call: RequestContext) -> Response {
    let (method, context, events) = (call.method.clone(), Arc::clone(&call.context), watch::wants_events(&call));
    match watch::handle(call).await {
        Ok(response) => response,
        Err(problem) => match context.joining_or(problem) {
            problem if events && problem.is_of_the_node() => watch::refused(&problem),
            problem => problem.respond(&method),
        },
    }
}

/// Answers on any node.
async fn always<F>(call: RequestContext, handler: impl FnOnce(RequestContext) -> F) -> Response
where
    F: Future<Output = Result<Response, Problem>>,
{
    let method = call.method.clone();
    handler(call).await.unwrap_or_else(|problem| problem.respond(&method))
}

/// Answers on a node that belongs to a cluster; on another one any failure is 503 `joining`. (The loop itself refuses
/// what reaches it.)
async fn unless_joining<F>(call: RequestContext, handler: impl FnOnce(RequestContext) -> F) -> Response
where
    F: Future<Output = Result<Response, Problem>>,
{
    let method = call.method.clone();
    let context = Arc::clone(&call.context);
    match handler(call).await {
        Ok(response) => response,
        Err(problem) => context.joining_or(problem).respond(&method),
    }
}

/// Takes the request apart.
fn call(context: Arc<ServerContext>) -> BoxedFilter<(RequestContext,)> {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::ext::optional::<Source>())
        .and(warp::ext::optional::<Fin>())
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .map(move |method, path, query, source: Option<Source>, fin: Option<Fin>, headers, body| {
            let client = (source.unwrap_or(Source::loopback()), fin.unwrap_or_default());
            RequestContext::new(Arc::clone(&context), method, (path, query), client, (headers, boxed(body)))
        })
        .boxed()
}

fn unknown(
    context: Arc<ServerContext>,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    warp::method().and(warp::path::full()).then(move |method: Method, path: FullPath| {
        let context = Arc::clone(&context);
        async move { context.joining_or(Problem::no_route(path.as_str())).respond(&method) }
    })
}
