//! Warnings before the end of a certificate.
//!
//! Why: a certificate that is not renewed ends a cluster on a date that was known for a year.
//!
//! Invariants: the warning begins [`WARNING_TIME`] before the end, and does not stop by itself.
//!
//! See also: `docs/tls.md` (how certificates are replaced).

use std::time::{Duration, SystemTime};

use slog::{Logger, warn};

use super::certificate::CertificateInfo;

/// How long before the end the warning begins.
pub const WARNING_TIME: Duration = Duration::from_secs(14 * 24 * 3600);
/// The interval of the log line.
const REPEAT: Duration = Duration::from_secs(24 * 3600);

/// Returns the warning that is due at `now` for a certificate with this end.
#[must_use]
pub fn warning(not_after: SystemTime, now: SystemTime) -> Option<String> {
    let on = humantime::format_rfc3339_seconds(not_after);
    match not_after.duration_since(now) {
        Err(_) => Some(format!("the certificate expired on {on}")),
        Ok(left) if left < WARNING_TIME => {
            let days = left.as_secs() / (24 * 3600);
            Some(format!("the certificate expires on {on}, in {days} days"))
        }
        Ok(_) => None,
    }
}

/// The daily log line about one certificate.
#[derive(Debug, Default)]
pub struct ExpiryLog {
    /// When the last line was logged, and the end that it named.
    last: Option<(SystemTime, SystemTime)>,
}

impl ExpiryLog {
    /// Logs the warning about the certificate of `port`, if one is due.
    pub fn check(&mut self, port: &str, info: &CertificateInfo, log: &Logger) {
        if let Some(warning) = self.due(info.not_after, SystemTime::now()) {
            warn!(log, "{}; replace its files, the node reads them again by itself", warning; "port" => port,
                "subject" => &info.subject, "names" => info.names());
        }
    }

    fn due(&mut self, not_after: SystemTime, now: SystemTime) -> Option<String> {
        let warning = warning(not_after, now)?;
        // A clock that was set back must not silence the line for longer than a day.
        let is_recent = self
            .last
            .is_some_and(|(at, of)| of == not_after && now.duration_since(at).is_ok_and(|since| since < REPEAT));
        if is_recent {
            return None;
        }
        self.last = Some((now, not_after));
        Some(warning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn the_warning_begins_fourteen_days_before_the_end() {
        let now = SystemTime::UNIX_EPOCH + 20_000 * DAY;
        assert_eq!(warning(now + 14 * DAY, now), None);
        assert_eq!(
            warning(now + 14 * DAY - Duration::from_secs(1), now).unwrap(),
            "the certificate expires on 2024-10-17T23:59:59Z, in 13 days"
        );
        assert!(warning(now + DAY / 2, now).unwrap().ends_with("in 0 days"));
        assert_eq!(warning(now - DAY, now).unwrap(), "the certificate expired on 2024-10-03T00:00:00Z");
    }

    #[test]
    fn it_is_logged_once_a_day_and_at_once_for_another_certificate() {
        let (now, mut log) = (SystemTime::UNIX_EPOCH + 20_000 * DAY, ExpiryLog::default());
        let end = now + 5 * DAY;
        assert!(log.due(now + 90 * DAY, now).is_none());
        assert!(log.due(end, now).is_some());
        assert!(log.due(end, now + DAY - Duration::from_secs(1)).is_none());
        assert!(log.due(end, now + DAY).is_some());
        assert!(log.due(end + DAY, now + DAY).is_some(), "another certificate");
        assert!(log.due(end + DAY, now).is_some(), "the clock was set back");
    }
}
