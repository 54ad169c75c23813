//! Disk usage and restart time, at a size that a debug build reaches in a minute.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Node, Setup, blocks, check, eventually, secs};

crate::harness::cases![overwrites_do_not_grow_the_directory.alone(), a_restart_does_not_replay_the_whole_log.alone()];

/// How much the full test of the promise would be scaled; 1 is what `cargo test` runs.
fn scale() -> u64 {
    std::env::var("HUSKV_TEST_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Writes `count` values with 16 clients; `key` and `value` are made from the number of the write.
fn write(node: &Node, count: u64, key: impl Fn(u64) -> String + Sync, value: &str) {
    thread::scope(|scope| {
        for client in 0..16 {
            let key = &key;
            scope.spawn(move || (client..count).step_by(16).for_each(|number| _ = node.put(&key(number), value)));
        }
    });
}

fn overwrites_do_not_grow_the_directory() {
    // 16 KiB values: what is written in all is far above the bound, what is live far below it.
    const KEYS: u64 = 200;
    const BYTES: u64 = 16 << 10;
    let node = Setup::named("node1").start();
    let value = "x".repeat(usize::try_from(BYTES).expect("a length"));
    write(&node, 10_000 * scale(), |number| format!("key-{:03}", number * 7 % KEYS), &value);
    let live = KEYS * (BYTES + 7);
    let bound = 5 * live + (256 << 20);
    // Space comes back off the loop, so it may take a moment.
    eventually(secs(30), format!("at most {bound} bytes on disk"), || {
        let now = blocks(node.directory());
        check(now <= bound, now)
    });
    eprintln!("disk after {} overwrites of {KEYS} keys: {} bytes", 10_000 * scale(), blocks(node.directory()));
}

fn a_restart_does_not_replay_the_whole_log() {
    let keys = 12_000 * scale();
    let mut node = Setup::named("node1").start();
    write(&node, keys, |number| format!("key-{number:06}"), "a value of no particular length");
    node.kill9();
    let begun = Instant::now();
    node.start();
    let up = begun.elapsed();
    assert_eq!(node.value("key-000000"), "a value of no particular length");
    assert_eq!(node.get("/health").json()["keys"], keys.to_string());
    assert!(up < Duration::from_secs(10), "the restart with {keys} keys took {up:?}");
    eprintln!("restart after kill -9 with {keys} keys: {up:?}");
}
