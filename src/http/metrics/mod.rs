//! `GET /metrics`: the figures of the node for Prometheus. `GET /load` and `GET /cluster/overview` have files of their own.
//!
//! Invariants: it neither waits for the consensus loop nor for the disk, so it answers while either stalls, while the node starts, and on a node
//! outside of a cluster.
//!
//! See also: what is counted ([`crate::telemetry::metrics`]), `docs/monitoring.md`.

pub(super) mod load;
pub(super) mod overview;
mod tolerance;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use warp::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use warp::reply::Response;

use super::api::deadline;
use super::request::handler_context::{RequestContext, ServerContext};
use super::response::overload::Refused;
use super::response::problem::Problem;
use crate::model::{Answer, Code, CommandResult, Outcome, Refusal};
use crate::telemetry::metrics::{AccessState, Failure, Format, Proposals, ServerState};
use crate::trust::credentials::CredentialStore;
use crate::trust::peer_tls::PeerTls;

/// The path.
pub(super) const PATH: &str = "/metrics";

/// Serves `GET /metrics`.
pub(super) async fn metrics(request: RequestContext) -> Result<Response, Problem> {
    request.takes_get()?;
    deadline(&request)?;
    let format = wanted(&request.headers);
    let context = &request.context;
    let mut response = Response::new(context.metrics().encode(format, state_of(context)).into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    Ok(response)
}

/// Returns what the server knows now.
fn state_of(context: &ServerContext) -> ServerState {
    let options = &context.options;
    let (http, peer) = (options.tls.as_deref(), options.peer_tls.as_deref());
    let not_after = |credentials: &CredentialStore| seconds(credentials.info().not_after);
    let mut refused_handshakes = BTreeMap::new();
    let of_http = http.map(|tls| tls.refusals.totals()).unwrap_or_default();
    for (kind, count) in of_http.into_iter().chain(peer.map(PeerTls::refused).unwrap_or_default()) {
        *refused_handshakes.entry(kind).or_default() += count;
    }
    let last_reload = context.last_reload.load();
    let access = AccessState {
        http_not_after: http.map(|tls| not_after(tls.acceptor.credentials())),
        peer_not_after: peer.map(|tls| not_after(tls.credentials())),
        refused_handshakes,
        reload_failed: last_reload.as_deref().is_some_and(|last| last.problem.is_some()),
    };
    ServerState { watchers: context.watchers.len() as u64, watch_oldest_index: context.feed().oldest(), access }
}

/// A time in seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Returns the format that a request prefers: OpenMetrics where its quality is at least that of text.
fn wanted(headers: &HeaderMap) -> Format {
    let lists = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (mut open_metrics, mut text) = (0, 0);
    for range in lists.flat_map(|list| list.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let of = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "application/openmetrics-text" => &mut open_metrics,
            "text/plain" => &mut text,
            _ => continue,
        };
        *of = quality(parts).max(*of);
    }
    if open_metrics > 0 && open_metrics >= text { Format::OpenMetrics } else { Format::Text }
}

/// Returns the quality among the parameters of a media range, in thousandths; what is malformed is ignored.
fn quality<'a>(mut parameters: impl Iterator<Item = &'a str>) -> u32 {
    let named = parameters.find_map(|parameter| parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q=")));
    let Some(Ok(quality)) = named.map(str::parse::<f32>) else { return 1000 };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 1000")]
    let thousandths = (quality.clamp(0.0, 1.0) * 1000.0) as u32;
    thousandths
}

/// Counts a request that was refused for want of room or of a right.
pub(super) fn count_refused(context: &ServerContext, response: &Response) {
    let metrics = context.metrics();
    match response.extensions().get::<Refused>() {
        None => {}
        Some(Refused::Unauthorized) => metrics.access.unauthorized.inc(),
        Some(Refused::Forbidden) => metrics.access.forbidden.inc(),
        Some(Refused::Overload(why)) => context.count_overload(*why),
    }
}

/// Counts a write of a client by what came of it.
pub(super) fn count_write(proposals: &Proposals, result: &Result<Answer, Refusal>, took: Duration) {
    match result {
        Ok(Answer::Written(written)) => {
            proposals.duration.observe(took);
            if written.replayed {
                return proposals.idempotency_replayed.inc();
            }
            match &written.outcome {
                CommandResult::ConditionFailed { .. } => proposals.preconditions_failed.inc(),
                CommandResult::Txn { succeeded: true, .. } => proposals.txn_succeeded.inc(),
                CommandResult::Txn { succeeded: false, .. } => proposals.txn_failed.inc(),
                _ => {}
            }
        }
        Ok(Answer::Members { .. } | Answer::Transferred { .. }) => {}
        Err(refusal) => {
            proposals.failed(failure(refusal.code));
            if refusal.outcome == Outcome::Unknown {
                proposals.unknown_outcomes.inc();
            }
        }
    }
}

fn failure(code: Code) -> Failure {
    match code {
        Code::NoLeader | Code::NoQuorum => Failure::NoLeader,
        Code::Timeout => Failure::Timeout,
        Code::Overloaded => Failure::Overloaded,
        Code::DiskNearlyFull => Failure::DiskNearlyFull,
        Code::Starting | Code::Stopping | Code::Joining | Code::Removed | Code::Verifying => Failure::NotServing,
        Code::BadRequest | Code::BadKey | Code::TooLarge => Failure::Invalid,
        _ => Failure::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ui;
    use crate::telemetry::metrics::{ROUTES, Target};
    use std::collections::BTreeSet;

    #[test]
    fn every_operation_of_the_document_has_series_of_its_own() {
        let document: serde_json::Value = serde_json::from_str(include_str!("../api/openapi.json")).unwrap();
        let paths = document["paths"].as_object().unwrap();
        // The files of the page are one route.
        fn series(template: &str) -> &str {
            if ui::is_page(template) { "/ui/{file}" } else { template }
        }
        for (template, item) in paths {
            for method in ["get", "put", "post", "delete"].into_iter().filter(|method| item.get(*method).is_some()) {
                let method = method.to_uppercase();
                let found = Target::of(&method, &template.replace("{key}", "k").replace("{check}", "leader")).labels();
                assert_eq!(found, (series(template), method.as_str()));
            }
        }
        let counted: BTreeSet<_> = paths.keys().map(|template| series(template)).collect();
        assert_eq!(ROUTES.len(), counted.len() + 1, "and `other`");
    }

    #[test]
    fn openmetrics_is_served_where_it_is_wanted_as_much_as_text() {
        let format = |accept: &str| {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(accept).unwrap())]);
            wanted(&headers)
        };
        assert_eq!(wanted(&HeaderMap::new()), Format::Text);
        for text in [
            "*/*",
            "text/html, */*;q=0.8",
            "text/plain",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=0.2, text/plain;version=0.0.4;q=0.5",
            "application/json",
        ] {
            assert_eq!(format(text), Format::Text, "{text}");
        }
        for open_metrics in [
            "application/openmetrics-text",
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "Application/OpenMetrics-Text; version=1.0.0; q=0.5, text/plain;q=0.3",
        ] {
            assert_eq!(format(open_metrics), Format::OpenMetrics, "{open_metrics}");
        }
    }
}
