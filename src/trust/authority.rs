//! Certificate authority of a cluster: a CA in a folder, and the certificates of nodes and clients that it issues.
//!
//! Why: names, usages and dates that peers check have to be the same everywhere, which no page of openssl commands ensures.
//!
//! ```text
//!   DIR/ca.pem  DIR/ca-key.pem      O=CLUSTER, CN=huskv CA: node and client find CLUSTER in it
//!   DIR/kv1/    ca.pem node.pem node-key.pem          DNS:node.CLUSTER.huskv DNS:kv1.CLUSTER.huskv ...
//!   DIR/alice/  ca.pem client.pem client-key.pem      CN=alice, no names
//! ```
//!
//! Invariants: keys are ECDSA P-256. No certificate ends after its CA. A client's certificate has no DNS name and no server
//! usage, so it passes for no node. The first certificate of `ca.pem` is the one that `ca-key.pem` belongs to; others may
//! follow, and are handed on, so that a new CA can be trusted beside the old one.
//!
//! See also: `docs/certificates.md`; RFC 5280, section 4.2 (extensions).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate::CertificateInfo;
use super::names::{DOMAIN, Host, Label, SHARED_LABEL};
use super::new_files::{self, NewFile};
use super::{TrustError, pem_files, provider};

/// The common name of every CA that is made here.
const CA_NAME: &str = "huskv CA";
/// How long a CA is valid.
const CA_DAYS: u32 = 3650;
/// How far back a certificate begins, for hosts whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
const DAY: Duration = Duration::from_secs(24 * 3600);

const CA_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca-key.pem";

/// A CA that can issue certificates.
pub struct Authority {
    folder: PathBuf,
    cluster: Label,
    /// The text of `ca.pem`.
    bundle: String,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

/// What was written.
#[derive(Debug)]
pub struct Written {
    /// The files, as paths.
    pub files: Vec<PathBuf>,
    /// The cluster.
    pub cluster: Label,
    /// What the certificate says.
    pub info: CertificateInfo,
    /// Whether it ends sooner than asked, with its CA.
    pub ends_with_ca: bool,
    /// The folders that other users may write, with their modes.
    pub open_folders: Vec<(PathBuf, u32)>,
}

/// Creates the CA of `cluster` in `folder`.
///
/// # Errors
/// [`TrustError`] where a file exists, unless `replace`, or cannot be written.
pub fn create(folder: &Path, cluster: &Label, replace: bool) -> Result<Written, TrustError> {
    create_at(SystemTime::now(), folder, cluster, replace)
}

fn create_at(now: SystemTime, folder: &Path, cluster: &Label, replace: bool) -> Result<Written, TrustError> {
    let path = folder.join(CA_FILE);
    let mut params = params(now, days(CA_DAYS));
    params.distinguished_name.push(DnType::OrganizationName, cluster.as_str());
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(signing(&path))?;
    let certificate = params.self_signed(&key).map_err(signing(&path))?;
    let info = CertificateInfo::parse(certificate.der()).map_err(|reason| invalid(&path, reason))?;
    let (text, key) = (certificate.pem(), key.serialize_pem());
    let files = [NewFile::public(path, &text), NewFile::secret(folder.join(CA_KEY_FILE), &key)];
    let paths = new_files::write(folder, &files, replace)?;
    let open_folders = new_files::open_to_others(&[folder]);
    Ok(Written { files: paths, cluster: cluster.clone(), info, ends_with_ca: false, open_folders })
}

impl Authority {
    /// Reads the CA in `folder`.
    ///
    /// # Errors
    /// [`TrustError`] where there is none, where it was not made by [`create`], or where it has expired.
    pub fn read(folder: &Path) -> Result<Self, TrustError> {
        let (path, key_path) = (folder.join(CA_FILE), folder.join(CA_KEY_FILE));
        let pair = pem_files::KeyPair::read(&path, &key_path).map_err(|error| match error {
            TrustError::Io { path, source } if source.kind() == std::io::ErrorKind::NotFound && path == key_path => {
                invalid(
                    &path,
                    "there is no such file, though ca.pem is there; certificates are signed with this key, so use the folder of \
                     the CA, or copy the key back from where it is kept",
                )
            }
            TrustError::Io { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
                invalid(&path, "there is no such file; huskv certs ca DIR --cluster NAME makes a CA")
            }
            other => other,
        })?;
        let certificate = pair.certified.cert.first().ok_or_else(|| invalid(&path, "it holds no certificate"))?;
        let cluster = cluster(certificate).map_err(|reason| invalid(&path, reason))?;
        let not_after = pair.info.not_after;
        if not_after <= SystemTime::now() {
            let on = humantime::format_rfc3339_seconds(not_after);
            return Err(invalid(&path, format!("the CA expired on {on}; make a new one in another folder")));
        }
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| TrustError::Io { path, source }
        };
        let bundle = fs::read_to_string(&path).map_err(io(&path))?;
        if bundle.contains("PRIVATE KEY") {
            return Err(invalid(
                &path,
                "it holds a private key, and every node gets a copy of this file; remove the key",
            ));
        }
        let text = fs::read(&key_path).map_err(io(&key_path))?;
        let key = PrivateKeyDer::from_pem_slice(&text).ok().and_then(|key| KeyPair::try_from(&key).ok());
        let key =
            key.ok_or_else(|| invalid(&key_path, "it is no key in PKCS #8 form; convert it with openssl pkcs8"))?;
        let issuer = Issuer::from_ca_cert_der(certificate, key).map_err(signing(&path))?;
        Ok(Self { folder: folder.to_owned(), cluster, bundle, not_after, issuer })
    }

    /// The cluster that it is the CA of.
    #[must_use]
    pub fn cluster(&self) -> &Label {
        &self.cluster
    }

    /// Whether `DIR/NAME` holds what [`Authority::node`] wrote, issued by this CA, beside its present bundle, and valid at each
    /// of `times`.
    #[must_use]
    pub fn has_issued(&self, name: &Label, times: &[SystemTime]) -> bool {
        let folder = self.folder.join(name.as_str());
        let path = folder.join(CA_FILE);
        // What cannot be read or verified has to be issued again, whatever the reason is.
        let Ok(pair) = pem_files::KeyPair::read(&folder.join("node.pem"), &folder.join("node-key.pem")) else {
            return false;
        };
        let Ok(bundle) = pem_files::CaBundle::read(&path) else { return false };
        if !fs::read_to_string(path).is_ok_and(|text| text == self.bundle) {
            return false;
        }
        let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(bundle.roots, provider()).build() else {
            return false;
        };
        let Ok(server) = ServerName::try_from(format!("{name}.{}.{DOMAIN}", self.cluster)) else { return false };
        let Some((leaf, intermediates)) = pair.certified.cert.split_first() else { return false };
        times.iter().all(|time| {
            let time = UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
            verifier.verify_server_cert(leaf, intermediates, &server, &[], time).is_ok()
        })
    }

    /// Issues the certificate of a node into `DIR/NAME`. Without `hosts` it is for the host `name`.
    ///
    /// # Errors
    /// [`TrustError`] where a file exists, unless `replace`, or cannot be written.
    pub fn node(&self, name: &Label, hosts: &[Host], valid: u32, replace: bool) -> Result<Written, TrustError> {
        let mut params = self.leaf(name, valid);
        let own = [SHARED_LABEL, name.as_str()].map(|label| Host::Dns(format!("{label}.{}.{DOMAIN}", self.cluster)));
        let local = [
            Host::Dns("localhost".to_owned()),
            Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Host::Ip(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        ];
        let itself = [Host::Dns(name.as_str().to_owned())];
        let hosts = if hosts.is_empty() { &itself } else { hosts };
        for host in own.iter().chain(&local).chain(hosts) {
            let name = match host {
                Host::Ip(ip) => SanType::IpAddress(*ip),
                Host::Dns(name) => SanType::DnsName(name.as_str().try_into().map_err(signing(&self.folder))?),
            };
            if !params.subject_alt_names.contains(&name) {
                params.subject_alt_names.push(name);
            }
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&params, name, "node", replace)
    }

    /// Issues the certificate of a client into `DIR/NAME`.
    ///
    /// # Errors
    /// [`TrustError`] where a file exists, unless `replace`, or cannot be written.
    pub fn client(&self, name: &Label, valid: u32, replace: bool) -> Result<Written, TrustError> {
        let mut params = self.leaf(name, valid);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&params, name, "client", replace)
    }

    fn leaf(&self, name: &Label, valid: u32) -> CertificateParams {
        let now = SystemTime::now();
        let left = self.not_after.duration_since(now).unwrap_or_default();
        let mut params = params(now, days(valid).min(left));
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        // It is none, and says so; with this the subject's key identifier is written, too.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params
    }

    fn issue(
        &self,
        params: &CertificateParams,
        name: &Label,
        kind: &str,
        replace: bool,
    ) -> Result<Written, TrustError> {
        let folder = self.folder.join(name.as_str());
        let path = folder.join(format!("{kind}.pem"));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(signing(&path))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(signing(&path))?;
        let info = CertificateInfo::parse(certificate.der()).map_err(|reason| invalid(&path, reason))?;
        debug_assert!(info.not_after <= self.not_after, "no certificate ends after its CA");
        let (text, key) = (certificate.pem(), key.serialize_pem());
        let files = [
            NewFile::public(folder.join(CA_FILE), &self.bundle),
            NewFile::public(path, &text),
            NewFile::secret(folder.join(format!("{kind}-key.pem")), &key),
        ];
        let files = new_files::write(&folder, &files, replace)?;
        let ends_with_ca = info.not_after == self.not_after;
        let open_folders = new_files::open_to_others(&[&self.folder, &folder]);
        Ok(Written { files, cluster: self.cluster.clone(), info, ends_with_ca, open_folders })
    }
}

fn days(count: u32) -> Duration {
    DAY * count
}

/// The parameters that all certificates share.
fn params(now: SystemTime, valid: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + valid).into();
    params
}

/// The cluster of a CA: the organization of its subject.
fn cluster(certificate: &CertificateDer<'_>) -> Result<Label, String> {
    let foreign = || format!("it is no CA of huskv certs ca: its subject is not O=CLUSTER, CN={CA_NAME}");
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| foreign())?;
    let only = |texts: &[Option<&str>]| match texts {
        [Some(text)] => Some((*text).to_owned()),
        _ => None,
    };
    let subject = parsed.subject();
    let organization: Vec<_> = subject.iter_organization().map(|attribute| attribute.as_str().ok()).collect();
    let common: Vec<_> = subject.iter_common_name().map(|attribute| attribute.as_str().ok()).collect();
    if only(&common).as_deref() != Some(CA_NAME) || !parsed.is_ca() {
        return Err(foreign());
    }
    only(&organization).and_then(|label| Label::parse(&label).ok()).ok_or_else(foreign)
}

fn signing(path: &Path) -> impl FnOnce(rcgen::Error) -> TrustError + use<> {
    let path = path.to_owned();
    move |error| invalid(&path, format!("cannot make the certificate: {error}"))
}

fn invalid(path: &Path, reason: impl Into<String>) -> TrustError {
    TrustError::Invalid { path: path.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::pem_files::CaBundle;
    use crate::trust::test_ca::TestCa;
    use rustls::server::WebPkiClientVerifier;
    use std::os::unix::fs::PermissionsExt;

    fn label(text: &str) -> Label {
        Label::parse(text).unwrap()
    }

    /// The pair of files in `folder`, as a node reads them.
    fn pair(folder: &Path, kind: &str) -> pem_files::KeyPair {
        let path = |name: String| folder.join(name);
        pem_files::KeyPair::read(&path(format!("{kind}.pem")), &path(format!("{kind}-key.pem"))).unwrap()
    }

    fn accepts_server(folder: &Path, kind: &str, name: &str) -> bool {
        let bundle = CaBundle::read(&folder.join(CA_FILE)).unwrap();
        let verifier = WebPkiServerVerifier::builder_with_provider(bundle.roots, provider()).build().unwrap();
        let (pair, name) = (pair(folder, kind), ServerName::try_from(name).unwrap());
        verifier.verify_server_cert(&pair.certified.cert[0], &[], &name, &[], UnixTime::now()).is_ok()
    }

    fn accepts_client(folder: &Path, kind: &str) -> bool {
        let bundle = CaBundle::read(&folder.join(CA_FILE)).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(bundle.roots, provider()).build().unwrap();
        verifier.verify_client_cert(&pair(folder, kind).certified.cert[0], &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn certificates_are_accepted_for_their_names_and_usages_alone() {
        let home = tempfile::tempdir().unwrap();
        create(home.path(), &label("prod"), false).unwrap();
        let authority = Authority::read(home.path()).unwrap();
        let hosts = ["kv1.example.org", "10.0.0.1"].map(|host| Host::parse(host).unwrap());
        authority.node(&label("kv1"), &hosts, 397, false).unwrap();
        authority.node(&label("kv2"), &[], 397, false).unwrap();
        authority.client(&label("alice"), 397, false).unwrap();
        let [kv1, kv2, alice] = ["kv1", "kv2", "alice"].map(|name| home.path().join(name));
        for name in
            ["node.prod.huskv", "kv1.prod.huskv", "localhost", "127.0.0.1", "::1", "kv1.example.org", "10.0.0.1"]
        {
            assert!(accepts_server(&kv1, "node", name), "{name}");
        }
        for name in ["kv1", "kv2.prod.huskv", "node.test.huskv", "node.huskv", "10.0.0.2"] {
            assert!(!accepts_server(&kv1, "node", name), "{name}");
        }
        assert!(accepts_server(&kv2, "node", "kv2"), "without hosts it is for its name");
        assert!(accepts_client(&kv1, "node") && accepts_client(&alice, "client"));
        assert!(!accepts_server(&alice, "client", "alice"));
        let info = pair(&alice, "client").info;
        assert_eq!((info.subject.as_str(), info.issuer.as_str()), ("CN=alice", "O=prod, CN=huskv CA"));
        assert_eq!(info.names(), "no names");
        let key = fs::read_to_string(kv1.join("node-key.pem")).unwrap();
        assert_eq!(KeyPair::from_pem(&key).unwrap().algorithm(), &PKCS_ECDSA_P256_SHA256);
    }

    #[test]
    fn what_was_issued_is_told_from_what_expires_and_what_another_ca_issued() {
        let home = tempfile::tempdir().unwrap();
        create(home.path(), &label("prod"), false).unwrap();
        let authority = Authority::read(home.path()).unwrap();
        let (now, kv1) = (SystemTime::now(), label("kv1"));
        assert!(!authority.has_issued(&kv1, &[now]), "there is none");
        authority.node(&kv1, &[], 30, false).unwrap();
        assert!(authority.has_issued(&kv1, &[now, now + days(29)]));
        assert!(!authority.has_issued(&kv1, &[now, now + days(31)]));
        assert!(!authority.has_issued(&kv1, &[now - days(1)]));
        fs::rename(home.path().join("kv1"), home.path().join("kv2")).unwrap();
        assert!(!authority.has_issued(&label("kv2"), &[now]), "it is of another node");
        fs::rename(home.path().join("kv2"), home.path().join("kv1")).unwrap();
        create(home.path(), &label("prod"), true).unwrap();
        let renewed = Authority::read(home.path()).unwrap();
        assert!(!renewed.has_issued(&kv1, &[now]), "the bundle beside it is the old one");
        fs::copy(home.path().join(CA_FILE), home.path().join("kv1").join(CA_FILE)).unwrap();
        assert!(!renewed.has_issued(&kv1, &[now]), "the old CA of the same name has issued it");
        renewed.node(&kv1, &[], 30, true).unwrap();
        assert!(renewed.has_issued(&kv1, &[now]));
    }

    #[test]
    fn no_certificate_ends_after_its_ca() {
        let now = SystemTime::now();
        for (age, asked, left, ends_with_ca) in
            [(0, 1, 1, false), (0, 397, 397, false), (0, 3650, 3650, true), (3640, 397, 10, true), (3640, 9, 9, false)]
        {
            let home = tempfile::tempdir().unwrap();
            create_at(now - days(age), home.path(), &label("prod"), false).unwrap();
            let authority = Authority::read(home.path()).unwrap();
            let written = authority.client(&label("alice"), asked, false).unwrap();
            assert_eq!(written.ends_with_ca, ends_with_ca, "{age} {asked}");
            let expected = now + days(left);
            let difference = written.info.not_after.duration_since(expected).unwrap_or_else(|error| error.duration());
            assert!(difference < Duration::from_secs(60), "{age} {asked}: {difference:?}");
            let early = now.duration_since(written.info.not_before).unwrap();
            assert!((240..=301).contains(&early.as_secs()), "{early:?}");
        }
    }

    #[test]
    fn the_longest_names_fit() {
        let home = tempfile::tempdir().unwrap();
        let longest = "a".repeat(63);
        create(home.path(), &label(&longest), false).unwrap();
        let authority = Authority::read(home.path()).unwrap();
        authority.node(&label(&longest), &[], 397, false).unwrap();
        assert!(accepts_server(&home.path().join(&longest), "node", &format!("{longest}.{longest}.huskv")));
    }

    #[test]
    fn a_new_ca_in_front_of_the_old_one_is_trusted_beside_it() {
        let home = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| home.path().join(name));
        create(&old, &label("prod"), false).unwrap();
        Authority::read(&old).unwrap().node(&label("kv1"), &[], 397, false).unwrap();
        create(&new, &label("prod"), false).unwrap();
        let bundle = [&new, &old].map(|folder| fs::read_to_string(folder.join(CA_FILE)).unwrap()).concat();
        fs::write(new.join(CA_FILE), &bundle).unwrap();
        Authority::read(&new).unwrap().node(&label("kv1"), &[], 397, false).unwrap();
        assert_eq!(fs::read_to_string(new.join("kv1/ca.pem")).unwrap(), bundle);
        assert!(accepts_server(&new.join("kv1"), "node", "kv1"));
        fs::write(old.join("kv1/ca.pem"), &bundle).unwrap();
        assert!(accepts_server(&old.join("kv1"), "node", "kv1"), "the bundle trusts what the old one issued");
    }

    #[test]
    fn a_folder_without_a_usable_ca_is_refused_in_words() {
        let home = tempfile::tempdir().unwrap();
        let (certificate, key) = (home.path().join(CA_FILE), home.path().join(CA_KEY_FILE));
        let reason = || match Authority::read(home.path()) {
            Ok(_) => panic!("it was taken"),
            Err(error) => error.to_string(),
        };
        let refused = |words: &str| assert!(reason().contains(words), "{words}: {}", reason());
        refused("ca.pem: there is no such file; huskv certs ca DIR --cluster NAME makes a CA");
        create_at(SystemTime::now() - days(3651), home.path(), &label("prod"), false).unwrap();
        refused("ca.pem: the CA expired on ");
        create(home.path(), &label("prod"), true).unwrap();
        let aside = home.path().join("aside");
        fs::rename(&key, &aside).unwrap();
        refused("ca-key.pem: there is no such file, though ca.pem is there");
        fs::rename(&aside, &key).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        refused("ca-key.pem: other users may read this key");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let secret = fs::read_to_string(&key).unwrap();
        let mut both = fs::read_to_string(&certificate).unwrap();
        both.push_str(&secret);
        fs::write(&certificate, both).unwrap();
        refused("ca.pem: it holds a private key");
        fs::write(&certificate, TestCa::new("huskv CA").certificate()).unwrap();
        refused("ca-key.pem: the key does not belong to the certificate");
        TestCa::new("huskv CA").node("kv1").write(home.path());
        fs::rename(home.path().join("node.pem"), &certificate).unwrap();
        fs::rename(home.path().join("node-key.pem"), &key).unwrap();
        refused("ca.pem: it is no CA of huskv certs ca");
    }
}
