//! Tests of `GET /metrics`.
//!
//! See also: what is counted (`src/telemetry/metrics`), real nodes (`tests/cluster/monitoring/metrics.rs`).

use super::super::*;

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
    let load = node.ask("GET", "/load?seconds=5", "").await;
    assert_eq!((load.status, load.json()["data"]["points"].as_array().map(Vec::len)), (200, Some(0)));
    node.ask("GET", "/cluster/overview", "").await.is_problem(503, "starting");
}

#[tokio::test]
async fn an_overview_needs_no_answer_of_the_loop_and_no_cluster() {
    let joining = silent(Names { node: "node1".into(), in_no_cluster: true, ..Names::default() });
    let answer = joining.ask("GET", "/cluster/overview", "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.starts_with(r#"{"data":{"cluster_id":null,"asked":"node1","leader":null,"#), "{answer:?}");
    assert_eq!(answer.json()["data"]["members"][0]["name"], "node1");
    let events = joining.ask("GET", "/cluster/events?limit=1000&timeout=1s", "").await;
    assert!(events.body.starts_with(r#"{"data":{"asked":"node1","events":["#), "{events:?}");
    for query in ["limit=0", "limit=1001", "limit=x", "timeout=x", "since=1"] {
        joining.ask("GET", &format!("/cluster/events?{query}"), "").await.is_problem(400, "bad_query");
    }
    for path in ["/cluster/overview", "/cluster/events", "/load"] {
        let head = joining.ask("HEAD", path, "").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        joining.ask("POST", path, "").await.is_problem(405, "method_not_allowed");
        joining.ask("GET", &format!("{path}?name=x"), "").await.is_problem(400, "bad_query");
    }
    joining.ask("GET", "/load?seconds=0", "").await.is_problem(400, "bad_query");
}

#[tokio::test]
async fn openmetrics_is_served_to_a_scraper_that_asks_for_it() {
    let node = silent(Names::default());
    let answer = node.ask_with("GET", "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n", "").await;
    assert_eq!(answer.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(answer.body.ends_with("# EOF\n"));
}

/// Returns the value of a series.
#[track_caller]
fn value(body: &str, series: &str) -> f64 {
    let line = body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {body}")).parse().unwrap()
}

#[tokio::test]
async fn requests_are_counted_by_template_and_no_label_has_a_key() {
    let node = Node::working();
    node.ask("PUT", "/store/secret-key", "1").await;
    node.ask("GET", "/store/secret-key", "").await;
    node.ask("GET", "/store/other-secret", "").await;
    node.ask("GET", "/store?prefix=secret", "").await;
    node.ask_with("PUT", "/store/secret-key", "If-Match: \"1\"\r\n", "2").await.is_problem(412, "precondition_failed");
    node.ask("GET", "/secret-path", "").await;
    let body = node.ask("GET", "/metrics", "").await.body;
    for (series, count) in [
        (r#"huskv_http_requests_total{method="PUT",route="/store/{key}",status="2xx"}"#, 1.0),
        (r#"huskv_http_requests_total{method="PUT",route="/store/{key}",status="4xx"}"#, 1.0),
        (r#"huskv_http_requests_total{method="GET",route="/store/{key}",status="2xx"}"#, 1.0),
        (r#"huskv_http_requests_total{method="GET",route="/store/{key}",status="4xx"}"#, 1.0),
        (r#"huskv_http_requests_total{method="GET",route="/store",status="2xx"}"#, 1.0),
        (r#"huskv_http_requests_total{method="other",route="other",status="4xx"}"#, 1.0),
        (r#"huskv_http_request_duration_seconds_count{method="PUT",route="/store/{key}"}"#, 2.0),
        ("huskv_http_requests_in_flight", 1.0),
        ("huskv_server_proposal_duration_seconds_count", 2.0),
        ("huskv_server_read_index_duration_seconds_count", 3.0),
        ("huskv_preconditions_failed_total", 1.0),
    ] {
        let found = value(&body, series);
        assert!((found - count).abs() < f64::EPSILON, "{series} is {found}");
    }
    assert!(!body.contains("secret"), "{body}");
}

#[tokio::test]
async fn what_is_refused_is_counted_by_its_reason() {
    let full = Refusal::not_applied(Code::Overloaded, "full");
    let node = Node::refusing(full);
    node.ask("PUT", "/store/a", "1").await.is_problem(503, "overloaded");
    node.ask("GET", "/store/a", "").await.is_problem(503, "overloaded");
    let body = node.ask("GET", "/metrics", "").await.body;
    for series in
        [r#"huskv_server_proposals_failed_total{reason="overloaded"}"#, "huskv_server_read_indexes_failed_total"]
    {
        assert!((value(&body, series) - 1.0).abs() < f64::EPSILON, "{series}");
    }
    assert!((value(&body, r#"huskv_http_overloaded_total{why="requests"}"#) - 2.0).abs() < f64::EPSILON);
    let lost = Node::refusing(Refusal::unknown(Code::Timeout, "late"));
    lost.ask("PUT", "/store/a", "1").await.is_problem(504, "timeout");
    let body = lost.ask("GET", "/metrics", "").await.body;
    for series in [r#"huskv_server_proposals_failed_total{reason="timeout"}"#, "huskv_server_unknown_outcomes_total"] {
        assert!((value(&body, series) - 1.0).abs() < f64::EPSILON, "{series}");
    }
}

#[tokio::test]
async fn the_port_for_figures_serves_probes_and_nothing_else() {
    let node = Node::working();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let log = slog::Logger::root(slog::Discard, slog::o!());
    let server = crate::http::start_metrics(listener, &node.server.control(), log).unwrap();
    let port = Node { address, server };
    node.ask("PUT", "/store/a", "1").await;
    for path in ["/metrics", "/livez", "/readyz", "/readyz/leader", "/version", "/metrics/", "/version/"] {
        assert_eq!(port.ask("GET", path, "").await.status, 200, "{path}");
        let head = port.ask("HEAD", path, "").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
    }
    for (method, path) in [
        ("GET", "/store/a"),
        ("PUT", "/store/a"),
        ("GET", "/kv/a"),
        ("GET", "/raft/stats"),
        ("GET", "/health"),
        ("GET", "/"),
    ] {
        port.ask(method, path, "1").await.is_problem(404, "not_found");
    }
    let body = port.ask("GET", "/metrics", "").await.body;
    assert!(
        (value(&body, r#"huskv_http_requests_total{method="PUT",route="/store/{key}",status="2xx"}"#) - 1.0).abs()
            < f64::EPSILON
    );
    port.server.stop(Duration::from_secs(1)).await;
    assert_eq!(node.ask("GET", "/store/a", "").await.status, 200, "the other port goes on");
}
