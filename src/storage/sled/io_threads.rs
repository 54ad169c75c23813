//! Parking of sled's surplus I/O threads while little is written.
//!
//! Why: sled 0.34 has one pool for all databases of the process, of 7 threads that never end, and wakes all of them for each buffer
//! that it writes. A turn of the loop writes one buffer, so six of seven wake for nothing: 11.6 context switches a journal record
//! against 6.3 with two threads, and a tenth of its CPU time (measured).
//!
//! ```text
//!   storage-watch thread --flush_async, polled once--> sled's pool: a thread flushes, which is nothing to do,
//!                                                      fills the future and calls its waker -> [`Parker::wake`] blocks
//!   a database with much to flush, or a slow call -----> release(): all parked threads go back to the pool
//! ```
//!
//! A waker is the one piece of a caller's code that sled runs on such a thread. sled counts a parked thread as busy, and its
//! count of waiting threads wraps below zero, which it takes for many: it starts no further ones.
//!
//! Invariants: [`KEPT`] threads or more are never parked. No thread is parked while a database has more than [`BURST_BYTES`]
//! to flush: sled may then have several buffers under way, and a call of sled can hold the lock that they end with while it waits
//! for the truncation of the file behind them in the queue. Nor while a call takes long: were the pool stuck after all, the next check
//! of the watchdog frees it. A parked thread holds no lock and no database.
//!
//! See also: [`super::disk_health`] (which parks them), [`super::guarded_db`] (which releases them).

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

/// The threads of sled's pool that never end. Others are started for a queue of more than 7 and end when it is gone.
const POOL: usize = 7;

/// The threads that are left to work: one that writes a buffer, and one for another database meanwhile.
const KEPT: usize = 2;

/// The bytes that a database may have to flush while threads are parked: a sixteenth of a segment, since sled writes several
/// times the bytes of small changes in random order.
pub(crate) const BURST_BYTES: u64 = 256 << 10;

/// How long to wait for sled to run one job.
const JOB_LIMIT: Duration = Duration::from_millis(100);

static POOL_STATE: Mutex<State> = Mutex::new(State { parked: 0, answers: 0, releases: 0 });
static CHANGED: Condvar = Condvar::new();

struct State {
    parked: usize,
    /// The number of wakers that were called.
    answers: u64,
    /// The number of releases.
    releases: u64,
}

fn state() -> MutexGuard<'static, State> {
    POOL_STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Parks the thread that calls it, until the next release.
struct Parker {
    /// The number of releases when this was made; a later one voids it.
    releases: u64,
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        let mut state = state();
        state.answers += 1;
        CHANGED.notify_all();
        if state.parked + KEPT >= POOL || !never_ends() {
            return;
        }
        state.parked += 1;
        while state.releases == self.releases {
            state = CHANGED.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.parked -= 1;
    }
}

/// Whether the calling thread is one of the pool's that never end: they are started first, as `sled-io-0` to `sled-io-6`.
fn never_ends() -> bool {
    let number = |name: &str| name.strip_prefix("sled-io-")?.parse::<usize>().ok();
    std::thread::current().name().and_then(number).is_some_and(|number| number < POOL)
}

/// Returns the number of releases so far.
pub(crate) fn releases() -> u64 {
    state().releases
}

/// Returns the number of parked threads.
#[cfg(test)]
pub(crate) fn parked() -> usize {
    state().parked
}

/// Releases all parked threads.
pub(crate) fn release() {
    let mut state = state();
    state.releases += 1;
    if state.parked > 0 {
        CHANGED.notify_all();
    }
}

/// Parks the surplus threads, unless there was a release since there were `releases` of them. `begin_flush` begins a
/// flush of a database with nothing to flush, and returns whether its end will call the waker.
pub(crate) fn park_surplus(releases: u64, begin_flush: impl Fn(&Waker) -> bool) {
    let waker = Waker::from(Arc::new(Parker { releases }));
    // Twice as many as needed: sled's thread may be done before the waker is known, or may be one that ends.
    for _ in 0..2 * POOL {
        let before = {
            let state = state();
            if state.releases != releases || state.parked + KEPT >= POOL {
                return;
            }
            state.answers
        };
        if begin_flush(&waker) {
            // One job at a time: with as many jobs under way as threads, no thread were left for what they wait for.
            let waiting = |state: &mut State| state.answers == before && state.releases == releases;
            let answered = CHANGED.wait_timeout_while(state(), JOB_LIMIT, waiting);
            if answered.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
                return;
            }
        }
    }
}
