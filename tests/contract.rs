//! OpenAPI document against the source: it has every error code and every route.
//!
//! See also: `tests/cluster/api/openapi.rs` for parameters and bodies, against a live node.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

fn source(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn document() -> Value {
    serde_json::from_str(&source("src/http/api/openapi.json")).expect("the document is JSON")
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
    let errors = source("src/http/response/problem.rs");
    let of_http = between(&errors, "//! | `", "` |");
    assert!(of_the_loop.len() > 20 && of_http.len() > 10, "{of_the_loop:?} {of_http:?}");
    let documented = &document()["components"]["schemas"]["Code"]["enum"];
    let documented: BTreeSet<String> =
        documented.as_array().into_iter().flatten().filter_map(|code| Some(code.as_str()?.to_owned())).collect();
    assert_eq!(documented, &of_the_loop | &of_http);
    // The table in the source has every code that is used.
    for code in between(&errors, "Self::local(StatusCode::", ",\n").iter().flat_map(|rest| rest.split('"').nth(1)) {
        assert!(of_http.contains(code), "{code} is not in the table of src/http/response/problem.rs");
    }
}

/// Words that are reserved in a language of generated clients, or that shadow a built-in name there.
const RESERVED: &str = "and as assert async await break case catch class const continue def default defer del delete do \
    elif else enum except export extends false final finally fn for from func function get global go goto head if impl \
    import in interface is lambda let list loop map match mod move mut new nil none nonlocal not null object or package \
    pass print private protected public pub put raise range ref return select self set static struct super switch this \
    throw trait true try type union unsafe use var virtual void volatile where while with yield";

/// Visits every value of the document, with the path to it.
fn each<'a>(value: &'a Value, way: &str, look: &mut dyn FnMut(&str, &'a Value)) {
    look(way, value);
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, member)| each(member, &format!("{way}/{name}"), look));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| each(item, &format!("{way}/{at}"), look));
        }
        _ => {}
    }
}

#[test]
fn the_document_uses_only_features_that_client_generators_support() {
    let document = document();
    let mut ids = BTreeSet::new();
    each(&document, "", &mut |way, value| {
        if let Some(id) = value["operationId"].as_str() {
            assert!(!RESERVED.split_whitespace().any(|word| word == id.to_lowercase()), "{id} is reserved somewhere");
            assert!(ids.insert(id.to_owned()), "{id} is the name of two operations");
        }
        let of_schema = !way.ends_with("/properties");
        assert!(!of_schema || value["type"] != "null", "{way}: a generator for Python throws");
        assert!(!of_schema || value.get("const").is_none(), "{way}: an enum of one is known to more generators");
        assert!(value["required"] != Value::Array(Vec::new()), "{way}: an empty list of required members");
        let body = way.rsplit_once("/requestBody/content/").map(|(_, kind)| kind);
        assert_ne!(body, Some("*/*"), "{way}: no generator knows what that is");
        if value.get("schema").is_some() && body == Some("application/json") {
            assert!(value["schema"]["$ref"].is_string(), "{way}: a body without a name");
        }
        if value["in"] == "header" {
            assert_eq!(value["schema"]["type"], "string", "{way}");
        }
    });
    assert!(ids.len() > 15, "{ids:?}");
}

#[test]
fn every_operation_but_probes_documents_the_limit_of_requests() {
    let document = document();
    let mut limited = 0;
    for (path, operations) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in operations.as_object().into_iter().flatten().filter(|(_, any)| any.is_object()) {
            let is_limited = operation["responses"].get("429").is_some();
            assert_eq!(
                is_limited,
                !["/health", "/livez", "/readyz", "/readyz/{check}"].contains(&path.as_str()),
                "{method} {path}"
            );
            limited += usize::from(is_limited);
        }
    }
    assert!(limited > 15, "{limited}");
}

#[test]
fn every_route_is_documented() {
    let routes = source("src/http/routes.rs");
    let mut routed = between(&routes, "warp::path(\"", "\")");
    routed.extend(between(&routes, "below(\"", "\""));
    let document = document();
    let paths = document["paths"].as_object().expect("paths");
    let documented: BTreeSet<String> = paths
        .keys()
        .flat_map(|path| path.split('/').filter(|part| !part.is_empty() && !part.starts_with('{')))
        .map(str::to_owned)
        .collect();
    assert_eq!(routed, documented);
}
