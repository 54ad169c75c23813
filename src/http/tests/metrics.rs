//! Tests of `GET /metrics`.
//!
//! See also: what is counted (`src/metrics`), real nodes (`tests/cluster/operations/metrics.rs`).

use super::*;

/// A node whose loop answers nothing.
fn silent(names: Names) -> Node {
    Node::start_as(names, options(), |_| {})
}

#[tokio::test]
async fn figures_need_no_answer_of_the_loop_and_no_cluster() {
    let joining = silent(Names { in_no_cluster: true, ..Names::default() });
    let answer = joining.ask("GET", "/metrics", "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(answer.body.contains("\nhuskv_server_has_leader 0\n"), "{}", answer.body);
    let head = joining.ask("HEAD", "/metrics/", "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    joining.ask("POST", "/metrics", "").await.is_problem(405, "method_not_allowed");
    joining.ask("GET", "/metrics?name=x", "").await.is_problem(400, "bad_query");
}

#[tokio::test]
async fn figures_are_served_while_the_node_reads_its_directory() {
    let (handle, _inbox) = channel(16);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let log = slog::Logger::root(slog::Discard, slog::o!());
    let node = Node { address, server: start(listener, handle, options(), log).unwrap() };
    node.ask("GET", "/raft/stats", "").await.is_problem(503, "starting");
    let answer = node.ask("GET", "/metrics", "").await;
    assert!(answer.status == 200 && answer.body.contains("\nhuskv_raft_term 0\n"), "{answer:?}");
}

#[tokio::test]
async fn openmetrics_is_served_to_a_scraper_that_asks_for_it() {
    let node = silent(Names::default());
    let answer = node.ask_with("GET", "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n", "").await;
    assert_eq!(answer.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(answer.body.ends_with("# EOF\n"));
}
