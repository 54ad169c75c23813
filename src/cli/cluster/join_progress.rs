//! Progress lines of a join: how far the snapshot for the joiner is.
//!
//! Why: a join of gigabytes takes minutes, in which its operator would see nothing.
//!
//! Invariants: the lines go to stderr, at most one a second. What cannot be read is not printed: an earlier version has no overview, and
//! the join does not depend on it.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::cli::exit::print_error;
use crate::client::{Client, TransferOverview};

/// The time between two lines.
const EVERY: Duration = Duration::from_secs(1);

/// Awaits `join`, and prints meanwhile how far the snapshot for the node `name` is.
pub(crate) async fn with_progress<T>(client: &Client, name: &str, join: impl Future<Output = T>) -> T {
    tokio::select! {
        joined = join => joined,
        () = print_progress(client, name) => unreachable!("it has no end"),
    }
}

async fn print_progress(client: &Client, name: &str) {
    let mut seconds = interval(EVERY);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        seconds.tick().await;
        let Ok(overview) = client.overview().await else { continue };
        let row = overview.members.iter().find(|member| member.name == name);
        if let Some(snapshot) = row.and_then(|member| member.snapshot) {
            print_error(line(name, snapshot));
        }
    }
}

fn line(name: &str, TransferOverview { bytes, total_bytes, bytes_per_second }: TransferOverview) -> String {
    let left = total_bytes.saturating_sub(bytes);
    let left = match left.checked_div(bytes_per_second) {
        None => String::new(),
        Some(_) if left == 0 => ", changes made meanwhile and the install are left".to_owned(),
        Some(0) => ", less than a second left".to_owned(),
        Some(seconds) => format!(", about {seconds} s left"),
    };
    format!("{name}: {} of about {} sent, {}/s{left}", mib(bytes), mib(total_bytes), mib(bytes_per_second))
}

/// Bytes for people.
fn mib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_bytes_rate_and_what_is_left() {
        let of = |bytes: u64, total_bytes: u64, bytes_per_second| {
            line("node3", TransferOverview { bytes: bytes << 20, total_bytes: total_bytes << 20, bytes_per_second })
        };
        assert_eq!(of(12, 40, 8 << 20), "node3: 12.0 MiB of about 40.0 MiB sent, 8.0 MiB/s, about 3 s left");
        assert_eq!(of(0, 40, 0), "node3: 0.0 MiB of about 40.0 MiB sent, 0.0 MiB/s");
        assert_eq!(of(38, 40, 5 << 20), "node3: 38.0 MiB of about 40.0 MiB sent, 5.0 MiB/s, less than a second left");
        assert_eq!(
            of(40, 40, 5 << 19),
            "node3: 40.0 MiB of about 40.0 MiB sent, 2.5 MiB/s, changes made meanwhile and the install are left"
        );
    }
}
