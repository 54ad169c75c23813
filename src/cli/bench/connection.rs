//! Connection of a client to the system under test, whatever protocol it speaks.
//!
//! Why: the generator measures operations; which bytes they are, and whether clients share a connection, is the
//! protocol's business.
//!
//! Invariants: an operation either ends with a result or is a failure with a short reason; it has a timeout.
//!
//! See also: `raw_client` for HTTP/1, `grpc_client` for gRPC.

use std::io::Result;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::grpc_client::{GrpcClient, GrpcConnection};
use super::plan::Plan;
use super::raw_client::RawClient;
use super::systems_under_test::{Api, HttpApi, Operation, OperationResult, page};

/// The timeout of an operation.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// The connections that clients of one thread share; none for HTTP/1, where each has its own.
pub(super) struct SharedConnections(Vec<Arc<GrpcConnection>>);

impl SharedConnections {
    /// Creates the connections of a thread with `clients` clients, at least one to each address.
    pub(super) fn new(plan: &Plan, addresses: &[String], clients: usize) -> Self {
        let count = match plan.api {
            Api::Http(_) => 0,
            Api::EtcdGrpc => plan.connections.min(clients).max(addresses.len()),
        };
        Self((0..count).map(|number| GrpcConnection::new(&addresses[number % addresses.len()])).collect())
    }
}

/// The connection of one client.
pub(super) enum Connection {
    /// HTTP/1: one connection, and the buffer of its requests.
    Http(HttpApi, RawClient, Vec<u8>),
    /// gRPC over a shared connection.
    Grpc(Box<GrpcClient>),
}

impl Connection {
    /// Creates the connection of client `number` of its thread, not dialled yet.
    ///
    /// # Errors
    /// Where the address cannot stand in a URI.
    pub(super) fn new(api: Api, shared: &SharedConnections, address: &str, number: usize) -> Result<Self> {
        Ok(match api {
            Api::Http(api) => Self::Http(api, RawClient::new(address), Vec::new()),
            Api::EtcdGrpc => Self::Grpc(Box::new(GrpcClient::new(&shared.0[number % shared.0.len()])?)),
        })
    }

    /// Ends the use of the connection after a failure.
    pub(super) fn close(&mut self) {
        match self {
            Self::Http(_, client, _) => client.close(),
            Self::Grpc(client) => client.close(),
        }
    }

    /// Puts a value.
    pub(super) async fn put(&mut self, key: &str, value: &[u8]) -> OperationResult {
        match self {
            Self::Http(api, client, request) => {
                api.put(request, client.address(), key, value);
                exchange(*api, client, request, Operation::Put).await
            }
            Self::Grpc(client) => in_time(client.put(key.as_bytes(), value)).await,
        }
    }

    /// Gets a key of the plan, or its page.
    pub(super) async fn get(&mut self, plan: &Plan, key: &str) -> OperationResult {
        match self {
            Self::Http(api, client, request) => {
                match &plan.page {
                    Some(path) => page(request, client.address(), path),
                    None => api.get(request, client.address(), key, plan.stale),
                }
                exchange(*api, client, request, Operation::Get).await
            }
            Self::Grpc(client) => {
                // Keys that this run has not loaded may have values of another run's size.
                let value_bytes = plan.preload.then_some(plan.value_bytes);
                in_time(client.get(key.as_bytes(), plan.stale, value_bytes)).await
            }
        }
    }
}

async fn exchange(api: HttpApi, client: &mut RawClient, request: &[u8], operation: Operation) -> OperationResult {
    in_time(async {
        let (status, body) = client.exchange(request).await?;
        Ok(api.classify(operation, status, body))
    })
    .await
}

async fn in_time(operation: impl Future<Output = Result<OperationResult>>) -> OperationResult {
    match timeout(OPERATION_TIMEOUT, operation).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => OperationResult::Failed(error.to_string()),
        Err(_) => OperationResult::Failed(format!("no answer within {OPERATION_TIMEOUT:?}")),
    }
}
