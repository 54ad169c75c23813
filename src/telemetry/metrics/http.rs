//! Figures of the HTTP server: requests by template of their route, connections, overloads, watchers.
//!
//! Invariants: a request costs a match of its path, an index and a few additions; nothing is looked up by a label. A path that no route
//! has is `other`, and so is a method that its route does not have. HEAD counts as GET.

use std::fmt;
use std::time::Duration;

use super::counters::{Counter, Gauge};
use super::exposition::Exposition;
use super::histogram::Histogram;
use crate::telemetry::load::Buckets;

/// A method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// GET or HEAD.
    Get,
    /// PUT.
    Put,
    /// POST.
    Post,
    /// DELETE.
    Delete,
    /// Any other, or one that the route does not have.
    Other,
}

impl Verb {
    const COUNT: usize = 5;

    /// Returns the label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
            Self::Other => "other",
        }
    }

    fn of(method: &str) -> Self {
        match method {
            "GET" | "HEAD" => Self::Get,
            "PUT" => Self::Put,
            "POST" => Self::Post,
            "DELETE" => Self::Delete,
            _ => Self::Other,
        }
    }
}

/// The routes: template, methods.
pub const ROUTES: [(&str, &[Verb]); 26] = {
    use Verb::{Delete, Get, Post, Put};
    [
        ("/store/{key}", &[Get, Put, Delete]),
        ("/store", &[Get, Post, Delete]),
        ("/txn", &[Post]),
        ("/touch/{key}", &[Post]),
        ("/watch", &[Get]),
        ("/keys/{key}/", &[Get, Post]),
        ("/kv/{key}", &[Get, Put, Delete]),
        ("/health", &[Get]),
        ("/readyz", &[Get]),
        ("/livez", &[Get]),
        ("/metrics", &[Get]),
        ("/raft/stats", &[Get]),
        ("/raft/join", &[Post]),
        ("/raft/remove", &[Post]),
        ("/raft/transfer", &[Post]),
        ("/raft/snapshot", &[Post]),
        ("/admin/reload", &[Post]),
        ("/openapi.json", &[Get]),
        ("/version", &[Get]),
        ("/readyz/{check}", &[Get]),
        ("/events", &[Get]),
        ("/cluster/overview", &[Get]),
        ("/load", &[Get]),
        ("/cluster/events", &[Get]),
        ("/ui/{file}", &[Get]),
        ("other", &[]),
    ]
};

/// The place of what no route has.
const OTHER: usize = ROUTES.len() - 1;

/// The place of the files of the page.
const PAGE: usize = OTHER - 1;

/// The classes of statuses.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// What has a histogram of its own, by route and method; the rest has one together, watches aside.
const TIMED: [(usize, Verb); 7] = [
    (0, Verb::Get),
    (0, Verb::Put),
    (0, Verb::Delete),
    (1, Verb::Get),
    (1, Verb::Post),
    (2, Verb::Post),
    (3, Verb::Post),
];

/// Which of these write keys.
const PUTS: &[usize] = &[1, 2, 4, 5, 6];

/// Which of these read keys.
const GETS: &[usize] = &[0, 3];

/// The place of watches, whose answers have no end.
const WATCH: usize = 4;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    route: usize,
    verb: Verb,
}

impl Target {
    /// Finds the route of a path.
    #[must_use]
    pub fn of(method: &str, path: &str) -> Self {
        let path = path.strip_prefix('/').unwrap_or_default();
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        // One trailing slash belongs to the route.
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let route = match (first, rest) {
            ("store", "") => 1,
            ("store", _) => 0,
            ("txn", "") => 2,
            ("touch", _) => 3,
            ("watch", "") => WATCH,
            ("keys", _) => 5,
            ("kv", _) => 6,
            ("health", "") => 7,
            ("readyz", "") => 8,
            ("livez", "") => 9,
            ("metrics", "") => 10,
            ("raft", "stats") => 11,
            ("raft", "join") => 12,
            ("raft", "remove") => 13,
            ("raft", "transfer") => 14,
            ("raft", "snapshot") => 15,
            ("admin", "reload") => 16,
            ("openapi.json", "") => 17,
            ("version", "") => 18,
            ("readyz", _) => 19,
            ("events", "") => 20,
            ("cluster", "overview") => 21,
            ("load", "") => 22,
            ("cluster", "events") => 23,
            ("ui", _) => PAGE,
            _ => OTHER,
        };
        let verb = Verb::of(method);
        Self { route, verb: if ROUTES[route].1.contains(&verb) { verb } else { Verb::Other } }
    }

    /// Returns the template of the route, and the method.
    #[must_use]
    pub fn labels(self) -> (&'static str, &'static str) {
        (ROUTES[self.route].0, self.verb.as_str())
    }
}

/// What has no room for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overload {
    /// The connections.
    Connections,
    /// The memory of request bodies.
    Bodies,
    /// The memory of responses.
    Responses,
    /// The results of idempotency keys.
    Results,
    /// The watchers.
    Watchers,
    /// The queues and the memory of the loop, here or on the leader.
    Requests,
}

impl Overload {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Connections, "connections"),
        (Self::Bodies, "bodies"),
        (Self::Responses, "responses"),
        (Self::Results, "results"),
        (Self::Watchers, "watchers"),
        (Self::Requests, "requests"),
    ];

    /// Returns the label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// The HTTP server.
#[derive(Debug)]
pub struct Http {
    /// By route, method and class of the status.
    requests: [[[Counter; CLASSES.len()]; Verb::COUNT]; ROUTES.len()],
    durations: [Histogram; TIMED.len() + 1],
    /// Requests whose answer has not begun.
    pub in_flight: Gauge,
    /// Open connections.
    pub connections: Gauge,
    overloaded: [Counter; Overload::ALL.len()],
    /// Events sent, each to one watcher.
    pub watch_events: Counter,
    /// Watchers that were told that they lag.
    pub watch_lagged: Counter,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            requests: Default::default(),
            durations: std::array::from_fn(|_| Histogram::of_http()),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            overloaded: Default::default(),
            watch_events: Counter::default(),
            watch_lagged: Counter::default(),
        }
    }
}

/// A request until its answer begins, or its client is gone.
pub struct InFlight<'a>(&'a Gauge);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Http {
    /// Counts a request as under way until the result is dropped.
    #[must_use]
    pub fn begin(&self) -> InFlight<'_> {
        self.in_flight.inc();
        InFlight(&self.in_flight)
    }

    /// Counts a request that was answered with this status.
    pub fn answered(&self, Target { route, verb }: Target, status: u16, took: Duration) {
        let class = usize::from(status / 100).saturating_sub(2).min(CLASSES.len() - 1);
        self.requests[route][verb as usize][class].inc();
        if route != WATCH {
            let timed = TIMED.iter().position(|timed| *timed == (route, verb)).unwrap_or(TIMED.len());
            self.durations[timed].observe(took);
        }
    }

    /// Counts a request, or a connection, that there was no room for.
    pub fn overloaded(&self, why: Overload) {
        self.overloaded[why as usize].inc();
    }

    /// Returns the durations of requests that write keys, and of those that read keys.
    pub(super) fn puts_and_gets(&self) -> (Buckets, Buckets) {
        let all = |places: &[usize]| {
            let each = places.iter().map(|place| self.durations[*place].read().2);
            // All have the same bounds.
            each.reduce(|sum, next| sum.iter().zip(next).map(|((bound, one), (_, two))| (*bound, one + two)).collect())
        };
        (all(PUTS).unwrap_or_default(), all(GETS).unwrap_or_default())
    }

    pub(super) fn write(&self, to: &mut Exposition<'_>) -> fmt::Result {
        let rows = ROUTES.iter().enumerate().flat_map(|(at, (route, verbs))| {
            verbs.iter().chain([&Verb::Other]).flat_map(move |verb| {
                let classes = CLASSES.iter().enumerate();
                // Only a GET of a key or of a file of the page is answered 304, and `/` leads browsers to the page.
                let has_3xx = (*verb == Verb::Get && (at == 0 || at == PAGE)) || at == OTHER;
                let classes = classes.filter(move |(_, class)| **class != "3xx" || has_3xx);
                classes.map(move |(class, status)| {
                    let labels = vec![("method", verb.as_str()), ("route", *route), ("status", *status)];
                    (labels, self.requests[at][*verb as usize][class].get())
                })
            })
        });
        to.counters(
            "huskv_http_requests",
            "Requests by method, template of their route and class of the status.",
            rows,
        )?;
        let timed = TIMED.iter().map(|(route, verb)| (verb.as_str(), ROUTES[*route].0)).chain([("other", "other")]);
        let timed = timed.zip(&self.durations);
        to.histograms(
            "huskv_http_request_duration_seconds",
            "Time from the head of a request to the head of its answer; watches aside.",
            timed.map(|((method, route), histogram)| (vec![("method", method), ("route", route)], histogram)),
        )?;
        to.gauge("huskv_http_requests_in_flight", "Requests whose answer has not begun.", self.in_flight.get())?;
        to.gauge("huskv_http_connections", "Open connections of clients.", self.connections.get())?;
        to.counters(
            "huskv_http_overloaded",
            "Requests and connections refused because something was full.",
            Overload::ALL.map(|(why, label)| (vec![("why", label)], self.overloaded[why as usize].get())),
        )?;
        to.counter("huskv_watch_events", "Events sent, each to one watcher.", self.watch_events.get())?;
        to.counter("huskv_watch_lagged", "Watchers that had fallen behind the change feed.", self.watch_lagged.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_counted_under_its_template() {
        for (method, path, expected) in [
            ("GET", "/store/a", ("/store/{key}", "GET")),
            ("HEAD", "/store/a/b/", ("/store/{key}", "GET")),
            ("PUT", "/store//a", ("/store/{key}", "PUT")),
            ("POST", "/store/a", ("/store/{key}", "other")),
            ("GET", "/store", ("/store", "GET")),
            ("DELETE", "/store/", ("/store", "DELETE")),
            ("PUT", "/kv/a", ("/kv/{key}", "PUT")),
            ("GET", "/raft/stats/", ("/raft/stats", "GET")),
            ("POST", "/raft/stats", ("/raft/stats", "other")),
            ("GET", "/ui/app.js", ("/ui/{file}", "GET")),
            ("GET", "/ui", ("/ui/{file}", "GET")),
            ("GET", "/", ("other", "other")),
            ("GET", "/raft/other", ("other", "other")),
            ("GET", "/stores", ("other", "other")),
            ("BREW", "*", ("other", "other")),
            ("GET", "", ("other", "other")),
        ] {
            assert_eq!(Target::of(method, path).labels(), expected, "{method} {path}");
        }
        for (at, (template, verbs)) in ROUTES.iter().enumerate() {
            let path = template.replace("{key}", "k");
            let method = verbs.first().map_or("GET", |verb| verb.as_str());
            assert_eq!(Target::of(method, &path).route, at, "{template}");
        }
    }

    #[test]
    fn a_request_is_counted_once_and_timed_in_its_group() {
        let http = Http::default();
        let took = Duration::from_millis(3);
        for (method, path, status) in [
            ("GET", "/store/a", 200),
            ("GET", "/store/b", 304),
            ("PUT", "/store/a", 504),
            ("GET", "/watch", 200),
            ("GET", "/raft/stats", 404),
        ] {
            http.answered(Target::of(method, path), status, took);
        }
        let counted = |method, path: &str, class: usize| {
            let Target { route, verb } = Target::of(method, path);
            http.requests[route][verb as usize][class].get()
        };
        assert_eq!(
            [counted("GET", "/store/x", 0), counted("GET", "/store/x", 1), counted("PUT", "/store/x", 3)],
            [1, 1, 1]
        );
        let timed: Vec<_> = http.durations.iter().map(|histogram| histogram.read().1).collect();
        assert_eq!(timed, [2, 1, 0, 0, 0, 0, 0, 1], "a watch is not timed");
    }

    #[test]
    fn a_request_is_in_flight_until_its_guard_is_dropped() {
        let http = Http::default();
        let guard = http.begin();
        assert_eq!(http.in_flight.get(), 1);
        drop(guard);
        assert_eq!(http.in_flight.get(), 0);
    }
}
