//! What goes wrong: crashes, links, disks, copies of disks, and peers that lie.

pub mod disk_copies;
pub mod disk_space;
pub mod forged_offers;
pub mod impostor;
pub mod nemesis;
pub mod rogue_member;
