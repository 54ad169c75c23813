//! The log: one line for each event, on stderr.
//!
//! Why: it is what an operator has left when something went wrong, so its last lines must reach the terminal before the
//! process ends; and it must never hold up the node, so whoever logs hands the line to a thread and goes on.
//!
//! Laws: this is the only file that names a drain. The queue is bounded: over it lines are dropped and counted, and the
//! count is logged. A log that nobody reads any more does not stop the node.
//!
//! Not here: what is logged.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use slog::{Drain, Level, LevelFilter, Logger, o};

/// How many lines wait for stderr at most.
const QUEUE_LINES: usize = 4096;

/// How long [`Guard::flush`] waits for stderr to take the lines.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people; coloured where stderr is a terminal.
    Terminal,
    /// One JSON object a line, with `ts`, `level` and `msg`.
    Json,
}

impl Format {
    /// The format called `name`; anything but `json` is for people.
    #[must_use]
    pub fn named(name: &str) -> Self {
        if name == "json" { Self::Json } else { Self::Terminal }
    }
}

/// The level called `name` in the settings; anything unknown is info.
#[must_use]
pub fn level_named(name: &str) -> Level {
    match name {
        "critical" => Level::Critical,
        "error" => Level::Error,
        "warning" | "warn" => Level::Warning,
        "debug" => Level::Debug,
        "trace" => Level::Trace,
        _ => Level::Info,
    }
}

/// What makes sure that the last lines are written; clones share it.
#[derive(Clone)]
pub struct Guard(Arc<Mutex<Option<slog_async::AsyncGuard>>>);

impl Guard {
    /// Writes what was logged until now, for at most a second, and ends the log: lines after it are lost. Only the first
    /// call does anything. Safe to call from a panicking thread, and where nobody reads stderr.
    pub fn flush(&self) {
        let Some(inner) = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() else { return };
        let (done, wait) = sync_channel(1);
        // The guard's end waits for stderr without a bound, so it is waited for from here with one.
        let ending = std::thread::Builder::new().name("log-flush".into()).spawn(move || {
            drop(inner);
            done.send(()).ok();
        });
        if ending.is_ok() {
            wait.recv_timeout(FLUSH_LIMIT).ok();
        }
    }
}

/// Starts the log on stderr: lines of `level` and worse.
pub fn start(level: Level, format: Format) -> (Logger, Guard) {
    match format {
        Format::Terminal if io::stderr().is_terminal() => {
            root(lines(slog_term::TermDecorator::new().stderr().build()), level)
        }
        Format::Terminal => root(lines(slog_term::PlainDecorator::new(Whole::default())), level),
        Format::Json => root(slog_json::Json::new(Whole::default()).add_default_keys().set_flush(true).build(), level),
    }
}

fn lines<D: slog_term::Decorator>(decorator: D) -> slog_term::FullFormat<D> {
    slog_term::FullFormat::new(decorator).use_custom_timestamp(utc).use_original_order().build()
}

/// The logger for raft-rs, which has info lines for steps that only its developers care for: warnings and worse, unless
/// `level`, the one of the whole log, is debug or trace.
pub fn for_raft(log: &Logger, level: Level) -> Logger {
    let passes = if level.as_usize() >= Level::Debug.as_usize() { level } else { Level::Warning };
    Logger::root(LevelFilter::new(log.clone(), passes).ignore_res(), o!("from" => "raft"))
}

fn root(drain: impl Drain + Send + 'static, level: Level) -> (Logger, Guard) {
    let (queue, guard) = slog_async::Async::new(drain.ignore_res())
        .chan_size(QUEUE_LINES)
        .overflow_strategy(slog_async::OverflowStrategy::DropAndReport)
        .thread_name("log".into())
        .build_with_guard();
    // The filter is outside, so that a line nobody wants costs no copy.
    let logger = Logger::root(LevelFilter::new(queue, level).ignore_res(), o!());
    (logger, Guard(Arc::new(Mutex::new(Some(guard)))))
}

/// The time as in RFC 3339, in UTC with milliseconds: logs of several machines are read side by side.
fn utc(out: &mut dyn Write) -> io::Result<()> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = civil(since.as_secs() / 86_400);
    let second = since.as_secs() % 86_400;
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    write!(out, "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.{:03}Z", second % 60, since.subsec_millis())
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(day: u64) -> (u64, u64, u64) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, of_year - (153 * shifted_month + 2) / 5 + 1)
}

/// Stderr in whole lines, so that two writers cannot mix within one.
#[derive(Default)]
struct Whole(Vec<u8>);

impl Write for Whole {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = io::stderr().write_all(&self.0);
        self.0.clear();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slog::{debug, info, warn};

    /// A drain that keeps the messages.
    struct Kept(Arc<Mutex<Vec<String>>>);

    impl Drain for Kept {
        type Ok = ();
        type Err = slog::Never;
        fn log(&self, record: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
            self.0.lock().unwrap().push(record.msg().to_string());
            Ok(())
        }
    }

    fn lines(level: Level, write: impl FnOnce(&Logger)) -> Vec<String> {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (log, guard) = root(Kept(kept.clone()), level);
        write(&log);
        guard.flush();
        guard.flush();
        std::mem::take(&mut *kept.lock().unwrap())
    }

    #[test]
    fn a_flush_writes_what_was_logged_and_the_level_filters() {
        let got = lines(Level::Info, |log| {
            debug!(log, "no");
            info!(log, "yes");
        });
        assert_eq!(got, ["yes"]);
    }

    #[test]
    fn raft_is_quiet_unless_asked() {
        let say = |log: &Logger| {
            info!(log, "step");
            warn!(log, "odd");
        };
        assert_eq!(lines(Level::Info, |log| say(&for_raft(log, Level::Info))), ["odd"]);
        assert_eq!(lines(Level::Debug, |log| say(&for_raft(log, Level::Debug))), ["step", "odd"]);
        assert_eq!(lines(Level::Error, |log| say(&for_raft(log, Level::Error))), Vec::<String>::new());
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_453), (2025, 12, 31));
        assert_eq!(civil(20_454), (2026, 1, 1));
    }

    #[test]
    fn names_of_the_settings_are_understood() {
        assert_eq!(level_named("warn"), Level::Warning);
        assert_eq!(level_named("trace"), Level::Trace);
        assert_eq!(Format::named("json"), Format::Json);
    }
}
