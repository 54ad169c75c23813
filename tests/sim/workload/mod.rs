//! What the cluster is asked to do: clients, operators, and users of a node that is still alone.

pub mod clients;
pub mod generator;
pub mod history;
pub mod operators;
pub mod registers;
pub mod standalone;
