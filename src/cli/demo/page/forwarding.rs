//! Forwarding: a request of the page goes to a node that runs, and the response comes back as the node sends it.
//!
//! Invariants: a node with a fault is passed over while there is a healthy one; else what a cut one says is shown. A request is sent once.
//! A response is passed on as it comes, so that streams of events are not held up.

use http_body_util::{BodyExt, Either, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Request, Response, StatusCode};

use super::super::faults::NodeState;
use super::{Body, PageServer, problem};

/// The most bytes of a request: a value of the greatest size that a node takes, and what is around it.
const MAX_BODY_BYTES: usize = 16 << 20;

/// The headers of one connection (RFC 9110, section 7.6.1), and those that the node's side sets anew.
const OWN_HEADERS: [HeaderName; 8] =
    [CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, HeaderName::from_static("keep-alive")];

impl PageServer {
    /// Sends the request to a node.
    pub(super) async fn forward(&self, request: Request<Incoming>) -> Response<Body> {
        let Some(node) = chosen(&self.nodes.borrow()).cloned() else {
            let detail = "no node of the demo answers requests; heal one";
            return problem(StatusCode::BAD_GATEWAY, "unreachable", detail);
        };
        let (mut head, body) = request.into_parts();
        let body = match Limited::new(body, MAX_BODY_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                let detail = format!("the demo passes on at most {MAX_BODY_BYTES} bytes");
                return problem(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &detail);
            }
            Err(error) => {
                let detail = format!("the request broke off: {error}");
                return problem(StatusCode::BAD_REQUEST, "bad_request", &detail);
            }
        };
        // The one expectation that there is was met when the body was read; a node refuses others.
        let is_continue = |sent: &HeaderValue| sent.as_bytes().eq_ignore_ascii_case(b"100-continue");
        if head.headers.get(EXPECT).is_some_and(is_continue) {
            head.headers.remove(EXPECT);
        }
        strip(&mut head.headers);
        // It is the demo's own, as the guard has found; to the node it would be foreign.
        head.headers.remove(ORIGIN);
        match self.client.forward(&node.http, Request::from_parts(head, body)).await {
            Ok(mut response) => {
                strip_connection(response.headers_mut());
                response.map(Either::Right)
            }
            Err(error) => problem(StatusCode::BAD_GATEWAY, "unreachable", &error.to_string()),
        }
    }
}

/// The node that answers the page: the first healthy one, else the first that is only cut off from the others.
fn chosen(nodes: &[NodeState]) -> Option<&NodeState> {
    let first = |state: &str| nodes.iter().find(|node| node.state == state);
    first("none").or_else(|| first("cut"))
}

fn strip(headers: &mut HeaderMap) {
    OWN_HEADERS.iter().for_each(|name| drop(headers.remove(name)));
}

/// The same for a response, whose length stays: to HEAD it is of a body that is not sent.
fn strip_connection(headers: &mut HeaderMap) {
    OWN_HEADERS.iter().filter(|name| **name != CONTENT_LENGTH).for_each(|name| drop(headers.remove(name)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthy_node_is_asked_before_a_cut_one_and_no_other() {
        let asked = |states: &[&'static str]| {
            let state = |state: &&'static str| NodeState { name: String::new(), http: String::new(), state };
            chosen(&states.iter().map(state).collect::<Vec<_>>()).map(|node| node.state)
        };
        assert_eq!(asked(&["cut", "none"]), Some("none"));
        assert_eq!(asked(&["killed", "cut"]), Some("cut"));
        assert_eq!(asked(&["killed", "paused", "ended"]), None);
    }
}
