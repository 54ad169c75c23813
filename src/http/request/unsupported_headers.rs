//! Unsupported request headers: those that would change the meaning of a request, refused on every route.
//!
//! Why: ignoring such a header would carry out another request than the one that was sent. `PUT` with `Content-Range` would
//! store a part of a file as the whole of it, and a compressed body would be stored as text.
//!
//! Invariants: checked before any route. A header that is not supported is refused by name; what RFC 9110 lets a server
//! ignore (`Range` and `If-Modified-Since` of a read, `Upgrade`) is ignored.
//!
//! See also: the headers of some routes ([`super::conditions`], [`super::idempotency`], [`super::content`]), and those that
//! browsers add ([`crate::http::server::browser_guard`], [`crate::http::server::host_guard`]).

use warp::http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, EXPECT, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};

use crate::http::response::problem::{Problem, clip};

/// Headers that some frameworks read as another method than that of the request line.
const OVERRIDES: [HeaderName; 3] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
];

/// Checks the headers of a request.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), Problem> {
    // Most requests have none of them: one look at each of their few headers, instead of a search for each name.
    if !headers.keys().any(is_checked) {
        return Ok(());
    }
    if headers.contains_key(CONTENT_RANGE) {
        let detail = "header `Content-Range` makes the body a part of a value, and huskv stores whole ones only";
        return Err(Problem::header(detail));
    }
    for name in &OVERRIDES {
        if headers.contains_key(name) {
            return Err(Problem::header(format!("header `{name}` is not understood; send the method itself")));
        }
    }
    if let Some(other) = other_than(headers, &CONTENT_ENCODING, "identity") {
        let detail = format!("header `Content-Encoding` is `{}`; send the body as it is", clip(&other));
        return Err(Problem::media_type(detail));
    }
    if let Some(other) = other_than(headers, &TRANSFER_ENCODING, "chunked") {
        let detail = format!("header `Transfer-Encoding` is `{}`, and huskv knows `chunked` only", clip(&other));
        return Err(Problem::media_type(detail));
    }
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        // Request smuggling: a proxy that goes by the length and a server that goes by the chunks disagree on where the next
        // request begins (RFC 9112, section 6.3). hyper would let the chunks win.
        return Err(Problem::header("headers `Transfer-Encoding` and `Content-Length` exclude each other"));
    }
    if let Some(other) = other_than(headers, &EXPECT, "100-continue") {
        return Err(Problem::header(format!(
            "header `Expect` is `{}`, and huskv knows 100-continue only",
            clip(&other)
        )));
    }
    Ok(())
}

/// Whether a header of this name may be refused.
fn is_checked(name: &HeaderName) -> bool {
    [CONTENT_RANGE, CONTENT_ENCODING, TRANSFER_ENCODING, EXPECT].contains(name) || OVERRIDES.contains(name)
}

/// Returns the first element of a list header that is not `known`.
fn other_than(headers: &HeaderMap, name: &HeaderName, known: &str) -> Option<String> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let values: Vec<_> = headers.get_all(name).iter().map(text).collect();
    // Several lines of one list header are one list (RFC 9110, section 5.3), so `gzip` in a second line counts as well.
    let mut elements = values.iter().flat_map(|value| value.split(',')).map(str::trim);
    elements.find(|element| !element.is_empty() && !element.eq_ignore_ascii_case(known)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_change_the_meaning_of_a_body_are_refused() {
        let status = |lines: &[(HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name, HeaderValue::from_static(value));
            }
            check(&headers).err().map(|problem| problem.respond(&warp::http::Method::PUT).status().as_u16())
        };
        for (name, sound, broken, expected) in [
            (CONTENT_ENCODING, "identity", "gzip", 415),
            (CONTENT_ENCODING, "Identity, identity", "identity, br", 415),
            (TRANSFER_ENCODING, "chunked", "gzip, chunked", 415),
            (EXPECT, "100-Continue", "200-ok", 400),
        ] {
            assert_eq!(status(&[(name.clone(), sound)]), None, "{name}: {sound}");
            assert_eq!(status(&[(name.clone(), broken)]), Some(expected), "{name}: {broken}");
            assert_eq!(status(&[(name.clone(), sound), (name.clone(), broken)]), Some(expected), "{name} twice");
        }
        assert_eq!(status(&[(CONTENT_RANGE, "bytes 4-9/10")]), Some(400));
        assert_eq!(status(&[(OVERRIDES[0].clone(), "DELETE")]), Some(400));
        assert_eq!(status(&[(TRANSFER_ENCODING, "chunked"), (CONTENT_LENGTH, "5")]), Some(400));
        assert_eq!(status(&[(CONTENT_LENGTH, "5")]), None);
    }
}
