//! Tests of what a node answers about itself: figures, events, probes.

mod metrics;
mod node_events;
mod probes;
