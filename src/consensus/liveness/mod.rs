//! Who is heard, who lags, and what this node can therefore do.

pub(crate) mod identities;
pub(crate) mod peer_contact;
pub(crate) mod readiness;
pub(crate) mod stalled_followers;
