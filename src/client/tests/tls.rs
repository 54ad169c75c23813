//! Tests of the client against servers with TLS, and of where its token goes.
//!
//! See also: [`crate::trust::connector`] for all reasons of a refusal.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::*;
use super::{PUT, Reply, Server, read_request, reply, respond};
use crate::trust::ClientAuth;
use crate::trust::acceptor::{HTTP, TlsAcceptor};
use crate::trust::connector::TlsConnector;
use crate::trust::credentials::{CredentialFiles, CredentialStore};
use crate::trust::pem_files::{CaBundle, KeyPair};
use crate::trust::test_ca::{Leaf, TestCa};

const TIMEOUT: Duration = Duration::from_secs(20);
const SECRET: &str = "hkv_secret";

/// A TLS server with the certificate of `kv1` that answers every request with [`PUT`]; returns its address and the requests.
async fn serve(ca: &TestCa, client_auth: ClientAuth) -> (String, Arc<Mutex<Vec<String>>>) {
    let folder = tempfile::tempdir().unwrap();
    ca.node("kv1").write(folder.path());
    let path = |name: &str| folder.path().join(name);
    let files = CredentialFiles { certificate: path("node.pem"), key: path("node-key.pem"), ca: Some(path("ca.pem")) };
    let acceptor = Arc::new(TlsAcceptor::new(Arc::new(CredentialStore::open(files).unwrap()), client_auth, HTTP));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, seen) = (Arc::clone(&acceptor), Arc::clone(&seen));
            tokio::spawn(async move {
                match acceptor.accept(stream).await {
                    Ok((mut stream, _)) => {
                        let request = read_request(&mut stream).await;
                        seen.lock().unwrap().push(request);
                        respond(&mut stream, 200, &format!("content-length: {}\r\n", PUT.len()), PUT).await;
                    }
                    // Unread bytes would turn the close into a reset, which discards the alert.
                    Err((_, stream)) => drop(drain(stream).await),
                }
            });
        }
    });
    (address, requests)
}

/// Ends the sending half and reads what still comes.
async fn drain(mut stream: TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    drop(stream.shutdown().await);
    drop(stream.read_to_end(&mut received).await);
    received
}

fn access(ca: &TestCa, own: Option<&Leaf>) -> Access {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let pair = own.map(|leaf| {
        leaf.write(folder.path());
        KeyPair::read(&path("node.pem"), &path("node-key.pem")).unwrap()
    });
    std::fs::write(path("ca.pem"), ca.certificate()).unwrap();
    Access::over_tls(TlsConnector::new(&CaBundle::read(&path("ca.pem")).unwrap(), "ca.pem", pair).unwrap())
}

fn with_token() -> Access {
    Access::default().with_token(Token::new(SECRET).unwrap())
}

async fn put(addresses: &[&str], access: Access) -> Result<u64, Failure> {
    Client::with_access(addresses.iter().copied(), TIMEOUT, access).put("k", "v", &Write::default()).await
}

#[tokio::test]
async fn requests_and_tokens_go_over_tls_to_servers_that_are_trusted() {
    let (ca, other) = (TestCa::new("ca"), TestCa::new("other"));
    let (address, requests) = serve(&ca, ClientAuth::None).await;
    let localhost = address.replace("127.0.0.1", "localhost");
    let token = Token::new(SECRET).unwrap();
    for endpoint in [&address, &localhost] {
        assert_eq!(put(&[endpoint], access(&ca, None).with_token(token.clone())).await.unwrap(), 7);
        let request = requests.lock().unwrap().pop().unwrap().to_lowercase();
        assert!(request.contains(&format!("authorization: bearer {SECRET}\r\n")), "{request}");
        assert!(request.contains(&format!("host: {endpoint}\r\n")), "{request}");
    }
    // A name that the certificate does not have: 127.0.0.2 is this server, too.
    let elsewhere = address.replace("127.0.0.1", "127.0.0.2");
    let started = Instant::now();
    relay(&elsewhere, &address).await;
    for (endpoint, trusted, words) in
        [(&address, &other, "unknown issuer CN=ca"), (&elsewhere, &ca, "the name 127.0.0.2 is not among DNS:localhost")]
    {
        let failure = put(&[endpoint], access(trusted, None).with_token(token.clone())).await.unwrap_err();
        assert_eq!((failure.code.as_str(), failure.outcome), ("tls_failed", Outcome::NotApplied), "{failure}");
        assert!(failure.detail.contains(words) && !failure.to_string().contains(SECRET), "{failure}");
        let error = NodeClient::with_access(TIMEOUT, access(trusted, None)).stats(endpoint).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(started.elapsed() < TIMEOUT / 2, "waiting changes no certificate");
    assert!(requests.lock().unwrap().is_empty());
    // Another endpoint may be trusted.
    assert_eq!(put(&[&elsewhere, &address], access(&ca, None)).await.unwrap(), 7);
}

/// Relays connections to `from` to `to`.
async fn relay(from: &str, to: &str) {
    let (listener, to) = (TcpListener::bind(from).await.unwrap(), to.to_owned());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&to).await.unwrap();
            tokio::spawn(async move { drop(tokio::io::copy_bidirectional(&mut stream, &mut server).await) });
        }
    });
}

#[tokio::test]
async fn a_write_that_a_server_refuses_for_its_certificate_was_not_applied() {
    let (ca, other) = (TestCa::new("ca"), TestCa::new("other"));
    let (address, requests) = serve(&ca, ClientAuth::Required).await;
    assert_eq!(put(&[&address], access(&ca, Some(&ca.client("billing")))).await.unwrap(), 7);
    for (own, words) in [(None, "requires a client certificate"), (Some(other.client("x")), "does not know the CA")] {
        let failure = put(&[&address], access(&ca, own.as_ref())).await.unwrap_err();
        assert_eq!((failure.code.as_str(), failure.outcome), ("certificate_refused", Outcome::NotApplied), "{failure}");
        assert!(failure.detail.contains(words), "{failure}");
    }
    assert_eq!(requests.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_plain_server_is_named_so_and_gets_no_request() {
    let access = access(&TestCa::new("ca"), None).with_token(Token::new(SECRET).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let received = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        respond(&mut stream, 400, "", "").await;
        drain(stream).await
    });
    let failure = put(&[&address], access).await.unwrap_err();
    assert!(failure.code == "tls_failed" && failure.detail.contains("for plain HTTP use http://"), "{failure}");
    let received = String::from_utf8_lossy(&received.await.unwrap()).into_owned();
    assert!(!received.contains("PUT /store") && !received.contains(SECRET), "{received}");
}

#[tokio::test]
async fn a_token_goes_to_the_named_endpoints_only() {
    // The first names a leader elsewhere and redirects there, and so does every header that a client could follow.
    let unnamed = Server::start("n2", vec![reply(200, PUT)]).await;
    let headers =
        format!("location: http://{0}/store/k\r\nx-huskv-node: n1\r\nx-huskv-leader: n2\r\n", unnamed.address);
    let redirect = Reply::Respond(307, headers.clone(), String::new());
    let body = format!(
        r#"{{"code":"no_leader","detail":"d","outcome":"not_applied","leader":{{"node_id":"n2","http_address":"{}"}}}}"#,
        unnamed.address
    );
    let hint = Reply::Respond(503, headers, body);
    let first = Server::start("n1", vec![redirect, hint, reply(200, PUT)]).await;
    assert_eq!(put(&[&first.address], with_token()).await.unwrap(), 7);
    let requests = first.requests();
    assert_eq!(requests.len(), 3);
    let bearer = format!("authorization: Bearer {SECRET}");
    assert!(requests.iter().all(|request| request.matches(&bearer).count() == 1), "{requests:?}");
    assert!(unnamed.requests().is_empty());
}
