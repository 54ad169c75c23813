//! Snapshots of the state machine for another node: created here, read here, received there.
//!
//! Why: a follower that the log no longer reaches needs the state itself while writes go on. A sled iterator is no snapshot, so
//! a snapshot is one stream of two things: chunks of a scan, and the effects of everything applied since it began. The reader
//! drives the scan at the speed of the peer, so the tree is never stored a second time; only effects are spooled, by a [`Spooler`]
//! on its own thread.
//!
//! ```text
//!   consensus loop: apply -> memtable flush -> tree, then EffectSender --queue--> Spooler thread --> spool file (ring)
//!                                               ^                                                    |
//!   reader thread:   SnapshotReader  scans tree-+            and takes frames <----------------------+  --> peer
//! ```
//!
//! The stream, applied in order with the last writer winning, is exactly the state at the index where it ends. A scan frame is
//! placed in the stream where it was read, and an effect is sent after its batch is in the tree, in order. Take any key. Without
//! an effect it never changed, and the scan has it. Otherwise look at its last effect: every scan frame behind it was read after
//! that effect was in the tree and shows the same value. So the last frame with the key is right. Effects that the scan has
//! already shown are repeated, which is harmless, because the effects on a key come in order and end with the last.
//!
//! Example: `a = 1` is scanned, then `a = 2` is applied, then `b = 3` is applied, then `b` is scanned. The stream is
//! `scan a=1, effect a=2, effect b=3, scan b=3`: the result is `a = 2, b = 3`.
//!
//! Invariants: a received snapshot is verified as a whole: its values must add up to the totals in its state record. Until then it
//! is in a generation of its own and nothing names it. A snapshot that would take a disk below its reserve is aborted, at either
//! end.
//!
//! See also: `transport::snapshot_stream` (the wire), `consensus::snapshots` (when).

pub(crate) mod frames;
pub(crate) mod receiver;
pub(crate) mod send_spool;
pub(crate) mod sender;
