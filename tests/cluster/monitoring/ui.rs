//! The page `/ui/`: its files and their headers, and, in a browser, `scripts/ui_test.py`.

use std::process::{Command, Stdio};

use crate::harness::{Need, Request, Setup, binary, tool};

crate::harness::cases![
    the_page_has_a_strict_policy_and_root_leads_browsers_to_it,
    the_page_is_open_where_nodes_want_tokens,
    a_page_that_is_turned_off_is_no_route,
    every_view_works_in_a_browser.needs(Need::Browser),
];

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
    frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

fn the_page_has_a_strict_policy_and_root_leads_browsers_to_it() {
    let node = Setup::named("node1").start();
    for (path, kind) in [
        ("/ui/", "text/html; charset=utf-8"),
        ("/ui/app.js", "text/javascript; charset=utf-8"),
        ("/ui/app.css", "text/css; charset=utf-8"),
    ] {
        let answer = node.get(path).expect(200, path);
        assert_eq!(answer.header("content-type"), Some(kind));
        assert_eq!(answer.header("content-security-policy"), Some(POLICY), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        let tag = answer.header("etag").unwrap().to_owned();
        let known = node.request(Request::new("GET", path).header("If-None-Match", &tag));
        assert_eq!((known.expect(304, path).text().as_str(), tag.starts_with("\"ui-")), ("", true));
        let head = node.request(Request::new("HEAD", path)).expect(200, path);
        assert_eq!((head.text().as_str(), head.header("etag")), ("", Some(tag.as_str())));
        node.request(Request::new("POST", path).body("{}")).problem(405, path);
    }
    let browser = |path: &str| Request::new("GET", path).header("Accept", "text/html,*/*;q=0.8");
    for path in ["/", "/ui"] {
        let answer = node.request(browser(path)).expect(303, path);
        assert_eq!(answer.header("location"), Some("ui/"));
    }
    node.get("/").problem(404, "curl asks for no page");
    node.request(Request::new("GET", "/ui/").header("Origin", "http://evil.example")).problem(403, "another origin");
    node.request(Request::new("GET", "/ui/").header("Host", "evil.example")).problem(421, "another host");
}

fn the_page_is_open_where_nodes_want_tokens() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("tokens.toml");
    std::fs::write(&file, format!("[[token]]\nname = \"a\"\nadmin = true\nsha256 = \"{}\"\n", "0".repeat(64))).unwrap();
    let node = Setup::named("node1").set("HUSKV_AUTH_TOKENS", file.to_str().unwrap()).start();
    node.get("/ui/").expect(200, "the page has no data");
    node.get("/ui/other").problem(401, "an unknown path");
    node.get("/store").problem(401, "its requests need a token");
}

fn a_page_that_is_turned_off_is_no_route() {
    let node = Setup::named("node1").set("HUSKV_UI_ENABLED", "false").start();
    for path in ["/", "/ui", "/ui/", "/ui/app.js", "/ui/app.css"] {
        let asked = node.request(Request::new("GET", path).header("Accept", "text/html"));
        assert_eq!(asked.problem(404, path).word("code"), "not_found");
    }
}

fn every_view_works_in_a_browser() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/ui_test.py");
    let python = tool("playwright").unwrap().with_file_name("python");
    let output = Command::new(python).arg(script).arg(binary()).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("ui_test.py: the test of the page passed"), "{said}");
    println!("{said}");
}
