//! A counter that many clients add to: compare-and-set on the key's version.
//!
//! Why: read, compute, write back is wrong where two clients do it at once. A condition on the version that was read makes
//! one of them win, and the other one begins again. An idempotency key makes an attempt safe to repeat whose answer was
//! lost: without one its outcome would be unknown.
//!
//! Run it beside `cargo run --release -- demo`: `cargo run --example counter`.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use huskv::client::{Client, Condition, Failure, Read, Write};

/// Adds `by` to the number in `key`, which begins at 0; the sum.
///
/// # Errors
/// The cluster could not be asked, or the value is no number.
pub async fn add(client: &Client, key: &str, by: u64) -> Result<u64, Failure> {
    loop {
        let (number, condition) = match client.get(key, &Read::default()).await? {
            None => (0, Condition::Absent),
            Some(stored) => (parse(&stored.bytes), Condition::Version(stored.version)),
        };
        let sum = number + by;
        let write = Write { condition, idempotency_key: Some(unique()), ..Write::default() };
        match client.put(key, sum.to_string(), &write).await {
            Ok(_) => return Ok(sum),
            // Another client was faster: read again.
            Err(failure) if failure.code == "precondition_failed" => {}
            Err(failure) => return Err(failure),
        }
    }
}

fn parse(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A name for one attempt. Programs with a source of randomness use that instead.
fn unique() -> String {
    static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("{}-{now}-{}", std::process::id(), ATTEMPTS.fetch_add(1, Ordering::Relaxed))
}

#[tokio::main]
async fn main() -> ExitCode {
    let endpoints = std::env::var("HUSKV_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:2221".to_owned());
    let client = Client::new(endpoints.split(','), Client::TIMEOUT);
    match add(&client, "example/counter", 1).await {
        Ok(sum) => {
            println!("the counter is at {sum}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("counter: {failure}");
            ExitCode::FAILURE
        }
    }
}
