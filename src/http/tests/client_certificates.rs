//! Tests of client certificates: what an open connection may do once its certificate has ended or is no longer trusted, and which token a
//! certificate stands for.
//!
//! See also: handshakes that fail ([`crate::trust::acceptor`]), tokens by their secret (`tokens`).

use std::io::{Read, Write};
use std::time::{Instant, SystemTime};

use super::*;
use crate::auth::TokenStore;
use crate::trust::test_ca::{Leaf, TlsClient};

const KEPT: &str = "GET /store/k HTTP/1.1\r\nHost: localhost\r\n\r\n";
const WATCH: &str = "GET /watch?prefix= HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A port with TLS that asks for client certificates, and its files.
struct SecurePort {
    ca: TestCa,
    folder: tempfile::TempDir,
    credentials: Arc<CredentialStore>,
    node: Node,
    _feed: Arc<crate::changefeed::ChangeFeed>,
}

impl SecurePort {
    fn start(client_auth: ClientAuth, tokens: Option<&str>) -> Self {
        let (ca, folder) = (TestCa::new("ca"), tempfile::tempdir().unwrap());
        ca.node("kv1").write(folder.path());
        let path = |name: &str| folder.path().join(name);
        let files =
            CredentialFiles { certificate: path("node.pem"), key: path("node-key.pem"), ca: Some(path("ca.pem")) };
        let credentials = Arc::new(CredentialStore::open(files).unwrap());
        let acceptor = TlsAcceptor::new(Arc::clone(&credentials), client_auth, HTTP);
        let tokens = tokens.map(|text| {
            std::fs::write(path("tokens.toml"), text).unwrap();
            TokenStore::open(&path("tokens.toml"), silent()).unwrap()
        });
        let tls = Some(Arc::new(HttpTls::new(Mode::On, acceptor)));
        let (node, feed) = watch::node_with(Options { tls, tokens, ..options() });
        Self { ca, folder, credentials, node, _feed: feed }
    }

    /// Trusts this authority alone.
    fn trust(&self, ca: &TestCa) {
        std::fs::write(self.folder.path().join("ca.pem"), ca.certificate()).unwrap();
        self.credentials.reload(&silent());
    }

    fn connect(&self, own: Option<&Leaf>) -> TlsClient {
        self.ca.connect(&self.node.address.to_string(), own)
    }
}

fn silent() -> slog::Logger {
    slog::Logger::root(slog::Discard, slog::o!())
}

/// Sends a request on a connection that goes on, and returns its whole response.
fn ask(client: &mut TlsClient, request: &str) -> TestResponse {
    client.write_all(request.as_bytes()).unwrap();
    client.flush().unwrap();
    let mut answer = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let count = client.read(&mut buffer).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if length.is_some_and(|length| length.parse() == Ok(body.len())) {
            return TestResponse::parse(&answer);
        }
    }
}

/// Reads an event stream until it has this text.
fn read_until(client: &mut TlsClient, words: &str) -> String {
    let mut text = String::new();
    while !text.contains(words) {
        let mut buffer = [0; 4096];
        let count = client.read(&mut buffer).unwrap();
        assert!(count > 0, "ended without {words:?}: {text}");
        text += std::str::from_utf8(&buffer[..count]).unwrap();
    }
    text
}

/// The request is refused for this reason, and the connection closed.
#[track_caller]
fn is_refused(client: &mut TlsClient, reason: &str) {
    let answer = ask(client, KEPT);
    let detail = answer.is_problem(401, "unauthorized")["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("is not valid any more") && detail.contains("connect again"), "{detail}");
    assert!(detail.contains(reason), "{detail}");
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(client.read(&mut [0; 16]).unwrap(), 0, "closed");
}

const BY_CERTIFICATE: &str = "[[token]]\nname = \"b\"\ncert = \"CN=billing\"\nadmin = true\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_the_present_bundle_does_not_verify_has_no_rights_on_open_connections() {
    for (client_auth, tokens) in [
        (ClientAuth::Required, None),
        (ClientAuth::Required, Some(BY_CERTIFICATE)),
        (ClientAuth::Optional, None),
        (ClientAuth::Optional, Some(BY_CERTIFICATE)),
    ] {
        let port = SecurePort::start(client_auth, tokens);
        let next = TestCa::new("next");
        tokio::task::block_in_place(|| {
            let billing = port.ca.client("billing");
            let mut client = port.connect(Some(&billing));
            assert_eq!(ask(&mut client, KEPT).status, 404);
            let mut watcher = port.connect(Some(&billing));
            watcher.write_all(WATCH.as_bytes()).unwrap();
            read_until(&mut watcher, "retry:1000");
            port.trust(&next);
            let began = Instant::now();
            let denied = read_until(&mut watcher, "connect again");
            assert!(denied.contains("event:denied") && denied.contains("unauthorized"), "{denied}");
            // By the reload itself, and not by the next `progress`.
            assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
            is_refused(&mut client, "unknown issuer CN=ca");
            assert_eq!(ask(&mut port.connect(Some(&next.client("billing"))), KEPT).status, 404);
            // A certificate that is trusted again has its rights on a new connection.
            port.trust(&port.ca);
            assert_eq!(ask(&mut port.connect(Some(&billing)), KEPT).status, 404);
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_expired_has_no_rights_on_open_connections() {
    let port = SecurePort::start(ClientAuth::Required, Some(BY_CERTIFICATE));
    tokio::task::block_in_place(|| {
        let billing = port.ca.leaf("billing", |leaf| leaf.seconds((-60, 3)));
        let issued = SystemTime::now();
        let mut client = port.connect(Some(&billing));
        assert_eq!(ask(&mut client, KEPT).status, 404);
        let mut watcher = port.connect(Some(&billing));
        watcher.write_all(WATCH.as_bytes()).unwrap();
        read_until(&mut watcher, "retry:1000");
        let denied = read_until(&mut watcher, "connect again");
        assert!(denied.contains("event:denied") && denied.contains("the certificate expired on"), "{denied}");
        let since_end = issued.elapsed().unwrap().saturating_sub(Duration::from_secs(3));
        assert!(since_end < Duration::from_secs(12), "{since_end:?}");
        is_refused(&mut client, "the certificate expired on");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_no_token_has_is_named() {
    let port = SecurePort::start(ClientAuth::Optional, Some(BY_CERTIFICATE));
    tokio::task::block_in_place(|| {
        for (own, words) in
            [(Some(port.ca.client("other")), r#"no token has `cert = "CN=other"`"#), (None, "this node wants a token")]
        {
            let problem = ask(&mut port.connect(own.as_ref()), KEPT).is_problem(401, "unauthorized");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(words), "{detail}");
            assert_eq!(detail.contains("client certificate"), own.is_some(), "{detail}");
        }
        assert_eq!(ask(&mut port.connect(Some(&port.ca.client("billing"))), KEPT).status, 404);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_by_certificate_which_a_browser_adds_by_itself_is_for_known_hosts_alone() {
    let port = SecurePort::start(ClientAuth::Optional, Some(BY_CERTIFICATE));
    tokio::task::block_in_place(|| {
        let billing = port.ca.client("billing");
        let of_page = "GET /store/k HTTP/1.1\r\nHost: evil.example\r\n";
        let by_itself = ask(&mut port.connect(Some(&billing)), &format!("{of_page}\r\n"));
        by_itself.is_problem(421, "unknown_host");
        // What a page cannot add: without it, or with a wrong one, there is no right.
        let with_secret = ask(&mut port.connect(Some(&billing)), &format!("{of_page}Authorization: Bearer x\r\n\r\n"));
        with_secret.is_problem(401, "unauthorized");
        ask(&mut port.connect(None), &format!("{of_page}\r\n")).is_problem(401, "unauthorized");
    });
}
