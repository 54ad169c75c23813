//! Tests of `/livez`, `/readyz`, `/health` and `/version`: what fails them, what they ask the loop, and what they show to which client.

use super::super::tokens::SecureNode;
use super::super::*;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};

const ALL_HOLD: &str = "[+]joined ok\n[+]leader ok\n[+]read_index ok\n[+]applied ok\n[+]disk ok\n[+]draining ok\nok\n";

/// A node whose loop grants or refuses each read and has published `readiness`, and how often it was asked.
fn asked(readiness: Readiness, grants: bool) -> (Node, Arc<AtomicUsize>) {
    let names = Names { node: "node1".into(), readiness, ..Names::default() };
    let rounds = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&rounds);
    let node = Node::start_as(names, options(), move |input| match input {
        Input::Read { reply, .. } => {
            counted.fetch_add(1, Ordering::Relaxed);
            let refused = || Refusal::not_applied(Code::Lagging, "messages are late");
            reply(if grants { Ok(nothing(7, 1)) } else { Err(refused()) });
        }
        Input::Status { reply } => reply(status()),
        _ => panic!("a probe changes nothing"),
    });
    (node, rounds)
}

#[tokio::test]
async fn many_probes_are_one_round_of_read_index() {
    let (node, rounds) = asked(Readiness::default(), true);
    assert_eq!(node.ask("GET", "/readyz?verbose", "").await.body, ALL_HOLD);
    let began = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(node.ask("GET", "/readyz", "").await.body, "ok\n");
    }
    let most = usize::try_from(began.elapsed().as_secs()).unwrap() + 2;
    assert!(rounds.load(Ordering::Relaxed) <= most, "{rounds:?}");
    assert_eq!(node.ask("GET", "/metrics", "").await.body.matches("read_index_duration_seconds_count 0").count(), 1);

    let (node, _) = asked(Readiness::default(), false);
    let response = node.ask("GET", "/readyz", "").await;
    assert_eq!((response.status, response.header("retry-after")), (503, Some("1")), "{response:?}");
    assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(
        response.body.contains("\n[-]read_index failed: lagging: messages are late\n[+]applied ok\n"),
        "{response:?}"
    );
}

#[tokio::test]
async fn a_node_that_knows_why_no_round_would_be_confirmed_asks_for_none() {
    let refusal = || Some(Refusal::not_applied(Code::NoLeader, "node2 is not in contact"));
    let readiness = Readiness { leader: refusal(), read_index: refusal(), ..Readiness::default() };
    let (node, rounds) = asked(readiness, true);
    let response = node.ask("GET", "/readyz", "").await;
    assert_eq!(
        (response.status, response.body.as_str()),
        (
            503,
            "[+]joined ok\n[-]leader failed: no_leader: node2 is not in contact\n\
             [-]read_index failed: no_leader: node2 is not in contact\n[+]applied ok\n[+]disk ok\n[+]draining ok\nnot ready\n"
        )
    );
    let excluded = node.ask("GET", "/readyz?exclude=leader&exclude=read_index", "").await;
    assert_eq!((excluded.status, excluded.body.as_str()), (200, "ok\n"));
    assert_eq!(node.ask("GET", "/readyz/read_index", "").await.status, 503);
    assert_eq!(node.ask("GET", "/readyz/applied/", "").await.body, "ok\n");
    assert_eq!(node.ask("GET", "/readyz/applied?verbose", "").await.body, "[+]applied ok\nok\n");
    assert_eq!(rounds.load(Ordering::Relaxed), 0);
    for path in ["/readyz/leaders", "/readyz/leader/x", "/readyz//", "/readyz/%6Ceader"] {
        let problem = node.ask("GET", path, "").await.is_problem(404, "not_found");
        assert!(problem["detail"].as_str().unwrap().contains("`joined`, `leader`, `read_index`"), "{problem}");
    }
    let problem = node.ask("GET", "/readyz?exclude=disc", "").await.is_problem(400, "bad_query");
    assert!(problem["detail"].as_str().unwrap().contains("`disk`, `draining`, not `disc`"), "{problem}");
}

#[tokio::test]
async fn a_node_that_drains_serves_and_is_not_ready() {
    let node = Node::working();
    assert_eq!(node.ask("GET", "/readyz", "").await.status, 200);
    node.server.control().begin_drain();
    node.server.control().begin_drain();
    let events = node.ask("GET", "/events", "").await;
    assert_eq!(events.body.matches("\"draining\"").count(), 1, "{events:?}");
    let response = node.ask("GET", "/readyz", "").await;
    assert!(response.status == 503 && response.body.contains("\n[-]draining failed: stopping: "), "{response:?}");
    assert_eq!(node.ask("GET", "/readyz/draining", "").await.status, 503);
    assert_eq!(node.ask("GET", "/livez", "").await.body, "ok\n");
    assert_eq!(node.ask("PUT", "/store/a", "1").await.status, 200);
}

#[tokio::test]
async fn probes_take_head_and_nothing_that_writes() {
    let (node, _) = asked(Readiness::default(), true);
    assert_eq!(node.ask("GET", "/livez?verbose", "").await.body, "[+]loop ok\nok\n");
    for path in ["/livez", "/livez?verbose", "/readyz", "/readyz/leader", "/readyz?verbose", "/health", "/version"] {
        let get = node.ask("GET", path, "").await;
        let head = node.ask("HEAD", path, "").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        for header in ["content-type", "cache-control"] {
            assert_eq!(head.header(header), get.header(header), "{path} {header}");
        }
        node.ask("POST", path, "{}").await.is_problem(405, "method_not_allowed");
        assert_eq!(node.ask("OPTIONS", path, "").await.header("allow"), Some("GET, HEAD, OPTIONS"), "{path}");
    }
}

#[tokio::test]
async fn a_node_that_starts_answers_probes_and_its_version() {
    let (handle, _inbox) = channel(16);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let log = slog::Logger::root(slog::Discard, slog::o!());
    let node = Node { address, server: start(listener, handle, options(), log).unwrap() };
    assert_eq!(node.ask("GET", "/livez", "").await.body, "ok\n");
    let version = node.ask("GET", "/version", "").await.json();
    assert_eq!((&version["huskv"], &version["formats"]), (&json!(env!("CARGO_PKG_VERSION")), &json!({"journal": 1})));
    let response = node.ask("GET", "/readyz", "").await;
    assert_eq!((response.status, response.body.matches("failed: starting: ").count()), (503, 5), "{response:?}");
    node.ask("GET", "/health", "").await.is_problem(503, "starting");
}

#[tokio::test]
async fn without_a_token_probes_tell_whether_and_not_why() {
    let refusal = Refusal::not_applied(Code::NoLeader, "node2 is not in contact");
    let readiness = Readiness { leader: Some(refusal.clone()), read_index: Some(refusal), ..Readiness::default() };
    let names = Names { node: "node1".into(), readiness, ..Names::default() };
    let secure = SecureNode::start_as(names, |input| {
        if let Input::Status { reply } = input {
            reply(status());
        }
    });
    let health = secure.ask(None, "GET", "/health", "").await;
    assert_eq!(health.json(), json!({"status": "healthy"}));
    assert_eq!(secure.ask(Some(&secure.reader), "GET", "/health", "").await.json()["node_id"], "node1");
    for path in ["/readyz", "/readyz?verbose", "/readyz/leader"] {
        let ready = secure.ask(None, "GET", path, "").await;
        assert_eq!((ready.status, ready.body.as_str(), ready.header("retry-after")), (503, "not ready\n", Some("1")));
    }
    let ready = secure.ask(None, "GET", "/readyz?verbose&exclude=leader&exclude=read_index", "").await;
    assert_eq!((ready.status, ready.body.as_str()), (200, "ok\n"));
    let ready = secure.ask(Some(&secure.reader), "GET", "/readyz/leader", "").await;
    let shown = "[-]leader failed: no_leader: node2 is not in contact\nnot ready\n";
    assert_eq!((ready.status, ready.body.as_str()), (503, shown));
    assert_eq!(secure.ask(None, "GET", "/version", "").await.json()["wire"], json!({"oldest": 2, "newest": 2}));
    assert_eq!(secure.ask(None, "GET", "/livez", "").await.body, "ok\n");
}
