//! Parsing of requests: from bytes and headers to what a handler needs.
//!
//! ```text
//!   context ---> body ---> query            conditions, idempotency ---> context
//!            '-> content -> body, media_type          ttl, headers ---> response::problem
//! ```

pub(crate) mod body;
pub(crate) mod caller;
pub(crate) mod client_certificate;
pub(crate) mod conditions;
pub(crate) mod content;
pub(crate) mod handler_context;
pub(crate) mod idempotency;
pub(crate) mod loop_wait;
pub(crate) mod media_type;
pub(crate) mod timers;
pub(crate) mod ttl;
pub(crate) mod unread_body;
pub(crate) mod unsupported_headers;
pub(crate) mod uri;
