//! Split borrows: macros that borrow the driver's fields for a component, beside the component itself.
//!
//! Why: a method that borrowed these fields would borrow the whole driver, and the component with it.

/// Borrows what reads look at, beside the reads themselves.
macro_rules! view {
    ($driver:ident) => {
        $crate::consensus::reads::View {
            core: &$driver.core,
            live: &$driver.live,
            lag: &$driver.lag,
            time: $driver.clock.cluster_time(&$driver.core),
        }
    };
}
pub(super) use view;

/// Borrows what proposals and membership look at, beside them.
macro_rules! context {
    ($driver:ident) => {
        &mut $crate::consensus::proposals::shared_context::Context {
            core: &mut $driver.core,
            live: &mut $driver.live,
            clock: &mut $driver.clock,
            space: &$driver.voter_disk_space,
        }
    };
}
pub(super) use context;
