//! The command line of `scripts/sim.sh`: one seed with its trace, many seeds, planted bugs.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::planted_bugs;
use crate::run;
use crate::trace::Trace;

const USAGE: &str = "scripts/sim.sh [--plant NAME] SEED | scripts/sim.sh [--plant NAME] --seeds N | --plant list";

/// The result of many seeds.
#[derive(Default)]
pub struct Stopped {
    /// The number of seeds without a violation.
    pub held: u64,
    /// The virtual milliseconds of all.
    pub simulated: u64,
    /// The first seed that failed, with the violation.
    pub failed: Option<(u64, String)>,
}

/// Runs seeds on all cores until one fails.
pub fn run_all(seeds: impl Iterator<Item = u64> + Send, plant: Option<&str>) -> Stopped {
    let (seeds, stopped, stop) = (Mutex::new(seeds), Mutex::new(Stopped::default()), AtomicBool::new(false));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                planted_bugs::choose(plant);
                while !stop.load(Ordering::Relaxed) {
                    let Some(seed) = seeds.lock().expect("nothing panics here").next() else { return };
                    let ended = run::run(seed, &Trace::Off);
                    let mut stopped = stopped.lock().expect("nothing panics here");
                    stopped.simulated += ended.simulated;
                    match ended.result {
                        Ok(_) => stopped.held += 1,
                        Err(failure) => {
                            stop.store(true, Ordering::Relaxed);
                            if stopped.failed.as_ref().is_none_or(|(first, _)| seed < *first) {
                                stopped.failed = Some((seed, failure));
                            }
                        }
                    }
                }
            });
        }
    });
    stopped.into_inner().expect("nothing panics here")
}

/// Runs the command of these words.
pub fn main(words: &[String]) -> ExitCode {
    // A panic of a node is the failure of its seed, and is printed as such.
    std::panic::set_hook(Box::new(|_| {}));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (plant, rest) = match words.as_slice() {
        ["--plant", "list"] => {
            planted_bugs::list();
            return ExitCode::SUCCESS;
        }
        ["--plant", name, rest @ ..] | [rest @ .., "--plant", name] => (Some(*name), rest),
        rest => (None, rest),
    };
    if let Some(name) = plant
        && !planted_bugs::choose(Some(name))
    {
        eprintln!("no planted bug has the name {name}; --plant list names them all");
        return ExitCode::from(2);
    }
    match rest {
        ["--seeds", count] => count.parse().map_or_else(|_| usage(), |count| many(count, plant)),
        [seed] => seed.parse().map_or_else(|_| usage(), one),
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: {USAGE}");
    ExitCode::from(2)
}

/// Runs one seed and prints its trace.
fn one(seed: u64) -> ExitCode {
    let ended = run::run(seed, &Trace::Stdout);
    #[allow(clippy::cast_precision_loss, reason = "minutes")]
    let minutes = ended.simulated as f64 / 60_000.0;
    match ended.result {
        Ok(digest) => {
            println!("seed {seed} holds: {minutes:.1} min simulated, digest {digest:016x}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("seed {seed} fails: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs fresh seeds, the first of which is the time in microseconds.
fn many(count: u64, plant: Option<&str>) -> ExitCode {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    // Below 2^53, so that any tool can carry it.
    let first = u64::try_from(clock & ((1 << 52) - 1)).expect("52 bits fit");
    println!("seeds {first} to {}", first + count.saturating_sub(1));
    let began = Instant::now();
    let stopped = run_all(first..first + count, plant);
    let failed = u64::from(stopped.failed.is_some());
    if let Some((seed, failure)) = &stopped.failed {
        println!("seed {seed} fails: {failure}");
    }
    #[allow(clippy::cast_precision_loss, reason = "minutes")]
    let minutes = stopped.simulated as f64 / 60_000.0;
    let wall = began.elapsed().as_secs_f64();
    println!("{} seeds, {minutes:.1} min simulated, {wall:.1} s wall", stopped.held + failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
