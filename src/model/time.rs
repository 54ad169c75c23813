//! Durations and instants as numbers, and the duration syntax of clients.

use std::str::FromStr;
use std::time::Duration;

/// Milliseconds; an instant counts from the start of the process's monotonic clock (`consensus::Clock`).
pub type Millis = u64;

/// A duration as clients and flags write it: a whole number with the unit `ms` or `s`, such as `500ms` or `2s`; not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientDuration(
    /// The duration.
    pub Duration,
);

impl FromStr for ClientDuration {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const SYNTAX: &str = "a duration is a whole number of ms or s, such as 500ms or 2s";
        let (digits, unit) = match text.strip_suffix("ms") {
            Some(digits) => (digits, 1),
            None => (text.strip_suffix('s').ok_or(SYNTAX)?, 1000),
        };
        // The standard parser would accept a sign.
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(SYNTAX);
        }
        // Seconds near the end of u64 overflow as milliseconds.
        match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)) {
            None | Some(0) => Err(SYNTAX),
            Some(ms) => Ok(Self(Duration::from_millis(ms))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_with_a_unit() {
        for (text, ms) in [("1ms", 1), ("500ms", 500), ("2s", 2_000), ("86400s", 86_400_000)] {
            assert_eq!(text.parse(), Ok(ClientDuration(Duration::from_millis(ms))), "{text}");
        }
        for text in ["", "s", "ms", "5", "0s", "+5s", "-5s", "1.5s", " 5s", "5 s", "5m", "18446744073709551615s"] {
            assert!(text.parse::<ClientDuration>().is_err(), "{text}");
        }
    }
}
