//! From a request to its response: checks that hold on every route, the routes, and the response's headers.
//!
//! Why: warp has filters, but the order of these checks is a matter of safety, so it is written down in one function.
//!
//! Invariants: the origin is checked first, then the host, then the rate of the caller, then the certificate of the connection, then whether
//! the node serves, then the headers; the routes see only requests that have passed all of them. A request over the rate costs no
//! read of its body, and a probe is never over it. A response never leaves part of a body unread without closing the
//! connection.
//!
//! See also: the connection around it ([`super::connection`]), the routes ([`crate::http::routes`]).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, EXPECT, HeaderMap, HeaderName, HeaderValue};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use warp::http::request::Parts;
use warp::http::{Method, Version};
use warp::reply::Response;

use super::PortKind;
use super::browser_guard::{self, OriginCheck};
use super::client_socket::Fin;
use super::connection::Client;
use super::connection_slots::SlotKind;
use super::host_guard::{self, Asked};
use crate::http::api::watch;
use crate::http::audit::{Entry, Trail};
use crate::http::clients::RequestClient;
use crate::http::metrics;
use crate::http::node_events;
use crate::http::request::handler_context::{RequestContext, ServerContext};
use crate::http::request::unread_body::RequestBody;
use crate::http::request::unsupported_headers;
use crate::http::response::problem::Problem;
use crate::http::response::success;
use crate::http::routes;
use crate::http::ui;
use crate::telemetry::metrics::Target;

/// The header with how long a connection may be idle.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// What answers the requests of all connections; `S` is the service of the routes.
#[derive(Clone)]
pub(super) struct Dispatch<S> {
    context: Arc<ServerContext>,
    port: PortKind,
    routes: S,
}

/// A service of routes.
pub(super) trait Routes:
    Service<hyper::Request<Empty<Bytes>>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + Sync
{
}

impl<S> Routes for S where
    S: Service<hyper::Request<Empty<Bytes>>, Response = Response, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
{
}

/// Builds what answers the requests of connections.
pub(super) fn dispatch(context: Arc<ServerContext>, port: PortKind) -> Dispatch<impl Routes + 'static> {
    Dispatch { context, port, routes: TowerToHyperService::new(warp::service(routes::others())) }
}

impl<S: Routes> Dispatch<S> {
    /// Answers a request of this client: checks origin, host and headers, calls the routes, and completes the response's headers.
    pub(super) async fn answer(
        &self,
        client: &Client,
        slot: SlotKind,
        request: hyper::Request<Incoming>,
    ) -> Result<Response, Infallible> {
        let context = &self.context;
        let (parts, body) = request.into_parts();
        let (figures, began) = (&context.metrics().http, Instant::now());
        let (target, _in_flight) = (Target::of(parts.method.as_str(), parts.uri.path()), figures.begin());
        // From here on: a request that ends without an answer has a line, too.
        let entry = Entry::begin(&context.options.audit, &parts, client.address);
        let trail = entry.as_ref().map(Entry::trail);
        let mut body = RequestBody::new(body);
        let expects_continue = parts.headers.contains_key(EXPECT);
        let keeps_alive = parts.version == Version::HTTP_11 && !asks_to_close(&parts.headers);
        // The slot was given away before the request's path was known.
        let in_probe_slot = slot == SlotKind::Probe;
        let wrong_slot = in_probe_slot && self.port == PortKind::Clients && !host_guard::is_probe(parts.uri.path());
        let opens_page = ui::is_opened(&parts.method, parts.uri.path(), &parts.headers);
        // Before any route, so that no route can forget it. The origin comes before host and headers: a request of a foreign page
        // gets the same 403 whatever else is wrong with it. A preflight has no effect and returns no data, so it needs no host
        // check; the request that follows it gets one.
        let (origin, answered) = match context.present().origins.check(&parts.headers) {
            // Before any route as well: what this port must not serve does not depend on the table of routes.
            _ if !self.port.serves(parts.uri.path()) => {
                (None, Some(Problem::no_route(parts.uri.path()).respond(&parts.method)))
            }
            _ if wrong_slot => (None, Some(Problem::connections_full().respond(&parts.method))),
            OriginCheck::Absent => (None, None),
            // A link of another site to the page; a page that embeds it is refused by its policy.
            OriginCheck::Refused(_) if opens_page => (None, None),
            OriginCheck::Refused(problem) => (None, Some(problem.respond(&parts.method))),
            OriginCheck::Allowed(origin) => {
                let is_preflight = browser_guard::is_preflight(&parts.method, &parts.headers);
                (Some(origin), is_preflight.then(|| browser_guard::preflight(&parts.headers)))
            }
        };
        let mut response = match answered {
            Some(response) => response,
            None => self.check_host(client, parts, (trail, &body)).await?,
        };
        if let Some(origin) = origin {
            browser_guard::allow_origin(&mut response, origin);
        }
        if let Some(entry) = entry {
            entry.finish(&response);
        }
        metrics::count_refused(context, &response);
        figures.answered(target, response.status().as_u16(), began.elapsed());
        success::set_common_headers(&mut response);
        // One request for each connection, so that the few slots come free soon. For the same reason nothing waits for an unread
        // body: a client that sends half of it would hold the slot for as long as the wait.
        if in_probe_slot {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        // A handler may have left the body unread (a 405, a 404). Either it is read here and the connection goes on, or the
        // response announces the close. A close without `Connection: close` would lose a request that the client has pipelined.
        if !response.headers().contains_key(CONNECTION) && !body.discard(expects_continue).await {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if keeps_alive
            && !response.headers().contains_key(CONNECTION)
            && let Some(seconds) = &context.keep_alive
        {
            response.headers_mut().insert(KEEP_ALIVE, seconds.clone());
        }
        Ok(response)
    }

    /// Answers a request that has passed the origin check, if it is for a host of this node.
    async fn check_host(
        &self,
        client: &Client,
        parts: Parts,
        (trail, body): (Option<Trail>, &RequestBody),
    ) -> Result<Response, Infallible> {
        let context = &self.context;
        let members = || Arc::clone(&context.names().hosts);
        let checked = context.present().hosts.check(&parts, &client.certificate, members);
        let host = match checked {
            Ok(host) => host,
            Err(problem) => return Ok(problem.respond(&parts.method)),
        };
        let connection = (client.address, client.certificate.clone());
        let asking = RequestClient::of(&context.options, &parts.headers, connection);
        if let Some(trail) = &trail {
            trail.client(&asking);
        }
        // Of every request, whatever it needs: a connection lives long, and its handshake has verified it as of then.
        let certificate = client.certificate.check();
        let is_known = asking.caller.is_known() && certificate.is_ok();
        let is_probe = host_guard::is_probe(parts.uri.path());
        // Before the rights of the token: a request that would be a 401 or 403 counts, too.
        let is_limited = !is_probe && self.port == PortKind::Clients;
        if is_limited && let Err(problem) = context.options.limiter.check(&asking) {
            trail.iter().for_each(Trail::over_the_limit);
            let access = &context.metrics().access;
            match asking.caller.token() {
                Some(_) => access.limited_by_token.inc(),
                None => access.limited_by_address.inc(),
            }
            let response = over_the_limit(&problem, &parts);
            return Ok(if is_known { context.with_node_headers(response) } else { response });
        }
        // /livez and /readyz tell an orchestrator themselves that the node is starting, /version is the same in any state, /metrics, /events
        // and /load are of the process, and the page is files; /health asks the loop like other routes.
        let path = parts.uri.path();
        let is_of_process = [node_events::PATH, metrics::load::PATH].contains(&path.trim_end_matches('/'));
        let needs_loop = !PortKind::Metrics.serves(path) && !is_of_process && !ui::is_page(path);
        let checked = certificate.and_then(|()| match context.starting() {
            Some(problem) if needs_loop => Err(problem),
            _ => unsupported_headers::check(&parts.headers),
        });
        let response = match checked {
            Ok(()) => self.route(parts, (asking, client.fin.clone(), trail), body).await?,
            Err(problem) => problem.respond(&parts.method),
        };
        // With tokens only a client that has one, and whose certificate is valid still, learns the names of cluster, node and leader.
        Ok(match host {
            Asked::Known if !is_known => response,
            Asked::Known => context.with_node_headers(response),
            // A probe under a foreign name may be a page of that name: it gets the status, and nothing that it could read.
            Asked::Foreign => success::empty(response.status()),
        })
    }

    /// Calls the routes. A target without a path (`CONNECT host:port`, `OPTIONS *`) is kept from warp, which panics at one.
    async fn route(
        &self,
        parts: Parts,
        asking: (RequestClient, Fin, Option<Trail>),
        body: &RequestBody,
    ) -> Result<Response, Infallible> {
        if parts.uri.path().starts_with('/') {
            let request = RequestContext::new(Arc::clone(&self.context), parts, asking, body.clone());
            routes::serve(&self.routes, request).await
        } else if parts.method == Method::OPTIONS && parts.uri.path() == "*" {
            Ok(success::options("GET, HEAD, POST, PUT, DELETE, OPTIONS"))
        } else {
            Ok(Problem::no_route(&parts.uri.to_string()).respond(&parts.method))
        }
    }
}

/// Whether the client wants the connection to close after the response.
fn asks_to_close(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|word| word.trim().eq_ignore_ascii_case("close"))
}

/// Answers a request over the limit of its caller. An `EventSource` gives up for ever after a 429, so it gets an event.
fn over_the_limit(problem: &Problem, request: &Parts) -> Response {
    let route = request.uri.path().trim_end_matches('/');
    let streams = request.method == Method::GET && ["/watch", node_events::PATH].contains(&route);
    if streams && watch::accepts_only_events(&request.headers) {
        watch::refused_stream(problem)
    } else {
        problem.respond(&request.method)
    }
}
