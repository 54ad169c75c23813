//! The document of the API against the source: every code that can be answered is in it, and every route.
//!
//! Why: a document that lags behind misleads whoever builds on it. What the routes take is asked of a live node, in
//! `tests/cluster`.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

fn source(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn document() -> Value {
    serde_json::from_str(&source("src/http/openapi.json")).expect("the document is JSON")
}

/// Everything between `before` and the next `after` on each line.
fn between(text: &str, before: &str, after: &str) -> BTreeSet<String> {
    let found = text.lines().filter_map(|line| Some(line.split_once(before)?.1.split_once(after)?.0.to_owned()));
    found.collect()
}

#[test]
fn every_code_is_documented() {
    let refusals = source("src/model/refusal.rs");
    let of_the_loop = between(&refusals, " => \"", "\"");
    let errors = source("src/http/errors.rs");
    let of_http = between(&errors, "//! | `", "` |");
    assert!(of_the_loop.len() > 20 && of_http.len() > 10, "{of_the_loop:?} {of_http:?}");
    let documented = &document()["components"]["schemas"]["Code"]["enum"];
    let documented: BTreeSet<String> =
        documented.as_array().into_iter().flatten().filter_map(|code| Some(code.as_str()?.to_owned())).collect();
    assert_eq!(documented, &of_the_loop | &of_http);
    // The table in the source is complete: whatever is answered stands in it.
    for code in between(&errors, "Self::local(StatusCode::", ",\n").iter().flat_map(|rest| rest.split('"').nth(1)) {
        assert!(of_http.contains(code), "{code} is not in the table of src/http/errors.rs");
    }
}

#[test]
fn every_route_is_documented() {
    let routes = source("src/http/routes.rs");
    let mut routed = between(&routes, "warp::path(\"", "\")");
    routed.extend(between(&routes, " at(\"", "\")"));
    let document = document();
    let paths = document["paths"].as_object().expect("paths");
    let documented: BTreeSet<String> = paths
        .keys()
        .flat_map(|path| path.split('/').filter(|part| !part.is_empty() && !part.starts_with('{')))
        .map(str::to_owned)
        .collect();
    assert_eq!(routed, documented);
}
