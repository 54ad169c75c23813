//! Browser guard: cross-origin requests, CORS, and DNS rebinding.

use serde_json::json;

use crate::harness::{Node, Request, Setup};

crate::harness::cases![
    a_foreign_origin_is_403_and_changes_nothing,
    the_nodes_own_origins_are_served,
    listed_origins_get_cors_and_preflight,
    a_page_with_a_rebound_dns_name_reads_nothing,
];

fn port(node: &Node) -> &str {
    node.http.rsplit(':').next().unwrap_or("")
}

fn from(node: &Node, origin: &str, key: &str) -> crate::harness::Answer {
    let body = json!({"key": key, "value": 1}).to_string();
    node.request(Request::new("POST", "/store").header("Origin", origin).body(body))
}

fn a_foreign_origin_is_403_and_changes_nothing() {
    let node = Setup::named("node1").start();
    let port = port(&node).to_owned();
    let foreign = [
        "http://evil.example".to_owned(),
        format!("http://evil.example:{port}"),
        format!("https://127.0.0.1:{port}"),
        "http://127.0.0.1".to_owned(),
        "http://localhost:1".to_owned(),
        format!("http://127.0.0.1.evil.example:{port}"),
        format!("http://localhost:{port}.evil.example"),
        "null".to_owned(),
        String::new(),
    ];
    for origin in &foreign {
        let refused = from(&node, origin, "steered").problem(403, origin).code("cross_origin", origin);
        assert!(refused.header("access-control-allow-origin").is_none(), "{origin}");
        for (method, path) in
            [("GET", "/health"), ("GET", "/store/x"), ("DELETE", "/store/x"), ("POST", "/raft/snapshot")]
        {
            let answer = node.request(Request::new(method, path).header("Origin", origin));
            answer.problem(403, &format!("{method} {path} from {origin}")).code("cross_origin", origin);
        }
    }
    // What the Host header says makes nothing the node's own: DNS can be made to lie.
    let rebound = Request::new("POST", "/store")
        .header("Host", &format!("evil.example:{port}"))
        .header("Origin", &format!("http://evil.example:{port}"))
        .body("{\"key\": \"steered\", \"value\": 1}");
    node.request(rebound).problem(403, "a rebound name").code("cross_origin", "a rebound name");
    let preflight = Request::new("OPTIONS", "/store")
        .header("Origin", "http://evil.example")
        .header("Access-Control-Request-Method", "POST");
    let answer = node.request(preflight);
    assert!(answer.header("access-control-allow-origin").is_none(), "a foreign preflight: {answer}");
    node.get("/store/steered").problem(404, "a foreign page wrote");
}

fn the_nodes_own_origins_are_served() {
    let node = Setup::named("node1").set("HUSKV_ADVERTISE_HOST", "kv.example").start();
    let port = port(&node);
    for host in ["127.0.0.1", "localhost", "[::1]", "kv.example"] {
        from(&node, &format!("http://{host}:{port}"), "own").expect(200, host);
    }
    node.put("none", "curl sends no origin");
}

fn listed_origins_get_cors_and_preflight() {
    let listed = ["https://ui.example.org", "http://other.example:8080"];
    let node = Setup::named("node1").set("HUSKV_HTTP_ALLOWED_ORIGINS", listed.join(",")).start();
    for origin in listed {
        let answer = from(&node, origin, "cors").expect(200, origin);
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin), "{answer}");
        let preflight = Request::new("OPTIONS", "/store/cors")
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "DELETE")
            .header("Access-Control-Request-Headers", "content-type");
        let answer = node.request(preflight);
        assert!([200, 204].contains(&answer.status), "preflight from {origin}: {answer}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin), "preflight");
        let methods = answer.header("access-control-allow-methods").unwrap_or("").to_owned();
        assert!(methods.contains("DELETE"), "methods {methods:?}");
        let headers = answer.header("access-control-allow-headers").unwrap_or("").to_ascii_lowercase();
        assert!(headers.contains("content-type"), "headers {headers:?}");
        // A page must be able to read why something failed.
        let missing = node.request(Request::new("GET", "/store/nothing").header("Origin", origin));
        assert_eq!(missing.header("access-control-allow-origin"), Some(origin), "on an error");
    }
    from(&node, "https://ui.example.org.evil.example", "x").problem(403, "a longer name");
    from(&node, "http://ui.example.org", "x").problem(403, "another scheme");
    assert!(node.delete("/store/cors").expect(200, "curl").header("access-control-allow-origin").is_none());
}

/// What a browser sends for `fetch(path)` in a page of `http://HOST:port`: no `Origin`, for it is the same one.
fn same_origin(node: &Node, host: &str, path: &str) -> crate::harness::Answer {
    let authority = format!("{host}:{}", port(node));
    let request = Request::new("GET", path)
        .header("Host", &authority)
        .header("User-Agent", "Mozilla/5.0")
        .header("Accept", "*/*")
        .header("Referer", &format!("http://{authority}/"))
        .header("Sec-Fetch-Site", "same-origin")
        .header("Sec-Fetch-Mode", "cors")
        .header("Sec-Fetch-Dest", "empty");
    node.request(request)
}

fn a_page_with_a_rebound_dns_name_reads_nothing() {
    let node = Setup::named("node1").set("HUSKV_HTTP_ALLOWED_HOSTS", "kv.example.org").start();
    node.put("secret", "s");
    for path in ["/store/secret", "/store?prefix=", "/watch?prefix=", "/raft/stats", "/openapi.json"] {
        let refused = same_origin(&node, "evil.example", path).problem(421, path).code("unknown_host", path);
        assert!(refused.word("detail").contains("http.allowed_hosts"), "{refused}");
    }
    for known in ["127.0.0.1", "localhost", "[::1]", "kv.example.org"] {
        same_origin(&node, known, "/store/secret").expect(200, known);
    }
    let health = same_origin(&node, "evil.example", "/health").expect(200, "a probe");
    assert!(health.body.is_empty() && health.header("x-huskv-node").is_none(), "{health}");
    // A picture, a script or a link of another site says so.
    let image = Request::new("GET", "/store/secret?raw").header("Sec-Fetch-Site", "cross-site");
    let image = image.header("Sec-Fetch-Mode", "no-cors").header("Sec-Fetch-Dest", "image");
    node.request(image).problem(403, "another site").code("cross_origin", "another site");
    let own = node.get("/store/secret").expect(200, "curl");
    assert_eq!(own.header("cross-origin-resource-policy"), Some("same-origin"));
    assert_eq!(own.header("x-content-type-options"), Some("nosniff"));
}
