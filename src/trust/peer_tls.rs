//! TLS between nodes: mutual, and by names instead of addresses.
//!
//! Why: a peer that speaks as a member takes part in every commit. A handshake here ends in a stream and in the
//! [`PeerIdentity`] at its other end, which the transport compares with the member table.
//!
//! ```text
//!   dialler                                      acceptor
//!   the member kv2 -> kv2.CLUSTER.huskv          CA, key usage: webpki
//!   a stranger     -> node.CLUSTER.huskv         names: PeerIdentity::of
//!   CA, key usage, name: webpki
//! ```
//!
//! Invariants: both sides present a certificate of a node, verified by webpki with the bundle that is present at the handshake. The own
//! certificate passes the same checks, at the start and at each reload, and names this node: the other nodes have the same
//! bundle, so they would refuse what fails here.
//!
//! See also: [`super::credentials`] (the reload), `transport::handshake` (what is said on the stream).

use std::fmt::Display;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, Error};
use rustls_pki_types::{ServerName, UnixTime};
use slog::Logger;
use tokio::net::TcpStream;

use super::acceptor::{PEER, TlsAcceptor};
use super::connector::{HandshakeError, RefusedBy, TlsConnector};
use super::credentials::{CredentialFiles, CredentialStore, Credentials};
use super::names::{Label, SHARED_LABEL};
use super::peer_identity::{PeerIdentity, host};
use super::refusal::Refusal;
use super::verified_certificate::VerifiedCertificate;
use super::{ClientAuth, Mode, TrustError, provider};
use crate::telemetry::logging::LogLimits;

/// A connection to or from a node after its handshake.
pub type TlsStream = tokio_rustls::TlsStream<TcpStream>;

/// A connection, and the verified certificate at its other end.
pub type VerifiedStream = (TlsStream, Arc<VerifiedCertificate>);

/// An accepted connection, and the identity of its node; or why its verified certificate names none.
pub type AcceptedPeer = (VerifiedStream, Result<PeerIdentity, Refusal>);

/// TLS of the peer port.
pub struct PeerTls {
    mode: Mode,
    identity: PeerIdentity,
    credentials: Arc<CredentialStore>,
    acceptor: TlsAcceptor,
    refusals: LogLimits,
}

impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerTls").field("mode", &self.mode).field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl PeerTls {
    /// Reads the certificate of the node `name`.
    ///
    /// # Errors
    /// [`TrustError`] where a file is wrong, where the certificate is not that of this node, or where the bundle does not
    /// verify it.
    pub fn open(files: CredentialFiles, mode: Mode, name: &str) -> Result<Self, TrustError> {
        let file = files.certificate.clone();
        let wrong = |reason| TrustError::Invalid { path: file.clone(), reason };
        Label::parse_own(name)
            .map_err(|rule| wrong(format!("with TLS between nodes RAFT_NODE_ID stands in certificates: {rule}")))?;
        // The certificate that the node starts with says which cluster it belongs to; a later one belongs to the same.
        let read = files.read(std::time::SystemTime::now())?;
        let identity = PeerIdentity::of_own(&read.pair.info).map_err(&wrong)?;
        let own = PeerIdentity { name: name.to_owned(), cluster: identity.cluster };
        let expected = own.clone();
        let credentials =
            Arc::new(CredentialStore::open_checked(files, Box::new(move |read| check_own(read, &expected)))?);
        let acceptor = TlsAcceptor::new(Arc::clone(&credentials), ClientAuth::Required, PEER);
        Ok(Self { mode, identity: own, credentials, acceptor, refusals: LogLimits::default() })
    }

    /// The mode of the peer port.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The credentials of this node.
    #[must_use]
    pub fn credentials(&self) -> &Arc<CredentialStore> {
        &self.credentials
    }

    /// Makes the handshake on a connection of another node. The caller bounds its time.
    ///
    /// # Errors
    /// The reason, and the stream, on which the alert has been sent.
    pub async fn accept(&self, stream: TcpStream) -> Result<AcceptedPeer, (Refusal, TcpStream)> {
        let (stream, certificate) = match self.acceptor.accept(stream).await? {
            (stream, Some(certificate)) => (stream, certificate),
            // The acceptor requires one.
            (stream, None) => {
                let refusal = Refusal::new("no certificate", "no certificate was sent, and one is required");
                return Err((refusal, stream.into_inner().0));
            }
        };
        let identity = match certificate.info() {
            Some(info) => PeerIdentity::of(info, &self.identity.cluster).map_err(|reason| Refusal {
                kind: "no node",
                reason,
                certificate: Some(info.clone()),
            }),
            None => Err(Refusal::new("malformed certificate", "the certificate cannot be read")),
        };
        Ok(((stream.into(), Arc::new(certificate)), identity))
    }

    /// Makes the handshake with the node that is known by `name`, or with any node of the cluster. The caller bounds its
    /// time.
    ///
    /// # Errors
    /// The reason, in words.
    pub async fn connect(
        &self,
        stream: TcpStream,
        name: Option<&str>,
    ) -> Result<(VerifiedStream, PeerIdentity), HandshakeError> {
        let refused = |reason: String| HandshakeError { reason, side: RefusedBy::Client };
        // Before the credentials: a reload between the two only makes the first look verify again.
        let generation = self.credentials.generation();
        let Credentials { pair, ca } = &*self.credentials.present();
        let ca = ca.as_ref().ok_or_else(|| refused("there is no CA bundle".to_owned()))?;
        let connector = TlsConnector::new(ca, &self.credentials.ca_file(), Some(pair.clone())).map_err(refused)?;
        let dialled = host(name.unwrap_or(SHARED_LABEL), &self.identity.cluster);
        let stream = connector.for_protocol(PEER).connect(&dialled, stream).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificate = VerifiedCertificate::new(Arc::clone(&self.credentials), chain, generation)
            .ok_or_else(|| refused("the node there has sent no certificate".to_owned()))?;
        let info = certificate.info().ok_or_else(|| refused("its certificate cannot be read".to_owned()))?;
        let identity = PeerIdentity::of(info, &self.identity.cluster).map_err(refused)?;
        // webpki lets a wildcard stand for a name; a node is named by its name alone.
        if name.is_some_and(|name| name != identity.name) {
            return Err(refused(format!("the certificate there is of {identity}, not of {dialled}")));
        }
        Ok(((stream.into(), Arc::new(certificate)), identity))
    }

    /// Logs one line about a refused handshake or identity, unless there are too many of its kind.
    pub fn log_refusal(&self, refusal: &Refusal, log: &Logger, address: &dyn Display) {
        refusal.log(&self.refusals, log, "peer", address);
    }

    /// Returns how many handshakes were refused, by their kind.
    #[must_use]
    pub fn refused(&self) -> Vec<(&'static str, u64)> {
        self.refusals.totals()
    }
}

/// Checks that the other nodes, which have the same bundle, accept these credentials as those of the node `own`. Dates are
/// checked before, with an allowance for clocks.
fn check_own(read: &Credentials, own: &PeerIdentity) -> Result<(), String> {
    let info = &read.pair.info;
    let found = PeerIdentity::of(info, &own.cluster)?;
    if found != *own {
        return Err(info.lacks(&format!("{own} of this node (RAFT_NODE_ID)")));
    }
    let Some(ca) = &read.ca else { return Err("tls.peer_ca is not given: peers are verified with it".to_owned()) };
    let Some((certificate, intermediates)) = read.pair.certified.cert.split_first() else {
        return Err("there is no certificate".to_owned());
    };
    let name = ServerName::try_from(own.to_string()).map_err(|error| error.to_string())?;
    let now = UnixTime::now();
    let server = WebPkiServerVerifier::builder_with_provider(Arc::clone(&ca.roots), provider()).build();
    let as_server =
        server.map_err(|error| error.to_string())?.verify_server_cert(certificate, intermediates, &name, &[], now);
    let client = WebPkiClientVerifier::builder_with_provider(Arc::clone(&ca.roots), provider()).build();
    let as_client = client.map_err(|error| error.to_string())?.verify_client_cert(certificate, intermediates, now);
    let verdicts = [("servers", as_server.map(drop)), ("clients", as_client.map(drop))];
    verdicts.into_iter().try_for_each(|(role, verdict)| match verdict {
        // The clocks of the nodes may differ a little, and the dates were checked with that in mind.
        Ok(()) | Err(Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. })) => Ok(()),
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            Err(format!("its issuer {} is not among the authorities of tls.peer_ca, so the other nodes would refuse it", info.issuer))
        }
        Err(Error::InvalidCertificate(CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. })) => {
            Err(format!("the certificate is not for {role} (extended key usage); that of a node is for servers and clients"))
        }
        Err(error) => Err(format!("the other nodes would refuse it: {}", Refusal::of(&error, Some(certificate)).reason)),
    })
}
