//! Wall clocks that are wrong: no start, no answer and no guarantee depends on them.

use std::process::Command;

use serde_json::json;

use crate::harness::{Need, Request, Setup};

crate::harness::cases![a_wall_clock_that_is_wrong_or_stands_still_harms_nobody.needs(Need::Cc),];

/// Answers every question for the wall clock with the seconds of the environment, and leaves the monotonic one alone.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static time_t wall(void) { return atoll(getenv("WALL_CLOCK")); }

int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE) {
        now->tv_sec = wall();
        now->tv_nsec = 0;
        return 0;
    }
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    return real(which, now);
}

int gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    now->tv_sec = wall();
    now->tv_usec = 0;
    return 0;
}

time_t time(time_t *now) {
    if (now) *now = wall();
    return wall();
}
"#;

fn a_wall_clock_that_is_wrong_or_stands_still_harms_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let (source, library) = (directory.path().join("clock.c"), directory.path().join("clock.so"));
    std::fs::write(&source, CLOCK).unwrap();
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    assert!(built.unwrap().success());
    // The first moment of 1970, 2026 over and over, and 2229: Linux lets no clock be set to before 1970 or after 2232, where
    // sled's settings and hyper's date panic.
    for wall in [0_i64, 1_795_000_000, 8_200_000_000] {
        let setup = Setup::named("node1").set("LD_PRELOAD", library.display()).set("WALL_CLOCK", wall);
        let mut node = setup.start();
        let sane = (0..253_402_300_800).contains(&wall);
        for round in 0..3 {
            let body = json!({"key": "k", "value": round, "ttl": 600}).to_string();
            let named = Request::new("POST", "/store").header("Idempotency-Key", &round.to_string()).body(body);
            let put = node.request(named.clone()).expect(200, "a write");
            assert_eq!(put.header("date").is_some(), sane, "a date that is none is not told ({wall})");
            let again = node.request(named).expect(200, "the same again");
            assert_eq!(again.header("idempotency-replayed"), Some("true"), "{wall}");
            // The clock stands where it stood when the directory was opened last.
            assert!(node.sigterm().success(), "{wall}");
            node.start();
            assert_eq!(node.get("/store/k").expect(200, "it is there").data()["value"], round, "{wall}");
        }
    }
}
