//! The PEM files of a key pair and of a CA bundle.
//!
//! Why: a wrong file is the most frequent cause of a handshake that fails, so it is named before any handshake.
//!
//! Invariants: files are bounded, regular and read once. A key that other users of the machine may read, or that users other than its
//! owner may write, is refused, and so is one that does not belong to its certificate, and a certificate or bundle that other users may write. Modes
//! are those of the files behind links. A key that its group may read is accepted: that is what Kubernetes makes of a secret with `fsGroup`.
//!
//! See also: `huskv certs`, which writes them.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring::sign::RsaSigningKey;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::certificate::{CertificateInfo, is_authority};
use super::{TrustError, provider};

/// The largest file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The permission bit by which users other than owner and group may read.
const OTHERS_READ: u32 = 0o004;
/// The one by which they may write.
const OTHERS_WRITE: u32 = 0o002;
/// The one by which the group may write.
const GROUP_WRITES: u32 = 0o020;
/// The supported kinds of keys.
const KINDS: &str = "use ECDSA P-256 or P-384, Ed25519, or RSA of at least 2048 bits";

/// A certificate chain with its key.
#[derive(Debug, Clone)]
pub struct KeyPair {
    /// The chain and the key, as rustls takes them.
    pub certified: Arc<CertifiedKey>,
    /// What its first certificate says.
    pub info: CertificateInfo,
}

/// The certificates of the authorities that are trusted.
#[derive(Debug, Clone)]
pub struct CaBundle {
    /// The roots, as rustls takes them.
    pub roots: Arc<RootCertStore>,
    /// The certificates themselves.
    pub certificates: Vec<CertificateDer<'static>>,
    /// What each says.
    pub infos: Vec<CertificateInfo>,
}

impl KeyPair {
    /// Reads the chain from `certificate` and its key from `key` (PKCS #8, SEC 1 or PKCS #1).
    ///
    /// # Errors
    /// [`TrustError`], naming the file. Dates are not looked at.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TrustError> {
        let chain = certificates(certificate)?;
        let info = CertificateInfo::parse(&chain[0]).map_err(|reason| invalid(certificate, reason))?;
        let (text, mode) = read(key)?;
        check_key_mode(mode).map_err(|reason| invalid(key, reason))?;
        if String::from_utf8_lossy(&text).contains("ENCRYPTED") {
            return Err(invalid(
                key,
                "the key is encrypted, and a node asks for no passphrase; decrypt it (openssl pkey)",
            ));
        }
        let parsed =
            PrivateKeyDer::from_pem_slice(&text).map_err(|_| invalid(key, "it holds no private key in PEM form"))?;
        let signing = load(parsed).map_err(|reason| invalid(key, reason))?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|_| {
            invalid(key, format!("the key does not belong to the certificate {}", certificate.display()))
        })?;
        Ok(Self { certified: Arc::new(certified), info })
    }
}

impl CaBundle {
    /// Reads every certificate of `file`.
    ///
    /// # Errors
    /// [`TrustError`], naming the file.
    pub fn read(file: &Path) -> Result<Self, TrustError> {
        let (mut roots, mut infos) = (RootCertStore::empty(), Vec::new());
        let certificates = certificates(file)?;
        for certificate in &certificates {
            let info = CertificateInfo::parse(certificate).map_err(|reason| invalid(file, reason))?;
            // webpki takes whatever stands in a bundle for an authority, a node's own certificate too.
            if !is_authority(certificate) {
                let what = format!("a certificate of it cannot be an authority: {} (basic constraints)", info.subject);
                return Err(invalid(file, what));
            }
            infos.push(info);
            roots
                .add(certificate.clone())
                .map_err(|error| invalid(file, format!("a certificate of it cannot be an authority: {error}")))?;
        }
        Ok(Self { roots: Arc::new(roots), certificates, infos })
    }
}

/// Checks the mode of a key.
fn check_key_mode(mode: u32) -> Result<(), String> {
    let who = match mode {
        _ if mode & OTHERS_READ != 0 => "other users may read this key",
        _ if mode & OTHERS_WRITE != 0 => "other users may write this key",
        _ if mode & GROUP_WRITES != 0 => "the group may write this key",
        _ => return Ok(()),
    };
    Err(format!("{who} (mode {:04o}); chmod 600 it", mode & 0o7777))
}

/// Loads a key of a supported kind.
fn load(key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, String> {
    // rustls tries each kind, and the error of the last one says nothing of RSA.
    let is_short = matches!(RsaSigningKey::new(&key), Err(error) if error.to_string().contains("TooSmall"));
    provider().key_provider.load_private_key(key).map_err(|_| {
        let why = if is_short {
            "it is an RSA key of fewer than 2048 bits"
        } else {
            "the key is of a kind that is not supported"
        };
        format!("{why}; {KINDS}")
    })
}

/// Reads the certificates of a file; at least one.
///
/// # Errors
/// [`TrustError`], naming the file.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let (text, mode) = read(file)?;
    if mode & OTHERS_WRITE != 0 {
        let mode = mode & 0o7777;
        return Err(invalid(
            file,
            format!("other users may write this file (mode {mode:04o}), and so decide who is trusted; chmod o-w it"),
        ));
    }
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match parsed {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(invalid(file, "it holds no certificate in PEM form")),
        Err(_) => Err(invalid(file, "it is malformed PEM")),
    }
}

/// Reads a bounded regular file, and its mode.
fn read(path: &Path) -> Result<(Vec<u8>, u32), TrustError> {
    let io = |source| TrustError::Io { path: path.to_owned(), source };
    // Without the flag the open of a pipe would wait for its writer; for regular files it has no effect.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(invalid(path, "it is no regular file"));
    }
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(invalid(path, format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok((text, metadata.mode()))
}

fn invalid(path: &Path, reason: impl Into<String>) -> TrustError {
    TrustError::Invalid { path: PathBuf::from(path), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::test_ca::TestCa;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_bundle_holds_authorities_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (file, ca) = (folder.path().join("ca.pem"), TestCa::new("ca"));
        std::fs::write(&file, ca.certificate()).unwrap();
        assert!(CaBundle::read(&file).is_ok());
        std::fs::write(&file, ca.certificate() + &ca.node("kv1").certificate).unwrap();
        let error = CaBundle::read(&file).unwrap_err().to_string();
        assert!(error.contains("cannot be an authority: CN=kv1"), "{error}");
    }

    #[test]
    fn only_bounded_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::fs::write(path("long"), "#".repeat(1 + (1 << 20))).unwrap();
        std::fs::write(path("empty"), "").unwrap();
        for (name, reason) in [
            ("pipe", "no regular file"),
            (".", "no regular file"),
            ("long", "larger than 1048576 bytes"),
            ("empty", "no certificate in PEM form"),
            ("none", "No such file"),
        ] {
            let error = certificates(&path(name)).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(name), "{error}");
        }
    }

    #[test]
    fn files_that_the_wrong_users_may_write_are_refused_and_those_of_kubernetes_are_not() {
        let (folder, links) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        TestCa::new("ca").node("kv1").write(folder.path());
        // As in a volume: a directory that everyone may write, and links, whose own mode is 0777.
        fs::set_permissions(links.path(), Permissions::from_mode(0o1777)).unwrap();
        for name in ["ca.pem", "node.pem", "node-key.pem"] {
            symlink(folder.path().join(name), links.path().join(name)).unwrap();
        }
        let path = |name: &str| links.path().join(name);
        let read = || {
            let pair = KeyPair::read(&path("node.pem"), &path("node-key.pem")).map(drop);
            pair.and_then(|()| CaBundle::read(&path("ca.pem")).map(drop)).map_err(|error| error.to_string())
        };
        for (name, mode, refused) in [
            ("node-key.pem", 0o600, None),
            ("node-key.pem", 0o440, None),
            ("node-key.pem", 0o640, None),
            ("node-key.pem", 0o644, Some("other users may read this key (mode 0644); chmod 600 it")),
            ("node-key.pem", 0o666, Some("other users may read this key (mode 0666)")),
            ("node-key.pem", 0o620, Some("the group may write this key (mode 0620); chmod 600 it")),
            ("node-key.pem", 0o660, Some("the group may write this key")),
            ("node-key.pem", 0o602, Some("other users may write this key")),
            ("node-key.pem", 0o400, None),
            ("node.pem", 0o664, None),
            (
                "node.pem",
                0o646,
                Some("other users may write this file (mode 0646), and so decide who is trusted; chmod o-w it"),
            ),
            ("node.pem", 0o444, None),
            ("ca.pem", 0o666, Some("other users may write this file")),
            ("ca.pem", 0o440, None),
        ] {
            fs::set_permissions(path(name), Permissions::from_mode(mode)).unwrap();
            let result = read();
            match refused {
                None => assert_eq!(result, Ok(()), "{name} {mode:o}"),
                Some(words) => {
                    let error = result.unwrap_err();
                    assert!(error.contains(words) && error.contains(name), "{name} {mode:o}: {error}");
                }
            }
        }
    }

    #[test]
    fn short_rsa_keys_and_foreign_ones_are_refused_in_words_and_p_384_is_not() {
        let pem = |kind: &str, der: &[u8]| PrivateKeyDer::from_pem_slice(pem_text(kind, der).as_bytes()).unwrap();
        let short = include_bytes!("../../tests/support/rsa_1024.der");
        let error = load(pem("RSA PRIVATE KEY", short)).unwrap_err();
        assert_eq!(error, format!("it is an RSA key of fewer than 2048 bits; {KINDS}"));
        let error = load(pem("EC PRIVATE KEY", b"none")).unwrap_err();
        assert_eq!(error, format!("the key is of a kind that is not supported; {KINDS}"));
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert!(load(PrivateKeyDer::from_pem_slice(p384.serialize_pem().as_bytes()).unwrap()).is_ok());
    }

    fn pem_text(kind: &str, der: &[u8]) -> String {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
    }
}
