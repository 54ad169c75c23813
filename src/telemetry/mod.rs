//! What a node says of itself: its log, its figures, and what they were over the last minutes.
//!
//! Why: each module writes lines and counts; how they are kept, bounded and shown is decided here.
//!
//! Invariants: it imports nothing of huskv, waits for no reader, and what it keeps is bounded.

pub mod load;
pub mod logging;
pub mod metrics;
