//! Faults: what goes wrong, drawn from the seed.
//!
//! | file | what |
//! |---|---|
//! | `nemesis` | crashes, stops, pauses, cut links, failing and lost disks, moved nodes |
//! | `disk_space` | disks below their reserve or their floor |
//! | `disk_copies` | disks restored from older copies, copies started beside their originals |
//! | `impostor` | messages in the name of a member, from a host that is none |
//! | `certified_stranger` | raft messages in the name of a member, from a node whose certificate is another's |
//! | `forged_offers` | join offers that no leader has made |
//! | `rogue_member` | a member that forwards and replicates what must be refused |
//!
//! Invariants: all but the nemesis and the impostor have generators of their own, so that they shift no other draw.

pub mod certified_stranger;
pub mod disk_copies;
pub mod disk_space;
pub mod forged_offers;
pub mod impostor;
pub mod nemesis;
pub mod rogue_member;
