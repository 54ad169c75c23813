//! From what the loop answered to the bytes of a response.

pub(crate) mod event_stream;
pub(crate) mod item_json;
pub(crate) mod problem;
pub(crate) mod refusal_codes;
pub(crate) mod success;
