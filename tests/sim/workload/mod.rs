//! The workload: what clients and operators ask of the cluster, and what they remember of its answers.
//!
//! | file | what |
//! |---|---|
//! | `generator` | draws the next operation of a client |
//! | `registers` | what an operation and its answer mean for the register that the checker looks at |
//! | `clients` | sends operations, repeats those with an idempotency key, takes the answers |
//! | `client_reads` | reads the state of a node as its client threads do |
//! | `history` | the operations under way and those that have ended |
//! | `operators` | joins, removals and transfers |
//! | `standalone` | writes to a node that is still alone |

pub mod client_reads;
pub mod clients;
pub mod generator;
pub mod history;
pub mod operators;
pub mod registers;
pub mod standalone;
