//! Leader election among clients: the client that created the key leads until it resigns or its lease ends.
//!
//! Why: "one of us does the nightly job" needs an election, and candidates that learn of a vacancy at once instead of
//! polling. A candidate that finds the key taken watches it and tries again when it is deleted or expires.
//!
//! The term is the key's version at the election: a leader that was paused has a smaller one than its successor, so what
//! it works on can refuse it.
//!
//! Run it beside `cargo run --release -- demo`, in two terminals: `cargo run --example leader_election NAME`.

use std::process::ExitCode;
use std::time::Duration;

use huskv::client::{Client, Condition, EventKind, Failure, Read, Scope, Write};

/// Seconds until a leader that does not renew its lease is succeeded.
const LEASE: u64 = 10;

/// Waits until `candidate` leads; its term.
///
/// # Errors
/// The cluster could not be asked for longer than the client's timeout.
pub async fn campaign(client: &Client, election: &str, candidate: &str) -> Result<u64, Failure> {
    loop {
        match put(client, election, candidate, Condition::Absent).await {
            Err(failure) if failure.code == "precondition_failed" => vacancy(client, election).await?,
            elected => return elected,
        }
    }
}

/// Extends the lease; the term from now on.
///
/// # Errors
/// With the code `precondition_failed` another candidate leads. After any other error try again, until the lease ends.
pub async fn renew(client: &Client, election: &str, candidate: &str, term: u64) -> Result<u64, Failure> {
    put(client, election, candidate, Condition::Version(term)).await
}

/// Gives the leadership up.
///
/// # Errors
/// As [`renew`].
pub async fn resign(client: &Client, election: &str, term: u64) -> Result<(), Failure> {
    let write = Write { condition: Condition::Version(term), ..Write::default() };
    client.delete(election, &write).await.map(|_| ())
}

/// The candidate that leads now.
///
/// # Errors
/// The cluster could not be asked.
pub async fn leader(client: &Client, election: &str) -> Result<Option<String>, Failure> {
    let stored = client.get(election, &Read::default()).await?;
    Ok(stored.map(|stored| String::from_utf8_lossy(&stored.bytes).into_owned()))
}

async fn put(client: &Client, election: &str, candidate: &str, condition: Condition) -> Result<u64, Failure> {
    let write = Write { condition, ttl: Some(LEASE), ..Write::default() };
    client.put(election, candidate.to_owned(), &write).await
}

/// Waits until the key is gone. The read comes after the watch has its position, so no deletion is missed.
async fn vacancy(client: &Client, election: &str) -> Result<(), Failure> {
    let mut watch = client.watch(Scope::Key(election.to_owned()), None, None);
    loop {
        // The first event is the progress at which the watch begins.
        let event = match watch.next().await {
            Err(failure) if failure.code == "compacted" || failure.code == "lagged" => return Ok(()),
            event => event?,
        };
        let gone = match event.kind {
            EventKind::Delete | EventKind::Expire => true,
            EventKind::Progress => leader(client, election).await?.is_none(),
            EventKind::Put | EventKind::Lagged => false,
        };
        if gone {
            return Ok(());
        }
    }
}

async fn run(client: &Client, name: &str) -> Result<(), Failure> {
    let mut term = campaign(client, "example/leader", name).await?;
    println!("{name} leads, term {term}");
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(LEASE / 3)).await;
        term = renew(client, "example/leader", name, term).await?;
    }
    resign(client, "example/leader", term).await?;
    println!("{name} has resigned");
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let endpoints = std::env::var("HUSKV_ENDPOINTS").unwrap_or_else(|_| "127.0.0.1:2221".to_owned());
    let client = Client::new(endpoints.split(','), Client::TIMEOUT);
    let name = std::env::args().nth(1).unwrap_or_else(|| format!("candidate-{}", std::process::id()));
    match run(&client, &name).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("leader_election: {failure}");
            ExitCode::FAILURE
        }
    }
}
