//! What a node says of itself: its log, its figures, what they were over the last minutes, and its events.
//!
//! Why: each module writes lines, counts and notes events; how they are kept, bounded and shown is decided here.
//!
//! Invariants: it imports nothing of huskv, waits for no reader, and what it keeps is bounded.

pub mod load;
pub mod logging;
pub mod metrics;
pub mod node_events;
