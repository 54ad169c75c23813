//! `/ui/`: the page with which a browser looks at the cluster, three files in the binary.
//!
//! Why: it shows what curl shows, to people with a browser, and needs no other host and no build step.
//!
//! Invariants: the files hold no data of the node, so they are open without a token and served while the node starts or is in no cluster.
//! All data comes by requests of the page, which pass the same guards and rights as those of any client. The policy in the headers lets
//! the page load nothing from elsewhere and run no script but its own; keys and values enter it as text alone.
//!
//! See also: `docs/monitoring.md`, the guard of pages of other origins ([`crate::http::server::browser_guard`]).

use std::hash::{DefaultHasher, Hasher};

use warp::http::header::{
    ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION,
    ORIGIN, REFERRER_POLICY, VARY,
};
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use super::api::deadline;
use super::request::handler_context::RequestContext;
use super::response::problem::Problem;
use super::response::success;

/// What the page may do: its own script, style and requests, and nothing else.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
     frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
);
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// A file of the page.
struct Asset {
    content_type: &'static str,
    bytes: &'static [u8],
}

const PAGE: Asset = Asset { content_type: "text/html; charset=utf-8", bytes: include_bytes!("index.html").as_slice() };
const SCRIPT: Asset =
    Asset { content_type: "text/javascript; charset=utf-8", bytes: include_bytes!("app.js").as_slice() };
const STYLE: Asset = Asset { content_type: "text/css; charset=utf-8", bytes: include_bytes!("app.css").as_slice() };

/// Serves `GET /ui/`.
pub(super) async fn page(request: RequestContext) -> Result<Response, Problem> {
    // The page names its files relative to its own path, so that it works behind a proxy with a prefix, too.
    if request.path() == "/ui" && request.context.options.ui && request.takes_get().is_ok() {
        deadline(&request)?;
        return Ok(redirect("ui/"));
    }
    serve(&request, &PAGE)
}

/// Serves `GET /ui/app.js`.
pub(super) async fn script(request: RequestContext) -> Result<Response, Problem> {
    serve(&request, &SCRIPT)
}

/// Serves `GET /ui/app.css`.
pub(super) async fn style(request: RequestContext) -> Result<Response, Problem> {
    serve(&request, &STYLE)
}

/// Returns the redirect of a browser that asks for `/`; None for every other request.
pub(super) fn from_root(request: &RequestContext) -> Option<Response> {
    let is_get = matches!(request.method, Method::GET | Method::HEAD);
    let leads = is_get && request.path() == "/" && request.context.options.ui && accepts_html(&request.headers);
    leads.then(|| redirect("ui/"))
}

/// Whether a path is one of the page, so that it needs nothing of a node but that the process runs.
pub(super) fn is_page(path: &str) -> bool {
    path.strip_prefix("/ui").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a browser opens the page itself, by a link on a page of another site, such as that of another node or a dashboard. The answer
/// has no data, and neither can the other page read it nor embed it.
pub(super) fn is_opened(method: &Method, path: &str, headers: &HeaderMap) -> bool {
    let says =
        |name: &HeaderName, value: &str| headers.get(name).is_some_and(|sent| sent.as_bytes() == value.as_bytes());
    method == Method::GET
        && matches!(path, "/" | "/ui" | "/ui/")
        && !headers.contains_key(ORIGIN)
        && says(&SEC_FETCH_MODE, "navigate")
        && says(&SEC_FETCH_DEST, "document")
}

fn serve(request: &RequestContext, asset: &Asset) -> Result<Response, Problem> {
    if !request.context.options.ui {
        return Err(Problem::no_route(request.path()));
    }
    request.takes_get()?;
    deadline(request)?;
    let tag = tag(asset.bytes);
    let known = request.headers.get(IF_NONE_MATCH).and_then(|sent| sent.to_str().ok());
    let is_known = known.is_some_and(|sent| sent.split(',').any(|one| one.trim().trim_start_matches("W/") == tag));
    let mut response = match is_known {
        true => success::empty(StatusCode::NOT_MODIFIED),
        false => Response::new(asset.bytes.into()),
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    Ok(response)
}

/// The entity tag of a file: a sum of its bytes, which another version of the binary changes.
fn tag(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    format!("\"ui-{:016x}\"", hasher.finish())
}

fn redirect(to: &'static str) -> Response {
    let mut response = success::empty(StatusCode::SEE_OTHER);
    response.headers_mut().insert(LOCATION, HeaderValue::from_static(to));
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    response
}

/// Whether `text/html` is named among the acceptable types, as browsers do and curl does not.
fn accepts_html(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_html = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"));
        is_html && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most bytes of the three files together.
    const MAX_BYTES: usize = 120 << 10;

    #[test]
    fn the_page_is_small_and_names_nothing_elsewhere() {
        let files = [&PAGE, &SCRIPT, &STYLE];
        let bytes: usize = files.iter().map(|file| file.bytes.len()).sum();
        assert!(bytes <= MAX_BYTES, "{bytes} bytes");
        for file in files {
            let text = std::str::from_utf8(file.bytes).unwrap();
            // The name of the SVG elements is the only address, and nothing is loaded from it.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for forbidden in ["https://", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!text.contains(forbidden), "{forbidden}");
            }
        }
    }

    #[test]
    fn a_browser_accepts_html_and_curl_does_not_say_so() {
        let accepts =
            |value: &'static str| accepts_html(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(value))]));
        assert!(accepts("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(!accepts("*/*") && !accepts("application/json, text/html;q=0") && !accepts_html(&HeaderMap::new()));
    }

    #[test]
    fn only_the_page_is_opened_from_another_site() {
        let of = |mode, dest| {
            let mode = (SEC_FETCH_MODE, HeaderValue::from_static(mode));
            HeaderMap::from_iter([mode, (SEC_FETCH_DEST, HeaderValue::from_static(dest))])
        };
        let headers = of("navigate", "document");
        assert!(is_opened(&Method::GET, "/ui/", &headers) && is_opened(&Method::GET, "/", &headers));
        assert!(!is_opened(&Method::GET, "/store/k", &headers) && !is_opened(&Method::POST, "/ui/", &headers));
        assert!(!is_opened(&Method::GET, "/ui/", &of("navigate", "iframe")));
        assert!(!is_opened(&Method::GET, "/ui/", &of("no-cors", "document")));
        assert!(!is_opened(&Method::GET, "/ui/", &HeaderMap::new()));
        let mut with_origin = headers;
        with_origin.insert(ORIGIN, HeaderValue::from_static("null"));
        assert!(!is_opened(&Method::GET, "/ui/", &with_origin));
    }

    #[test]
    fn paths_of_the_page_are_its_own() {
        for path in ["/ui", "/ui/", "/ui/app.js"] {
            assert!(is_page(path), "{path}");
        }
        assert!(!is_page("/") && !is_page("/uix") && !is_page("/store") && !is_page("/store/ui/"));
    }
}
