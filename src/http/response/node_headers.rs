//! Headers of every response: the cluster, the node that answers, and the leader.
//!
//! Why: they are the same for all responses until the loop publishes other names, so they are rendered once.
//!
//! See also: where they are kept ([`crate::http::request::handler_context`]).

use std::sync::Arc;

use warp::http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::consensus::Names;

/// The response header with the cluster id: versions and indexes of another cluster mean nothing in this one.
const X_HUSKV_CLUSTER: HeaderName = HeaderName::from_static("x-huskv-cluster");
/// The response header with the name of the node that answers.
const X_HUSKV_NODE: HeaderName = HeaderName::from_static("x-huskv-node");
/// The response header with the name of the leader, where one is known.
const X_HUSKV_LEADER: HeaderName = HeaderName::from_static("x-huskv-leader");

/// The headers with the cluster id, the node and the leader, for all responses until one of them changes.
pub(crate) struct NodeHeaders {
    names: Arc<Names>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl NodeHeaders {
    /// Renders these names.
    pub(crate) fn of(names: Arc<Names>) -> Self {
        // 0 is a node that belongs to no cluster yet.
        let cluster = (names.cluster_id != 0).then(|| (X_HUSKV_CLUSTER, HeaderValue::from(names.cluster_id)));
        let named = [(X_HUSKV_NODE, Some(&names.node)), (X_HUSKV_LEADER, names.leader.as_ref())];
        let named = named.into_iter().filter_map(|(header, name)| {
            let name = name.filter(|name| !name.is_empty())?;
            Some((header, HeaderValue::from_str(name).ok()?))
        });
        let headers = cluster.into_iter().chain(named).collect();
        Self { names, headers }
    }
    /// Whether they are those of `names`.
    pub(crate) fn are_of(&self, names: &Arc<Names>) -> bool {
        Arc::ptr_eq(&self.names, names)
    }

    /// Adds them to those of a response.
    pub(crate) fn insert_into(&self, headers: &mut HeaderMap) {
        for (header, value) in &self.headers {
            headers.insert(header, value.clone());
        }
    }
}
