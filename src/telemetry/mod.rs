//! What a node says of itself: its log, and its figures.
//!
//! Why: each module writes lines and counts; how they are kept, bounded and shown is decided here.
//!
//! Invariants: it imports nothing of huskv, waits for no reader, and what it keeps is bounded.

pub mod logging;
pub mod metrics;
