//! `/readyz`: whether the node takes requests, by named checks.
//!
//! Why: load balancers want a status, and people and scripts the check that fails, and why. What a check means for an installation is for the
//! operator to say, so each can be excluded, or asked for alone.
//!
//! Invariants: a check that is excluded is not looked at, and never fails. Where the node wants a token, a client without one learns whether
//! the checks hold, and not why they do not.
//!
//! See also: [`super::checks`].

use warp::http::StatusCode;
use warp::http::header::{HeaderValue, RETRY_AFTER};
use warp::reply::Response;

use super::checks::{CHECKS, Check, Failure};
use super::{VERBOSE, text};
use crate::http::api::deadline_after;
use crate::http::request::handler_context::RequestContext;
use crate::http::request::uri::{self, TIMEOUT, listed};
use crate::http::response::problem::{Problem, clip};

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    checks: Vec<Check>,
    excluded: Vec<Check>,
    verbose: bool,
}

/// How a check has ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Holds,
    Excluded,
    Fails(Failure),
}

/// Serves `GET /readyz` and `GET /readyz/CHECK`.
pub(crate) async fn readyz(request: RequestContext) -> Result<Response, Problem> {
    request.takes_get()?;
    let (asked, timeout) = parse(request.tail(), request.query())
        .map_err(|problem| problem.unwrap_or_else(|| no_check(request.path())))?;
    let deadline = deadline_after(&request, timeout.as_deref())?;
    let mut results = Vec::new();
    for check in asked.checks {
        let ended = if asked.excluded.contains(&check) {
            Ended::Excluded
        } else {
            check.failure(&request.context, deadline).await.map_or(Ended::Holds, Ended::Fails)
        };
        results.push((check, ended));
    }
    Ok(respond(&results, asked.verbose, request.caller.is_known()))
}

/// Parses the rest of the path and the query, with the value of `timeout`. The error is None for an unknown check in the path.
fn parse(tail: &str, query: &str) -> Result<(Asked, Option<String>), Option<Problem>> {
    if tail.is_empty() {
        let [timeout, verbose, names] = uri::repeated(query, [TIMEOUT, VERBOSE, "exclude"])?;
        let (timeout, verbose) = (uri::single(TIMEOUT, timeout)?, uri::single(VERBOSE, verbose)?);
        let excluded = names.iter().map(|name| Check::named(name).ok_or_else(|| unknown(name)));
        let excluded = excluded.collect::<Result<_, _>>()?;
        let verbose = uri::flag(verbose.as_deref(), VERBOSE)?;
        return Ok((Asked { checks: CHECKS.to_vec(), excluded, verbose }, timeout));
    }
    let [timeout, verbose] = uri::parameters(query, [TIMEOUT, VERBOSE])?;
    let verbose = uri::flag(verbose.as_deref(), VERBOSE)?;
    let check = Check::named(tail.strip_suffix('/').unwrap_or(tail)).ok_or(None)?;
    Ok((Asked { checks: vec![check], excluded: Vec::new(), verbose }, timeout))
}

/// Returns the names of all checks, for a message.
fn names() -> String {
    listed(&CHECKS.map(Check::name))
}

fn unknown(name: &str) -> Problem {
    Problem::query(format!("query parameter `exclude` names a check, one of {}, not `{}`", names(), clip(name)))
}

fn no_check(path: &str) -> Problem {
    Problem::no_route(path).within(&format!("the checks of /readyz are {}", names()))
}

/// Answers with these results; `with_reasons` for a client that may know them.
fn respond(results: &[(Check, Ended)], verbose: bool, with_reasons: bool) -> Response {
    let fails = results.iter().any(|(_, ended)| matches!(ended, Ended::Fails(_)));
    let mut body = String::new();
    if with_reasons && (fails || verbose) {
        body.extend(results.iter().map(|(check, ended)| line(*check, ended)));
    }
    body += if fails { "not ready\n" } else { "ok\n" };
    let mut response = text(&body);
    if fails {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn line(check: Check, ended: &Ended) -> String {
    let name = check.name();
    match ended {
        Ended::Holds => format!("[+]{name} ok\n"),
        Ended::Excluded => format!("[+]{name} excluded: ok\n"),
        Ended::Fails(Failure { code, detail }) => format!("[-]{name} failed: {code}: {}\n", detail.replace('\n', " ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_excluded_by_name_and_asked_for_alone() {
        let parsed = |check: &str, query: &str| {
            parse(check, query).map(|(asked, _)| asked).map_err(|problem| {
                problem.map(|problem| String::from_utf8(problem.to_json(&warp::http::Method::GET)).unwrap())
            })
        };
        let all = |excluded: &[Check], verbose| Asked { checks: CHECKS.to_vec(), excluded: excluded.to_vec(), verbose };
        assert_eq!(parsed("", ""), Ok(all(&[], false)));
        assert_eq!(parsed("", "timeout=1s&verbose"), Ok(all(&[], true)));
        assert_eq!(
            parsed("", "exclude=disk&verbose=true&exclude=read%5Findex"),
            Ok(all(&[Check::Disk, Check::ReadIndex], true))
        );
        let leader = Asked { checks: vec![Check::Leader], excluded: Vec::new(), verbose: false };
        assert_eq!(parsed("leader", "timeout=1s"), Ok(leader));
        assert_eq!(parsed("leaders", ""), Err(None));
        for (check, query, said) in [
            ("", "exclude=disc", "`joined`, `leader`, `read_index`, `applied`, `disk`, `draining`, not `disc`"),
            ("", "exclude=", "not ``"),
            ("", "verbose&verbose", "`verbose` is given more than once"),
            ("", "verbose=1", "`verbose` is a flag"),
            ("", "zz=1", "this route knows `timeout`, `verbose`, `exclude`"),
            ("leader", "exclude=disk", "this route knows `timeout`, `verbose`"),
        ] {
            let problem = parsed(check, query).unwrap_err().expect(query);
            assert!(problem.contains(said) && problem.contains("bad_query"), "{query}: {problem}");
        }
    }

    #[test]
    fn every_check_has_a_line_where_one_fails_or_where_it_is_asked_for() {
        let why = || Ended::Fails(Failure { code: "no_leader", detail: "it knows\nnone".into() });
        let results = |leader| [(Check::Joined, Ended::Holds), (Check::Leader, leader), (Check::Disk, Ended::Excluded)];
        let lines = "[+]joined ok\n[-]leader failed: no_leader: it knows none\n[+]disk excluded: ok\nnot ready\n";
        for (leader, verbose, with_reasons, status, body) in [
            (Ended::Holds, false, true, 200, "ok\n"),
            (Ended::Holds, true, true, 200, "[+]joined ok\n[+]leader ok\n[+]disk excluded: ok\nok\n"),
            (Ended::Holds, true, false, 200, "ok\n"),
            (why(), false, true, 503, lines),
            (why(), true, true, 503, lines),
            (why(), true, false, 503, "not ready\n"),
        ] {
            let results = results(leader);
            let response = respond(&results, verbose, with_reasons);
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers().contains_key(RETRY_AFTER), status == 503);
            let read = http_body_util::BodyExt::collect(response.into_body());
            let read = futures_util::FutureExt::now_or_never(read).unwrap().unwrap().to_bytes();
            assert_eq!(read, body);
        }
    }
}
