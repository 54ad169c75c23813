//! Wrong wall clocks: no start, no response and no guarantee depends on them.

use std::process::Command;

use serde_json::json;

use crate::harness::{Need, Request, Setup, eventually, secs};

crate::harness::cases![a_wrong_or_stopped_wall_clock_does_no_harm.needs(Need::Cc),];

/// Answers every question for the wall clock with the seconds of the environment, and for each that has passed since the
/// first question with so many more as it says; leaves the monotonic clock alone.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static int real(clockid_t which, struct timespec *now) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next) next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    return next(which, now);
}

static time_t wall(void) {
    static time_t begun;
    struct timespec now;
    real(CLOCK_MONOTONIC, &now);
    if (!begun) begun = now.tv_sec;
    return atoll(getenv("WALL_CLOCK")) + (now.tv_sec - begun) * atoll(getenv("WALL_STEP"));
}

int clock_gettime(clockid_t which, struct timespec *now) {
    if (which != CLOCK_REALTIME && which != CLOCK_REALTIME_COARSE) return real(which, now);
    now->tv_sec = wall();
    now->tv_nsec = 0;
    return 0;
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

/// Wall clocks: where they begin, how many seconds they go in one, and whether answers tell the date, where that is the
/// same all the time.
const CLOCKS: [(i64, i64, Option<bool>); 9] = [
    // Right, standing still, and leaping back by a day each second.
    (1_795_000_000, 1, Some(true)),
    (1_795_000_000, 0, Some(true)),
    (1_795_000_000, -86_400, Some(true)),
    // 1960, the last second before 1970, and its first ones: to 1970 and back.
    (-315_619_200, 1, Some(false)),
    (-2, 1, None),
    (1, -1, None),
    // 2233, after which Linux lets no clock be set, over the end of 9999, and 12000.
    (8_300_000_000, 1, Some(true)),
    (253_402_300_798, 1, None),
    (316_516_000_000, 1, Some(false)),
];

fn a_wrong_or_stopped_wall_clock_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let (source, library) = (directory.path().join("clock.c"), directory.path().join("clock.so"));
    std::fs::write(&source, CLOCK).unwrap();
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    assert!(built.unwrap().success());
    for (wall, step, tells) in CLOCKS {
        let setup = Setup::named("node1").set("LD_PRELOAD", library.display());
        let mut node = setup.set("WALL_CLOCK", wall).set("WALL_STEP", step).start();
        let said = format!("from {wall}, {step} a second");
        for round in 0..2 {
            let body = json!({"key": "k", "value": round, "ttl": 600}).to_string();
            let named = Request::new("POST", "/store").header("Idempotency-Key", &round.to_string()).body(body);
            let put = node.request(named.clone()).expect(200, "a write");
            if let Some(tells) = tells {
                assert_eq!(put.header("date").is_some(), tells, "a date that is none is not told: {said}");
            }
            let again = node.request(named).expect(200, "the same again");
            assert_eq!(again.header("idempotency-replayed"), Some("true"), "{said}");
            let short = json!({"key": "short", "value": round, "ttl": 1});
            node.post("/store", &short).expect(200, "a write for a second");
            // The clock begins where it began when the directory was opened last.
            assert!(node.sigterm().success(), "{said}: {}", node.log());
            node.start();
            assert_eq!(node.get("/store/k").expect(200, "it is there").data()["value"], round, "{said}");
        }
        eventually(secs(10), format!("the short one is gone, {said}"), || match node.get("/store/short").status {
            404 => Ok(()),
            status => Err(status.to_string()),
        });
        assert!(!node.log().contains("panic"), "{said}: {}", node.log());
    }
}
