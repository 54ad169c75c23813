//! A distributed lock: a key that only one client can create, with a lease and a fencing token.
//!
//! Why: a lock service is what small clusters are most often asked for. The key's version is the fencing token: it grows
//! with every acquisition and renewal, so a resource can refuse a holder whose lease has expired meanwhile.
//!
//! Run it beside `cargo run --release -- demo`: `cargo run --example lock`.

use std::process::ExitCode;

use huskv::client::{Client, Condition, Failure, Write};

/// Seconds until the lock of a holder that does not renew it is free.
const LEASE: u64 = 30;

/// Creates the key `lock` where it does not exist; the fencing token, or None where another client holds the lock.
///
/// # Errors
/// The cluster could not be asked, or the outcome is unknown: then the lease ends a lock that was taken after all.
pub async fn acquire(client: &Client, lock: &str, owner: &str) -> Result<Option<u64>, Failure> {
    conditional(client, lock, owner, Condition::Absent).await
}

/// Extends the lease; the next fencing token, or None where the lock was lost.
///
/// # Errors
/// As [`acquire`]. The holder has to stop before its lease ends, unless a later attempt succeeds.
pub async fn renew(client: &Client, lock: &str, owner: &str, token: u64) -> Result<Option<u64>, Failure> {
    conditional(client, lock, owner, Condition::Version(token)).await
}

/// Removes the key; whether the lock was still held under this token.
///
/// # Errors
/// As [`acquire`].
pub async fn release(client: &Client, lock: &str, token: u64) -> Result<bool, Failure> {
    let write = Write { condition: Condition::Version(token), ..Write::default() };
    match client.delete(lock, &write).await {
        Err(failure) if failure.code == "precondition_failed" => Ok(false),
        deleted => deleted,
    }
}

async fn conditional(client: &Client, lock: &str, owner: &str, condition: Condition) -> Result<Option<u64>, Failure> {
    let write = Write { condition, ttl: Some(LEASE), ..Write::default() };
    match client.put(lock, owner.to_owned(), &write).await {
        Ok(token) => Ok(Some(token)),
        Err(failure) if failure.code == "precondition_failed" => Ok(None),
        Err(failure) => Err(failure),
    }
}

async fn run(client: &Client) -> Result<(), Failure> {
    let Some(token) = acquire(client, "example/lock", "worker-1").await? else {
        println!("another worker holds the lock");
        return Ok(());
    };
    println!("worker-1 holds the lock, fencing token {token}");
    println!("worker-2 is given {:?}", acquire(client, "example/lock", "worker-2").await?);
    if let Some(token) = renew(client, "example/lock", "worker-1", token).await? {
        println!("worker-1 has renewed its lease, fencing token {token}");
        println!("released: {}", release(client, "example/lock", token).await?);
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let endpoints = std::env::var("HUSKV_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:2221".to_owned());
    let client = Client::new(endpoints.split(','), Client::TIMEOUT);
    match run(&client).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("lock: {failure}");
            ExitCode::FAILURE
        }
    }
}
