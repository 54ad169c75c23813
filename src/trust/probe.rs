//! What a server presents: a handshake that accepts every certificate, for `huskv certs show HOST:PORT` alone.
//!
//! Why: a certificate that clients refuse can be looked at only by a client that does not.
//!
//! Invariants: nothing is sent after the handshake, and no certificate of a client. The server proves that it has the key: the
//! signature of the handshake is verified, whatever the certificate. Whether a CA issued it is judged by webpki.
//!
//! See also: [`super::inspect`], which describes the certificates.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, Error, ProtocolVersion, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;

use super::pem_files::CaBundle;
use super::provider;
use super::refusal::Refusal;

/// The time for the connection and the handshake.
const LIMIT: Duration = Duration::from_secs(10);

/// What a server has presented.
#[derive(Debug)]
pub struct Presented {
    /// Its certificate, and those that it has sent with it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The version of TLS, such as `TLS 1.3`.
    pub version: &'static str,
    /// Why the handshake ended early, such as a server that requires a certificate.
    pub incomplete: Option<String>,
    /// The certificate of the bundle that verifies it, or why none does; `None` without a bundle.
    pub verified: Option<Result<CertificateDer<'static>, String>>,
}

/// An address, `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    /// The host, without brackets.
    host: String,
    port: u16,
}

impl ServerAddress {
    /// Parses `HOST:PORT` or `https://HOST:PORT`; an IPv6 address is in brackets.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bare = text.strip_prefix("https://").map_or(text, |rest| rest.trim_end_matches('/'));
        let (host, port) = bare.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port > 0)?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        let is_valid = ServerName::try_from(host).is_ok() && (bracketed.is_some() == host.contains(':'));
        is_valid.then(|| Self { host: host.to_owned(), port })
    }

    /// The host, which the certificate has to name.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }
}

/// Connects, and returns what the server presents; `trusted` is what it is verified with.
///
/// # Errors
/// A reason where there is no connection, or no certificate.
pub async fn presented(address: &ServerAddress, trusted: Option<&CaBundle>) -> Result<Presented, String> {
    match tokio::time::timeout(LIMIT, handshake(address, trusted)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no certificate within {} s; does the port speak TLS?", LIMIT.as_secs())),
    }
}

async fn handshake(address: &ServerAddress, trusted: Option<&CaBundle>) -> Result<Presented, String> {
    let name = ServerName::try_from(address.host.clone()).map_err(|error| error.to_string())?;
    let stream = TcpStream::connect((address.host.as_str(), address.port));
    let stream = stream.await.map_err(|error| format!("cannot connect: {error}"))?;
    let recorder = Arc::new(Recorder { provider: provider(), chain: Mutex::default() });
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&recorder) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let (version, incomplete) = match connector.connect(name.clone(), stream).await {
        Ok(stream) => (stream.get_ref().1.protocol_version(), None),
        Err(error) => (None, Some(explain(&error))),
    };
    let chain = std::mem::take(&mut *recorder.chain.lock().unwrap_or_else(PoisonError::into_inner));
    if chain.is_empty() {
        return Err(incomplete.unwrap_or_else(|| "the server presents no certificate".to_owned()));
    }
    let verified = trusted.map(|bundle| verify(&chain, &name, bundle));
    let version = match version {
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS",
    };
    Ok(Presented { chain, version, incomplete, verified })
}

fn explain(error: &io::Error) -> String {
    let refusal = Refusal::explain(error, None);
    let hint = if refusal.kind == "malformed" { "; does the port speak plain HTTP?" } else { "" };
    format!("{}{hint}", refusal.reason)
}

/// Verifies the chain with each certificate of the bundle, so the one that does can be named.
fn verify(
    chain: &[CertificateDer<'static>],
    name: &ServerName<'_>,
    bundle: &CaBundle,
) -> Result<CertificateDer<'static>, String> {
    for root in &bundle.certificates {
        let mut roots = RootCertStore::empty();
        if roots.add(root.clone()).is_ok() && verify_with(chain, name, &Arc::new(roots)).is_ok() {
            return Ok(root.clone());
        }
    }
    match verify_with(chain, name, &bundle.roots) {
        Ok(()) => Err("no single certificate of the bundle verifies it".to_owned()),
        Err(error) => Err(Refusal::explain(&io::Error::other(error), chain.first()).reason),
    }
}

fn verify_with(chain: &[CertificateDer<'_>], name: &ServerName<'_>, roots: &Arc<RootCertStore>) -> Result<(), Error> {
    let (first, rest) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider()).build();
    let verifier = verifier.map_err(|error| Error::General(error.to_string()))?;
    verifier.verify_server_cert(first, rest, name, &[], UnixTime::now()).map(drop)
}

/// Accepts every certificate, and keeps it.
#[derive(Debug)]
struct Recorder {
    provider: Arc<CryptoProvider>,
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let sent = std::iter::once(end_entity).chain(intermediates);
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) =
            sent.map(|certificate| certificate.clone().into_owned()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_with_a_port() {
        let parsed = |text: &str| ServerAddress::parse(text).map(|address| (address.host, address.port));
        for (text, host, port) in [
            ("kv1:2221", "kv1", 2221),
            ("127.0.0.1:1", "127.0.0.1", 1),
            ("[::1]:2221", "::1", 2221),
            ("https://kv1.example.org:2221", "kv1.example.org", 2221),
            ("https://kv1:2221/", "kv1", 2221),
        ] {
            assert_eq!(parsed(text), Some((host.to_owned(), port)), "{text}");
        }
        for text in [
            "",
            "kv1",
            ":2221",
            "kv1:",
            "kv1:0",
            "kv1:65536",
            "::1:2221",
            "[kv1]:1",
            "http://kv1:2221",
            "a b:1",
            "kv1/x:1",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
