//! The server side of TLS: a handshake on an accepted connection, and the certificate at its other end.
//!
//! Why: each handshake uses the key pair and the bundle that are present then, so a reload needs no open connection to end.
//!
//! Invariants: TLS 1.2 and 1.3, one protocol (ALPN), no session is resumed and there is no early data. A client's certificate is
//! verified by webpki; the verifier here hands each question on and keeps the certificate for the log.
//!
//! See also: [`super::credentials`] (the reload), [`super::refusal`] (failures in words).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};

use super::credentials::{CredentialStore, Credentials};
use super::refusal::Refusal;
use super::verified_certificate::VerifiedCertificate;
use super::{ClientAuth, provider};

/// The first byte of a TLS connection: the content type of a handshake record.
pub const HANDSHAKE_RECORD: u8 = 0x16;
/// The protocol of the HTTP port (ALPN).
pub const HTTP: &[u8] = b"http/1.1";
/// The protocol of the peer port.
pub const PEER: &[u8] = b"huskv";
/// The most bytes that wait in one connection's session, in each direction.
const BUFFER_BYTES: usize = 16 << 10;

/// A connection after its handshake.
pub type SecureStream<S> = tokio_rustls::server::TlsStream<S>;

/// The result of a handshake: the connection, and the verified certificate of the client, where it has sent one.
pub type Accepted<S> = (SecureStream<S>, Option<VerifiedCertificate>);

/// Makes handshakes with the credentials that are present.
pub struct TlsAcceptor {
    credentials: Arc<CredentialStore>,
    client_auth: ClientAuth,
    protocol: &'static [u8],
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsAcceptor").field("client_auth", &self.client_auth).finish_non_exhaustive()
    }
}

impl TlsAcceptor {
    /// An acceptor with these credentials, for one protocol. Without a bundle in them no client can be asked for a
    /// certificate, and every handshake fails where one is wanted.
    #[must_use]
    pub fn new(credentials: Arc<CredentialStore>, client_auth: ClientAuth, protocol: &'static [u8]) -> Self {
        Self { credentials, client_auth, protocol, provider: provider() }
    }

    /// The credentials of the acceptor.
    #[must_use]
    pub fn credentials(&self) -> &CredentialStore {
        &self.credentials
    }

    /// Whether clients are asked for a certificate.
    #[must_use]
    pub fn client_auth(&self) -> ClientAuth {
        self.client_auth
    }

    /// Makes the handshake on `stream`. The caller bounds its time.
    ///
    /// # Errors
    /// The reason, and the stream, on which the alert has been sent.
    pub async fn accept<S>(&self, stream: S) -> Result<Accepted<S>, (Refusal, S)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let presented = Arc::new(Presented::default());
        // Before the credentials: a reload between the two only makes the first use verify again.
        let generation = self.credentials.generation();
        let config = match self.config(&self.credentials.present(), &presented) {
            Ok(config) => config,
            Err(error) => return Err((Refusal::new("configuration", error), stream)),
        };
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let handshake = acceptor.accept_with(stream, |session| session.set_buffer_limit(Some(BUFFER_BYTES)));
        let secured = match handshake.into_fallible().await {
            Ok(secured) => secured,
            Err((error, stream)) => return Err((Refusal::explain(&error, presented.get().as_ref()), stream)),
        };
        let chain = secured.get_ref().1.peer_certificates().unwrap_or_default();
        let verified = VerifiedCertificate::new(Arc::clone(&self.credentials), chain, generation);
        Ok((secured, verified))
    }

    /// The configuration of one handshake; its client's certificate is kept in `presented`.
    fn config(&self, credentials: &Credentials, presented: &Arc<Presented>) -> Result<ServerConfig, String> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| error.to_string())?;
        let builder = match (self.client_auth, &credentials.ca) {
            (ClientAuth::None, _) => builder.with_no_client_auth(),
            (_, None) => return Err("client certificates are asked for, and there is no CA bundle".to_owned()),
            (wanted, Some(ca)) => builder.with_client_cert_verifier(self.verifier(wanted, &ca.roots, presented)?),
        };
        let pair = SingleCertAndKey::from(Arc::clone(&credentials.pair.certified));
        let mut config = builder.with_cert_resolver(Arc::new(pair));
        config.alpn_protocols = vec![self.protocol.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }

    fn verifier(
        &self,
        wanted: ClientAuth,
        roots: &Arc<RootCertStore>,
        presented: &Arc<Presented>,
    ) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&self.provider));
        let builder = if wanted == ClientAuth::Optional { builder.allow_unauthenticated() } else { builder };
        let webpki = builder.build().map_err(|error| error.to_string())?;
        Ok(Arc::new(RecordingVerifier { webpki, presented: Arc::clone(presented) }))
    }
}

/// The certificate that the other side has presented, verified or not.
#[derive(Debug, Default)]
struct Presented(Mutex<Option<CertificateDer<'static>>>);

impl Presented {
    fn set(&self, certificate: &CertificateDer<'_>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificate.clone().into_owned());
    }

    fn get(&self) -> Option<CertificateDer<'static>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// webpki's verifier, and a note of what it has seen: rustls hands out no certificate of a failed handshake.
#[derive(Debug)]
struct RecordingVerifier {
    webpki: Arc<dyn ClientCertVerifier>,
    presented: Arc<Presented>,
}

impl ClientCertVerifier for RecordingVerifier {
    fn offer_client_auth(&self) -> bool {
        self.webpki.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.webpki.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.presented.set(end_entity);
        self.webpki.verify_client_cert(end_entity, intermediates, now)
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::credentials::CredentialFiles;
    use crate::trust::test_ca::{Leaf, TestCa};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn acceptor(ca: &TestCa, client_auth: ClientAuth) -> TlsAcceptor {
        let folder = tempfile::tempdir().unwrap();
        ca.node("kv1").write(folder.path());
        let path = |name: &str| folder.path().join(name);
        let files =
            CredentialFiles { certificate: path("node.pem"), key: path("node-key.pem"), ca: Some(path("ca.pem")) };
        TlsAcceptor::new(Arc::new(CredentialStore::open(files).unwrap()), client_auth, HTTP)
    }

    /// The result of a handshake with a client that trusts `trusted` and has the certificate `own`.
    async fn handshake(
        acceptor: &TlsAcceptor,
        trusted: &TestCa,
        own: Option<&Leaf>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Result<Option<VerifiedCertificate>, Refusal> {
        let (client, server) = tokio::io::duplex(64 << 10);
        let config = Arc::new(trusted.client_config(own, versions));
        let client = async {
            let name = "localhost".try_into().unwrap();
            let Ok(mut stream) = tokio_rustls::TlsConnector::from(config).connect(name, client).await else { return };
            // With TLS 1.3 a client learns of its refusal only when it reads.
            drop(stream.write_all(b"x").await);
            drop(stream.read_u8().await);
        };
        let server = async {
            let (mut stream, info) = acceptor.accept(server).await.map_err(|(refusal, _)| refusal)?;
            assert_eq!(stream.read_u8().await.unwrap(), b'x');
            let session = stream.get_ref().1;
            assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
            stream.write_all(b"y").await.unwrap();
            Ok(info)
        };
        tokio::join!(server, client).0
    }

    #[tokio::test]
    async fn client_certificates_are_refused_in_words_and_accepted_ones_are_handed_on() {
        let (ca, other) = (TestCa::new("ca"), TestCa::new("other"));
        let both = rustls::DEFAULT_VERSIONS;
        let good = ca.client("billing");
        let expired = ca.leaf("late", |leaf| leaf.days((-9, -1)));
        let future = ca.leaf("early", |leaf| leaf.days((1, 9)));
        let foreign = other.client("foreign");
        let server_only = ca.leaf("server", |leaf| leaf.for_servers_only());
        for (auth, own, expected) in [
            (ClientAuth::None, None, Ok(None)),
            (ClientAuth::None, Some(&foreign), Ok(None)),
            (ClientAuth::Optional, None, Ok(None)),
            (ClientAuth::Optional, Some(&good), Ok(Some("CN=billing"))),
            (ClientAuth::Optional, Some(&foreign), Err(("unknown issuer CN=other", Some("CN=foreign")))),
            (ClientAuth::Required, Some(&good), Ok(Some("CN=billing"))),
            (ClientAuth::Required, None, Err(("no certificate was sent", None))),
            (ClientAuth::Required, Some(&expired), Err(("expired on", Some("CN=late")))),
            (ClientAuth::Required, Some(&future), Err(("not valid before", Some("CN=early")))),
            (ClientAuth::Required, Some(&foreign), Err(("unknown issuer CN=other", Some("CN=foreign")))),
            (ClientAuth::Required, Some(&server_only), Err(("not for this use", Some("CN=server")))),
        ] {
            let acceptor = acceptor(&ca, auth);
            for versions in [&both[..1], &both[1..]] {
                let result = handshake(&acceptor, &ca, own, versions).await;
                match (&result, &expected) {
                    (Ok(verified), Ok(subject)) => {
                        let info = verified.as_ref().and_then(VerifiedCertificate::info);
                        assert_eq!(info.map(|info| info.subject.as_str()), *subject);
                    }
                    (Err(refusal), Err((words, subject))) => {
                        assert!(refusal.reason.contains(words), "{refusal:?}");
                        let found = refusal.certificate.as_ref().map(|info| info.subject.as_str());
                        assert_eq!(found, *subject, "{refusal:?}");
                    }
                    _ => panic!("{auth:?} {expected:?}: {result:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_know_the_ca_is_named_so() {
        let (ca, other) = (TestCa::new("ca"), TestCa::new("other"));
        let acceptor = acceptor(&ca, ClientAuth::None);
        let refusal = handshake(&acceptor, &other, None, rustls::DEFAULT_VERSIONS).await.unwrap_err();
        assert!(refusal.reason.contains("does not know the CA of this node's certificate"), "{refusal:?}");
    }

    #[tokio::test]
    async fn bytes_that_are_no_handshake_are_refused() {
        let acceptor = acceptor(&TestCa::new("ca"), ClientAuth::None);
        for bytes in [&b"\x16\x03\x01\x00\x05hello"[..], &[0x16; 64], &[0; 64], b"\x16\x03\x01\xff\xff"] {
            let (mut client, server) = tokio::io::duplex(4096);
            client.write_all(bytes).await.unwrap();
            client.shutdown().await.unwrap();
            let (refusal, _) = acceptor.accept(server).await.map(drop).unwrap_err();
            assert!(["malformed", "closed"].contains(&refusal.kind), "{bytes:?}: {refusal:?}");
        }
    }
}
