//! gRPC client of etcd: connections that several clients share, each with one call at a time.
//!
//! Why: etcd's own clients use its gRPC port, with many calls on one HTTP/2 connection. A connection for each client, as
//! HTTP/1 needs it, would hold etcd back; a single one may hold the generator back. So the number is a flag.
//!
//! Invariants: plain HTTP/2 with prior knowledge. A call has succeeded only with HTTP status 200, `grpc-status` 0 and a
//! response of the right form. After a failure the connection is not used for a new call.
//!
//! See also: `etcd_messages` for the bytes, `raw_client` for the same over HTTP/1.

use std::future::poll_fn;
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use hyper::{HeaderMap, Method, Request, Uri, Version};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::etcd_messages::{first_pair, payload, put_request, range_request};
use super::systems_under_test::{Operation, OperationResult};

/// The window of a connection and of a stream: so large that updates of it are rare.
const WINDOW_BYTES: u32 = 16 << 20;

/// The maximum size of a response.
const MAX_BODY_BYTES: usize = 64 << 20;

/// The trailer with the result of a call.
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The trailer with its message.
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// A connection that clients of one thread share, dialled when it is needed.
pub(super) struct GrpcConnection {
    address: String,
    /// The open connection with its number, which grows with each dial.
    open: Mutex<(u64, Option<SendRequest<Bytes>>)>,
}

impl GrpcConnection {
    /// Creates a connection to `address`, not dialled yet.
    pub(super) fn new(address: &str) -> Arc<Self> {
        Arc::new(Self { address: address.to_owned(), open: Mutex::new((0, None)) })
    }

    /// A handle to the open connection, other than the one numbered `failed`, which is closed.
    async fn get(&self, failed: u64) -> Result<(u64, SendRequest<Bytes>)> {
        // Dials in the lock: clients that share the connection wait for one dial, they do not make one each.
        let mut open = self.open.lock().await;
        if open.0 == failed {
            open.1 = None;
        }
        if let (number, Some(sender)) = &*open {
            return Ok((*number, sender.clone()));
        }
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let handshake = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .enable_push(false)
            .handshake(stream);
        let (sender, connection) = handshake.await.map_err(Error::other)?;
        // It ends with the last handle; its errors are those of the calls.
        tokio::spawn(connection);
        let number = open.0 + 1;
        *open = (number, Some(sender.clone()));
        Ok((number, sender))
    }
}

/// One client: its calls go over a shared connection.
pub(super) struct GrpcClient {
    connection: Arc<GrpcConnection>,
    /// The number of the connection in use, 0 before the first.
    number: u64,
    sender: Option<SendRequest<Bytes>>,
    put: Request<()>,
    range: Request<()>,
    buffer: BytesMut,
}

impl GrpcClient {
    /// Creates a client over `connection`.
    ///
    /// # Errors
    /// Where the address cannot stand in a URI.
    pub(super) fn new(connection: &Arc<GrpcConnection>) -> Result<Self> {
        let call = |method: &str| {
            let uri = format!("http://{}/etcdserverpb.KV/{method}", connection.address);
            let mut request = Request::new(());
            *request.method_mut() = Method::POST;
            *request.uri_mut() = uri.parse::<Uri>().map_err(|error| Error::new(ErrorKind::InvalidInput, error))?;
            *request.version_mut() = Version::HTTP_2;
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
            Ok::<_, Error>(request)
        };
        let (put, range) = (call("Put")?, call("Range")?);
        Ok(Self { connection: Arc::clone(connection), number: 0, sender: None, put, range, buffer: BytesMut::new() })
    }

    /// Leaves the connection after a failure; the next call dials, unless another client has done so.
    pub(super) fn close(&mut self) {
        self.sender = None;
    }

    /// Puts a key.
    ///
    /// # Errors
    /// Where the connection breaks or the answer is not HTTP/2.
    pub(super) async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<OperationResult> {
        let failure = self.call(Operation::Put, put_request(key, value)).await?;
        let is_message = payload(&self.buffer).is_some();
        Ok(match failure {
            Some(reason) => OperationResult::Failed(reason),
            None if is_message => OperationResult::Done,
            None => OperationResult::Failed("the answer is no PutResponse".into()),
        })
    }

    /// Gets a key, linearizable unless `stale`. The answer must have this key, and a value of `value_bytes` where the
    /// size is known.
    ///
    /// # Errors
    /// Where the connection breaks or the answer is not HTTP/2.
    pub(super) async fn get(&mut self, key: &[u8], stale: bool, value_bytes: Option<usize>) -> Result<OperationResult> {
        if let Some(reason) = self.call(Operation::Get, range_request(key, stale)).await? {
            return Ok(OperationResult::Failed(reason));
        }
        let pair = payload(&self.buffer).ok_or("the answer is no message of gRPC").and_then(first_pair);
        Ok(match pair {
            Ok(None) => OperationResult::Missing,
            Ok(Some((found, value))) if found == key && value_bytes.is_none_or(|bytes| bytes == value.len()) => {
                OperationResult::Done
            }
            Ok(Some(_)) => OperationResult::Failed("the answer has another key, or a value of another size".into()),
            Err(reason) => OperationResult::Failed(reason.into()),
        })
    }

    /// Makes a call. Its response is left in the buffer; a result is the reason of a refusal.
    async fn call(&mut self, operation: Operation, message: Bytes) -> Result<Option<String>> {
        if self.sender.is_none() {
            let (number, sender) = self.connection.get(self.number).await?;
            (self.number, self.sender) = (number, Some(sender));
        }
        let sender = self.sender.as_mut().ok_or(ErrorKind::NotConnected)?;
        poll_fn(|context| sender.poll_ready(context)).await.map_err(Error::other)?;
        let request = if operation == Operation::Put { &self.put } else { &self.range };
        let (response, mut body) = sender.send_request(request.clone(), false).map_err(Error::other)?;
        body.send_data(message, true).map_err(Error::other)?;
        let (head, mut body) = response.await.map_err(Error::other)?.into_parts();
        self.buffer.clear();
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(Error::other)?;
            body.flow_control().release_capacity(piece.len()).map_err(Error::other)?;
            self.buffer.extend_from_slice(&piece);
            if self.buffer.len() > MAX_BODY_BYTES {
                return Err(Error::new(ErrorKind::InvalidData, "the answer is too long"));
            }
        }
        let trailers = body.trailers().await.map_err(Error::other)?;
        if head.status.as_u16() != 200 {
            return Ok(Some(head.status.to_string()));
        }
        // A call that fails at once has no body, and its trailers are its headers.
        Ok(refusal(trailers.as_ref().unwrap_or(&head.headers)))
    }
}

/// Why a call was refused; none for `grpc-status` 0.
fn refusal(trailers: &HeaderMap) -> Option<String> {
    let text = |name| trailers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match text(GRPC_STATUS) {
        Some(status) if status == "0" => None,
        Some(status) => Some(format!("grpc-status {status} {}", text(GRPC_MESSAGE).unwrap_or_default())),
        None => Some("the answer has no grpc-status".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Response;
    use tokio::net::TcpListener;

    /// What the server answers to a call: the message, and the trailers' `grpc-status`, which come alone without a
    /// message.
    type Planned = (Option<&'static [u8]>, Option<&'static str>);

    const PAIR: &[u8] = b"\0\0\0\0\x0a\x12\x08\x0a\x02k1\x2a\x02vw";

    /// Serves one connection for each list, and closes it after its last answer.
    async fn serve(listener: TcpListener, connections: Vec<Vec<Planned>>) {
        for planned in connections {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            for (message, status) in planned {
                let (request, mut respond) = connection.accept().await.unwrap().unwrap();
                assert!(request.uri().path().starts_with("/etcdserverpb.KV/"), "{request:?}");
                let mut head = Response::new(());
                let mut trailers = HeaderMap::new();
                if let Some(status) = status {
                    trailers.insert(GRPC_STATUS, HeaderValue::from_static(status));
                }
                if let Some(message) = message {
                    let mut body = respond.send_response(head, false).unwrap();
                    body.send_data(Bytes::from_static(message), false).unwrap();
                    body.send_trailers(trailers).unwrap();
                } else {
                    *head.headers_mut() = trailers;
                    respond.send_response(head, true).unwrap();
                }
            }
            connection.graceful_shutdown();
            poll_fn(|context| connection.poll_closed(context)).await.ok();
        }
    }

    #[tokio::test]
    async fn an_answer_counts_only_with_its_status_and_the_right_pair() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connection = GrpcConnection::new(&listener.local_addr().unwrap().to_string());
        let put_response = &b"\0\0\0\0\0"[..];
        let first = vec![
            (Some(put_response), Some("0")),
            (Some(PAIR), Some("0")),
            (Some(PAIR), Some("0")),
            (Some(PAIR), Some("0")),
            (Some(put_response), Some("0")),
            (None, Some("14")),
            (Some(PAIR), None),
        ];
        let server = tokio::spawn(serve(listener, vec![first, vec![(Some(PAIR), Some("0"))]]));
        let mut client = GrpcClient::new(&connection).unwrap();
        assert_eq!(client.put(b"k1", b"vw").await.unwrap(), OperationResult::Done);
        assert_eq!(client.get(b"k1", false, Some(2)).await.unwrap(), OperationResult::Done);
        for (key, length) in [(b"k2", Some(2)), (b"k1", Some(3))] {
            let result = client.get(key, true, length).await.unwrap();
            assert!(matches!(&result, OperationResult::Failed(reason) if reason.contains("another")), "{result:?}");
        }
        assert_eq!(client.get(b"k1", false, None).await.unwrap(), OperationResult::Missing);
        for word in ["grpc-status 14", "no grpc-status"] {
            let result = client.put(b"k1", b"vw").await.unwrap();
            assert!(matches!(&result, OperationResult::Failed(reason) if reason.contains(word)), "{result:?}");
        }
        // The server has closed the connection: a failure, and the next call dials.
        while client.get(b"k1", false, Some(2)).await.is_err() {
            client.close();
        }
        assert_eq!(connection.open.lock().await.0, 2, "one more dial");
        server.abort();
    }

    #[test]
    fn an_address_that_is_no_authority_is_an_error() {
        assert!(GrpcClient::new(&GrpcConnection::new("a b:1")).is_err());
    }
}
