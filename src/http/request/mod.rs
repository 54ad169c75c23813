//! From the bytes of a request to what a handler needs.

pub(crate) mod body;
pub(crate) mod body_stream;
pub(crate) mod conditions;
pub(crate) mod content;
pub(crate) mod context;
pub(crate) mod headers;
pub(crate) mod idempotency;
pub(crate) mod query;
pub(crate) mod ttl;
