//! The subcommands of operators: who belongs to the cluster, what its nodes do, who leads.

pub(crate) mod events;
pub(crate) mod join_progress;
pub(crate) mod members;
pub(crate) mod membership;
pub(crate) mod node_summary;
pub(crate) mod reload;
pub(crate) mod status;
