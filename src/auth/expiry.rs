//! Times of expiry, RFC 3339 with any offset.
//!
//! See also: `humantime`, which formats times but parses only those in UTC.

use std::time::{Duration, SystemTime};

use toml::value::{Datetime, Offset};

/// Parses a time with its offset, such as `2027-01-31T00:00:00Z` or `2027-01-31T02:00:00+02:00`.
///
/// # Errors
/// The reason, with the text.
pub fn parse_expiry(text: &str) -> Result<SystemTime, String> {
    let wrong = || format!("{text:?} is no RFC 3339 time such as 2027-01-31T00:00:00Z");
    let parsed: Datetime = text.parse().map_err(|_| wrong())?;
    let (Some(date), Some(time), Some(offset)) = (parsed.date, parsed.time, parsed.offset) else { return Err(wrong()) };
    let offset = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let days = days_since_epoch(i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let minutes = days * 1440 + i64::from(time.hour) * 60 + i64::from(time.minute) - offset;
    let seconds = u64::try_from(minutes * 60 + i64::from(time.second)).map_err(|_| wrong())?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Formats a time in seconds, in UTC.
#[must_use]
pub fn format_time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Counts the days from 1970-01-01 to a date of the Gregorian calendar.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    // A year that begins in March ends with its leap day.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_date_a_time_and_an_offset() {
        // Computed with `date -u -d TEXT +%s`.
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2027-01-31T02:00:00+02:00", 1_801_353_600),
            ("2027-01-31 00:00:00-00:30", 1_801_355_400),
            ("2100-03-01T00:00:00.5Z", 4_107_542_400),
        ] {
            assert_eq!(parse_expiry(text), Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "tomorrow",
            "2027-01-31",
            "2027-01-31T00:00:00",
            "12:00:00",
            "2027-02-30T00:00:00Z",
            "0001-01-01T00:00:00Z",
        ] {
            assert!(parse_expiry(text).is_err(), "{text}");
        }
        assert_eq!(format_time(parse_expiry("2027-01-31T02:00:00+02:00").unwrap()), "2027-01-31T00:00:00Z");
    }
}
