//! huskv

pub mod client;
pub mod consensus;
pub mod http;
pub mod model;
pub mod storage;
pub mod transport;
