//! Test harness: real processes, a plain HTTP client, waits on conditions.

mod case;
mod cluster;
mod events;
mod files;
mod http;
mod load;
mod needs;
mod node;
mod ports;
mod setup;
mod wait;
pub mod wire;

pub use case::Case;
pub(crate) use case::cases;
pub use cluster::{Cluster, ELECTION, member, names};
pub use events::{Event, Watch, ask, ask_as};
pub use files::{blobs, blocks, content, copy, walk};
pub use http::{Answer, Request, read_head};
pub use load::Load;
pub use needs::{Need, tool};
pub use node::{Node, START, binary, number};
pub use ports::free_port;
pub use setup::Setup;
pub use wait::{Seen, check, eventually, millis, secs, throughout};
