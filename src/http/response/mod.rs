//! Responses: JSON bodies, problems, event streams and their headers.

mod access;
pub(crate) mod event_stream;
pub(crate) mod item_json;
pub(crate) mod node_headers;
pub(crate) mod overload;
pub(crate) mod problem;
pub(crate) mod refusal_codes;
pub(crate) mod success;
