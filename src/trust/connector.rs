//! The client side of TLS: a handshake with the server at a host, which its certificate must name.
//!
//! Why: a client sends keys, values and a token, so it must know who gets them, and a person must learn why it refuses.
//!
//! Invariants: TLS 1.2 and 1.3, one protocol (ALPN), no resumption, no early data, no roots but the caller's. The certificate is
//! verified by webpki; the verifier here hands each question on and keeps the certificate for the message.
//!
//! See also: [`super::acceptor`] (the server side), [`super::refusal`] (its words).

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::sign::SingleCertAndKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, InvalidMessage,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};

use super::acceptor::HTTP;
use super::certificate::CertificateInfo;
use super::pem_files::{CaBundle, KeyPair};
use super::provider;
use super::refusal::Refusal;

/// A connection of a client after its handshake.
pub type ClientStream<S> = tokio_rustls::client::TlsStream<S>;

/// Why there is no TLS connection to a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct HandshakeError {
    /// The reason, for people.
    pub reason: String,
    /// Who refused.
    pub side: RefusedBy,
}

impl HandshakeError {
    /// Whether nothing of TLS came from the other side: another protocol, or a close. A server that refuses sends an alert.
    #[must_use]
    pub fn is_no_tls(&self) -> bool {
        matches!(self.side, RefusedBy::OtherProtocol | RefusedBy::Network)
    }
}

/// Who refused a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedBy {
    /// This client, which does not trust the server; also where they have no protocol in common.
    Client,
    /// The server: it wants another certificate of the client, or one at all.
    Server,
    /// This client: what answers speaks no TLS.
    OtherProtocol,
    /// Neither: the connection or the server broke, and the next one may succeed.
    Network,
}

/// Makes handshakes with servers whose certificates a bundle of authorities vouches for.
#[derive(Clone)]
pub struct TlsConnector {
    provider: Arc<CryptoProvider>,
    verifier: Arc<WebPkiServerVerifier>,
    /// Where the authorities are from, for messages.
    source: Arc<str>,
    pair: Option<KeyPair>,
    protocol: &'static [u8],
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = self.pair.as_ref().map(|pair| &pair.info.subject);
        f.debug_struct("TlsConnector").field("source", &self.source).field("own", &own).finish_non_exhaustive()
    }
}

impl TlsConnector {
    /// A connector that trusts the authorities of `ca`, which is called `source` in messages, and that has the client
    /// certificate `pair`.
    ///
    /// # Errors
    /// A reason where the bundle cannot verify any certificate.
    pub fn new(ca: &CaBundle, source: &str, pair: Option<KeyPair>) -> Result<Self, String> {
        let provider = provider();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&ca.roots), Arc::clone(&provider)).build();
        let verifier = verifier.map_err(|error| format!("{source}: {error}"))?;
        Ok(Self { provider, verifier, source: source.into(), pair, protocol: HTTP })
    }

    /// The same connector for another protocol than HTTP.
    #[must_use]
    pub fn for_protocol(self, protocol: &'static [u8]) -> Self {
        Self { protocol, ..self }
    }

    /// Makes the handshake on `stream` with the server at `host`, a name or an address without brackets. The caller bounds
    /// its time.
    ///
    /// # Errors
    /// The reason, in words.
    pub async fn connect<S>(&self, host: &str, stream: S) -> Result<ClientStream<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let refused = |reason| HandshakeError { reason, side: RefusedBy::Client };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| refused(format!("no certificate can name the host {host:?}")))?;
        let presented = Arc::new(Presented::default());
        let config = self.config(&presented).map_err(|error| refused(error.to_string()))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.map_err(|error| self.explain(&error, host, presented.take().as_ref()))
    }

    /// The configuration of one handshake; the server's certificate is kept in `presented`.
    fn config(&self, presented: &Arc<Presented>) -> Result<ClientConfig, Error> {
        let verifier = RecordingVerifier { webpki: Arc::clone(&self.verifier), presented: Arc::clone(presented) };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&pair.certified))))
            }
        };
        config.alpn_protocols = vec![self.protocol.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok(config)
    }

    /// Explains the error of a handshake with the server at `host`, which has presented `certificate`.
    fn explain(&self, error: &io::Error, host: &str, certificate: Option<&CertificateDer<'_>>) -> HandshakeError {
        let lacks = || match certificate.and_then(|certificate| CertificateInfo::parse(certificate).ok()) {
            None => format!("the name {host} is not among its names, which are unreadable"),
            Some(info) if info.has_names() => format!("{} of the server's certificate", info.lacks(host)),
            Some(_) => format!("the server's certificate has no names, so {host} is not among them; issue another one"),
        };
        let refused = |reason: String| HandshakeError { reason, side: RefusedBy::Client };
        match rustls_error(error) {
            Some(Error::AlertReceived(alert)) => server_refusal(*alert, self.pair.is_some()),
            Some(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => refused(lacks()),
            Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                let reason = Refusal::explain(error, certificate).reason;
                refused(format!("{reason} in {}", self.source))
            }
            Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
                let hint = if self.protocol == HTTP { "; for plain HTTP use http://" } else { "" };
                let reason = format!("what answers there is no TLS{hint}");
                HandshakeError { reason, side: RefusedBy::OtherProtocol }
            }
            Some(Error::PeerIncompatible(_)) => refused(
                "the server has no TLS version or cipher suite that this client accepts: TLS 1.2 and 1.3".into(),
            ),
            Some(_) => refused(Refusal::explain(error, certificate).reason),
            None => HandshakeError { reason: Refusal::explain(error, certificate).reason, side: RefusedBy::Network },
        }
    }
}

/// Finds out of an error, or one of its causes, that a handshake was refused: by this client, or by the server. With TLS 1.3
/// a client learns only by its first read that the server refuses its certificate, and that the server has read nothing
/// else of it.
#[must_use]
pub fn handshake_error(error: &(dyn StdError + 'static)) -> Option<HandshakeError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<HandshakeError>() {
            return Some(found.clone());
        }
        let alert = error.downcast_ref::<io::Error>().and_then(rustls_error);
        if let Some(Error::AlertReceived(alert)) = alert
            && is_about_certificate(*alert)
        {
            return Some(server_refusal(*alert, false));
        }
        next = error.source();
    }
    None
}

fn rustls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|source| source.downcast_ref())
}

/// Whether a server sends this alert only while it verifies its client, before it reads a request.
fn is_about_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

/// Explains an alert of the server.
fn server_refusal(alert: AlertDescription, has_certificate: bool) -> HandshakeError {
    let side = match alert {
        AlertDescription::InternalError | AlertDescription::UserCanceled | AlertDescription::CloseNotify => {
            RefusedBy::Network
        }
        _ if is_about_certificate(alert) => RefusedBy::Server,
        _ => RefusedBy::Client,
    };
    let meaning = match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => "it requires a client certificate",
        // What a server with TLS 1.2 sends for a lack of one.
        AlertDescription::HandshakeFailure if !has_certificate => {
            "no common cipher suite or signature scheme, or it requires a client certificate"
        }
        AlertDescription::DecryptError => "it cannot verify a signature; it has another CA of the same name",
        AlertDescription::HandshakeFailure => "no common cipher suite or signature scheme",
        AlertDescription::UnknownCA => "it does not know the CA of the client's certificate",
        AlertDescription::CertificateExpired => "it takes the client's certificate for expired; compare the clocks",
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "it does not accept the client's certificate"
        }
        AlertDescription::UnsupportedCertificate => {
            "the client's certificate is not for clients, or of an unsupported kind"
        }
        AlertDescription::CertificateRevoked => "it takes the client's certificate for revoked",
        AlertDescription::AccessDenied => "it has no access for the client's certificate",
        AlertDescription::ProtocolVersion => "it speaks no TLS version of this client, 1.2 and 1.3",
        AlertDescription::NoApplicationProtocol => {
            "it speaks another protocol (ALPN); is it the other port of the node?"
        }
        AlertDescription::UnrecognisedName => "it has no certificate for this host",
        _ => "see RFC 8446, section 6.2",
    };
    HandshakeError { reason: format!("the server refused with the alert {alert:?}: {meaning}"), side }
}

/// The certificate that the server has presented, verified or not.
#[derive(Debug, Default)]
struct Presented(Mutex<Option<CertificateDer<'static>>>);

impl Presented {
    fn set(&self, certificate: &CertificateDer<'_>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificate.clone().into_owned());
    }

    fn take(&self) -> Option<CertificateDer<'static>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// webpki's verifier, and a note of what it has seen: rustls hands out no certificate of a failed handshake.
#[derive(Debug)]
struct RecordingVerifier {
    webpki: Arc<WebPkiServerVerifier>,
    presented: Arc<Presented>,
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.presented.set(end_entity);
        self.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.webpki.requires_raw_public_keys()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.webpki.root_hint_subjects()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::test_ca::{Leaf, LeafParams, TestCa};
    use rustls::server::{ServerConfig, WebPkiClientVerifier};
    use rustls_pki_types::PrivateKeyDer;
    use rustls_pki_types::pem::PemObject;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    /// A connector that trusts `ca` and has the certificate `own`.
    fn connector(ca: &TestCa, own: Option<&Leaf>) -> TlsConnector {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("ca.pem"), ca.certificate()).unwrap();
        let pair = own.map(|leaf| {
            leaf.write(folder.path());
            KeyPair::read(&path("node.pem"), &path("node-key.pem")).unwrap()
        });
        std::fs::write(path("ca.pem"), ca.certificate()).unwrap();
        TlsConnector::new(&CaBundle::read(&path("ca.pem")).unwrap(), "the/ca.pem", pair).unwrap()
    }

    /// Serves one connection with the certificate `leaf`, to clients with certificates of `clients` only.
    async fn serve(
        leaf: &Leaf,
        clients: Option<&TestCa>,
        version: &'static rustls::SupportedProtocolVersion,
        stream: DuplexStream,
    ) {
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[version]).unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(ca.certificate().as_bytes()).unwrap()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let Ok(mut stream) = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await else { return };
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        drop(stream.write_all(b"y").await);
    }

    /// The result of a handshake and of the first read after it.
    async fn try_connect(connector: &TlsConnector, host: &str, stream: DuplexStream) -> Result<(), HandshakeError> {
        let mut stream = connector.connect(host, stream).await?;
        match stream.read_u8().await {
            Ok(byte) => assert_eq!(byte, b'y'),
            Err(error) => return Err(handshake_error(&error).unwrap()),
        }
        Ok(())
    }

    #[tokio::test]
    async fn servers_are_verified_and_refusals_are_in_words() {
        let (ca, other) = (TestCa::new("ca"), TestCa::new("other"));
        let good = ca.node("kv1");
        let expired = ca.leaf("kv1", |leaf| leaf.days((-9, -1)));
        let future = ca.leaf("kv1", |leaf| leaf.days((1, 9)));
        let foreign = other.node("kv1");
        let nameless = ca.leaf("kv1", LeafParams::nameless);
        let names =
            "the name kv9 is not among DNS:localhost DNS:kv1 DNS:node.test.huskv DNS:kv1.test.huskv IP:127.0.0.1";
        let unknown = "unknown issuer CN=other: it is not among the trusted authorities in the/ca.pem";
        for (leaf, host, words) in [
            (&good, "localhost", None),
            (&good, "KV1", None),
            (&good, "127.0.0.1", None),
            (&good, "kv9", Some(names)),
            (&good, "127.0.0.2", Some("the name 127.0.0.2 is not among")),
            (&nameless, "localhost", Some("the server's certificate has no names, so localhost is not among them")),
            (&good, "a b", Some("no certificate can name")),
            (&expired, "kv1", Some("the certificate expired on ")),
            (&future, "kv1", Some("is not valid before ")),
            (&foreign, "kv1", Some(unknown)),
        ] {
            for version in rustls::DEFAULT_VERSIONS {
                let (client, server) = tokio::io::duplex(64 << 10);
                let connector = connector(&ca, None);
                let (result, ()) =
                    tokio::join!(try_connect(&connector, host, client), serve(leaf, None, version, server));
                match (result, words) {
                    (Ok(()), None) => {}
                    (Err(error), Some(words)) => {
                        assert!(error.reason.contains(words), "{host}: {error}");
                        assert_eq!(error.side, RefusedBy::Client);
                    }
                    (result, _) => panic!("{host}: {result:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_wants_a_client_certificate_gets_it_or_is_quoted() {
        let (ca, other) = (TestCa::new("ca"), TestCa::new("other"));
        let (server, good, foreign) = (ca.node("kv1"), ca.client("billing"), other.client("foreign"));
        for (own, words) in [
            (Some(&good), None),
            (None, Some("it requires a client certificate")),
            (Some(&foreign), Some("UnknownCA: it does not know the CA of the client's certificate")),
        ] {
            for version in rustls::DEFAULT_VERSIONS {
                let connector = connector(&ca, own);
                let (client, stream) = tokio::io::duplex(64 << 10);
                let (result, ()) =
                    tokio::join!(try_connect(&connector, "kv1", client), serve(&server, Some(&ca), version, stream));
                match (result, words) {
                    (Ok(()), None) => {}
                    (Err(error), Some(words)) => assert!(error.reason.contains(words), "{error}"),
                    (result, _) => panic!("{words:?}: {result:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn plain_servers_and_broken_connections_are_told_apart() {
        let connector = connector(&TestCa::new("ca"), None);
        for (answer, words, side) in [
            (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "no TLS; for plain HTTP use http://", RefusedBy::OtherProtocol),
            (b"", "closed during the handshake", RefusedBy::Network),
        ] {
            let (client, mut server) = tokio::io::duplex(64 << 10);
            server.write_all(answer).await.unwrap();
            server.shutdown().await.unwrap();
            let error = connector.connect("kv1", client).await.map(drop).unwrap_err();
            assert!(error.reason.contains(words) && error.side == side, "{error:?}");
        }
    }
}
