//! A certificate authority for tests, and clients that trust it.
//!
//! See also: `huskv certs`, which issues real certificates.

#![allow(dead_code, reason = "each crate of tests uses a part")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};

/// A blocking TLS connection of a client.
pub type TlsClient = StreamOwned<ClientConnection, TcpStream>;

/// The cluster of [`TestCa::node`].
pub const CLUSTER: &str = "test";

/// A certificate authority.
pub struct TestCa(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, in PEM form.
pub struct Leaf {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// The certificate of its authority.
    pub ca: String,
}

/// The parameters of a certificate.
pub struct LeafParams(CertificateParams);

impl LeafParams {
    /// Valid from so many days from now, until so many days from now.
    pub fn days(self, (from, until): (i64, i64)) -> Self {
        self.seconds((from * 86_400, until * 86_400))
    }

    /// Valid from so many seconds from now, until so many seconds from now.
    pub fn seconds(mut self, (from, until): (i64, i64)) -> Self {
        let at = |seconds: i64| {
            let span = Duration::from_secs(seconds.unsigned_abs());
            if seconds < 0 { SystemTime::now() - span } else { SystemTime::now() + span }
        };
        self.0.not_before = at(from).into();
        self.0.not_after = at(until).into();
        self
    }

    /// Of the node `name` of `cluster`.
    pub fn of_node(mut self, name: &str, cluster: &str) -> Self {
        let names = ["node", name].map(|label| format!("{label}.{cluster}.huskv").try_into().unwrap());
        self.0.subject_alt_names.extend(names.map(SanType::DnsName));
        self
    }

    /// Not for servers.
    pub fn for_clients_only(mut self) -> Self {
        self.0.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self
    }

    /// Without a word on its use.
    pub fn for_any_use(mut self) -> Self {
        self.0.extended_key_usages = Vec::new();
        self
    }

    /// Without names.
    pub fn nameless(mut self) -> Self {
        self.0.subject_alt_names = Vec::new();
        self
    }

    /// Not for clients.
    pub fn for_servers_only(mut self) -> Self {
        self.0.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self
    }
}

impl TestCa {
    /// A new authority called `CN=name`.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its certificate.
    pub fn certificate(&self) -> String {
        self.0.pem()
    }

    /// A certificate of `CN=name` for localhost, for servers and clients, valid for 90 days, after `change`.
    pub fn leaf(&self, name: &str, change: impl FnOnce(LeafParams) -> LeafParams) -> Leaf {
        let names = ["localhost", "127.0.0.1", name].map(str::to_owned);
        let mut params = CertificateParams::new(names.to_vec()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let params = change(LeafParams(params).days((-1, 90))).0;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Leaf { certificate: certificate.pem(), key: key.serialize_pem(), ca: self.certificate() }
    }

    /// A certificate of the node `name` of the cluster [`CLUSTER`].
    pub fn node(&self, name: &str) -> Leaf {
        self.leaf(name, |leaf| leaf.of_node(name, CLUSTER))
    }

    /// A certificate of a client.
    pub fn client(&self, name: &str) -> Leaf {
        self.leaf(name, |leaf| leaf)
    }

    /// The configuration of a client that trusts this authority, and that has the certificate `own`.
    pub fn client_config(&self, own: Option<&Leaf>, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        match own {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let chain = vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap()];
                builder
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap())
                    .unwrap()
            }
        }
    }

    /// The handshake of a client on `stream` with the server called `name`.
    pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        name: &'static str,
        own: Option<&Leaf>,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<S>> {
        let config = Arc::new(self.client_config(own, rustls::DEFAULT_VERSIONS));
        tokio_rustls::TlsConnector::from(config).connect(name.try_into().unwrap(), stream).await
    }

    /// Connects to `address`, a blocking connection whose handshake happens with the first read or write.
    pub fn connect(&self, address: &str, own: Option<&Leaf>) -> TlsClient {
        let config = Arc::new(self.client_config(own, rustls::DEFAULT_VERSIONS));
        let connection = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        StreamOwned::new(connection, stream)
    }
}

impl Leaf {
    /// Writes ca.pem, node.pem and node-key.pem, as `HUSKV_TLS_DIR` has them.
    pub fn write(&self, folder: &Path) {
        for (name, text) in [("ca.pem", &self.ca), ("node.pem", &self.certificate), ("node-key.pem", &self.key)] {
            fs::write(folder.join(name), text).unwrap();
        }
        fs::set_permissions(folder.join("node-key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    }
}
