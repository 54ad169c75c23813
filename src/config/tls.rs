//! `[tls]`: which certificates the two ports use, and what follows from `tls.dir`.
//!
//! Why: one directory makes a secure node by convention, and each file can be named by itself. Half of that is a mistake that
//! must not start a plain node.
//!
//! Invariants: no file is opened here. A mode without a key pair, half a pair, and client certificates without a CA or on a plain
//! port are errors that name the keys.
//!
//! See also: `trust::credentials`, which reads the files.

use std::path::{Path, PathBuf};

use crate::trust::{ClientAuth, Mode};

/// The files of `tls.dir`.
const CERTIFICATE: &str = "node.pem";
const KEY: &str = "node-key.pem";
const CA: &str = "ca.pem";

/// `[tls]`: certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The directory with ca.pem, node.pem and node-key.pem; empty for none.
    pub dir: PathBuf,
    /// The certificate chain of the HTTP port; empty for none.
    pub http_cert: PathBuf,
    /// Its key; empty for none.
    pub http_key: PathBuf,
    /// The authorities of client certificates; empty for none.
    pub http_client_ca: PathBuf,
    /// Whether clients are asked for a certificate.
    pub http_client_auth: ClientAuth,
    /// Whether the HTTP port uses TLS; None: it does where there is a key pair.
    pub http: Option<Mode>,
    /// The certificate chain of the peer port; empty for none.
    pub peer_cert: PathBuf,
    /// Its key; empty for none.
    pub peer_key: PathBuf,
    /// The authorities of the other nodes; empty for none.
    pub peer_ca: PathBuf,
    /// Whether the peer port uses TLS; None: it does where there is a key pair.
    pub peer: Option<Mode>,
}

fn is_given(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

impl Tls {
    /// Whether the HTTP port uses TLS.
    #[must_use]
    pub fn http_mode(&self) -> Mode {
        self.http.unwrap_or(if self.http_pair().is_some() { Mode::On } else { Mode::Off })
    }

    /// The certificate chain and the key of the HTTP port.
    #[must_use]
    pub fn http_pair(&self) -> Option<(PathBuf, PathBuf)> {
        self.pair(&self.http_cert, &self.http_key)
    }

    /// Whether the peer port uses TLS.
    #[must_use]
    pub fn peer_mode(&self) -> Mode {
        self.peer.unwrap_or(if self.peer_pair().is_some() { Mode::On } else { Mode::Off })
    }

    /// The certificate chain and the key of the peer port.
    #[must_use]
    pub fn peer_pair(&self) -> Option<(PathBuf, PathBuf)> {
        self.pair(&self.peer_cert, &self.peer_key)
    }

    /// The authorities of the other nodes.
    #[must_use]
    pub fn peer_ca(&self) -> Option<PathBuf> {
        if is_given(&self.peer_ca) { Some(self.peer_ca.clone()) } else { self.dir_ca() }
    }

    /// The named files, or else those of the directory.
    fn pair(&self, certificate: &Path, key: &Path) -> Option<(PathBuf, PathBuf)> {
        if is_given(certificate) {
            return Some((certificate.to_owned(), key.to_owned()));
        }
        is_given(&self.dir).then(|| (self.dir.join(CERTIFICATE), self.dir.join(KEY)))
    }

    /// The bundle of [`Tls::dir`], which has issued the certificates of all nodes.
    #[must_use]
    pub fn dir_ca(&self) -> Option<PathBuf> {
        is_given(&self.dir).then(|| self.dir.join(CA))
    }

    /// The authorities of client certificates, where clients are asked for one.
    #[must_use]
    pub fn http_ca(&self) -> Option<PathBuf> {
        if self.http_client_auth == ClientAuth::None {
            return None;
        }
        if is_given(&self.http_client_ca) {
            return Some(self.http_client_ca.clone());
        }
        self.dir_ca()
    }

    /// Finds keys that contradict each other: the key to name, the other one, and the reason.
    pub(super) fn contradiction(&self) -> Option<(&'static str, Option<&'static str>, String)> {
        let wrong = |key, other, why: &str| Some((key, other, why.to_owned()));
        let pairs = [
            ("tls.http_cert", &self.http_cert, "tls.http_key", &self.http_key),
            ("tls.peer_cert", &self.peer_cert, "tls.peer_key", &self.peer_key),
        ];
        for (certificate, certificate_file, key, key_file) in pairs {
            match (is_given(certificate_file), is_given(key_file)) {
                (true, false) => {
                    return wrong(certificate, Some(key), &format!("half a pair: {key} is required with it"));
                }
                (false, true) => {
                    return wrong(key, Some(certificate), &format!("half a pair: {certificate} is required with it"));
                }
                _ => {}
            }
        }
        if self.peer_pair().is_none() && self.peer.is_some_and(|mode| mode != Mode::Off) {
            let why = "there is no key pair; give tls.dir, or tls.peer_cert, tls.peer_key and tls.peer_ca";
            return wrong("tls.peer", None, why);
        }
        if self.peer_mode() != Mode::Off && self.peer_ca().is_none() {
            return wrong("tls.peer_ca", None, "the other nodes are verified with it, and it is not given");
        }
        if self.peer_pair().is_none() && is_given(&self.peer_ca) {
            return wrong(
                "tls.peer_ca",
                Some("tls.peer_cert"),
                "there is no key pair; give tls.peer_cert and tls.peer_key",
            );
        }
        if self.http_pair().is_none() {
            const MISSING: &str = "there is no key pair; give tls.dir, or tls.http_cert and tls.http_key";
            if self.http.is_some_and(|mode| mode != Mode::Off) {
                return wrong("tls.http", None, MISSING);
            }
            if self.http_client_auth != ClientAuth::None {
                return wrong("tls.http_client_auth", None, MISSING);
            }
        }
        if self.http_client_auth != ClientAuth::None && self.http_mode() == Mode::Off {
            let why = "the port is plain, and no plain connection has a client certificate; set tls.http to on, or \
                       tls.http_client_auth to none";
            return wrong("tls.http", Some("tls.http_client_auth"), why);
        }
        if self.http_client_auth != ClientAuth::None && self.http_ca().is_none() {
            let why = "client certificates are verified with tls.http_client_ca, which is not given";
            return wrong("tls.http_client_auth", Some("tls.http_client_ca"), why);
        }
        if self.http_client_auth == ClientAuth::None && is_given(&self.http_client_ca) {
            let why = "no client is asked for a certificate; set tls.http_client_auth to optional or required";
            return wrong("tls.http_client_ca", Some("tls.http_client_auth"), why);
        }
        None
    }
}

/// Parses a mode, in lower case; empty: it follows from the key pair.
pub(super) fn mode(text: &str) -> Result<Option<Mode>, String> {
    match text.to_lowercase().as_str() {
        "" => Ok(None),
        "off" => Ok(Some(Mode::Off)),
        "accept" => Ok(Some(Mode::Accept)),
        "on" => Ok(Some(Mode::On)),
        _ => Err(format!("{text:?} is none of off, accept, on")),
    }
}

/// Parses whether clients are asked for a certificate.
pub(super) fn client_auth(text: &str) -> Result<ClientAuth, String> {
    match text.to_lowercase().as_str() {
        "none" => Ok(ClientAuth::None),
        "optional" => Ok(ClientAuth::Optional),
        "required" => Ok(ClientAuth::Required),
        _ => Err(format!("{text:?} is none of none, optional, required")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_follows_from_the_pair_and_the_directory_names_the_files() {
        let none = Tls::default();
        assert_eq!((none.http_mode(), none.http_pair(), none.http_ca()), (Mode::Off, None, None));
        let dir = Tls { dir: "/tls".into(), ..Tls::default() };
        assert_eq!(dir.http_mode(), Mode::On);
        assert_eq!(dir.http_pair(), Some(("/tls/node.pem".into(), "/tls/node-key.pem".into())));
        assert_eq!(dir.http_ca(), None, "no client certificates over HTTP");
        assert_eq!(
            (none.peer_mode(), dir.peer_mode(), dir.peer_ca()),
            (Mode::Off, Mode::On, Some("/tls/ca.pem".into()))
        );
        let http_only = Tls { peer: Some(Mode::Off), ..dir.clone() };
        assert_eq!((http_only.peer_mode(), http_only.contradiction()), (Mode::Off, None));
        let peers = Tls { peer_cert: "/a".into(), peer_key: "/b".into(), ..none.clone() };
        assert_eq!(peers.contradiction().unwrap().0, "tls.peer_ca");
        let peers = Tls { peer_ca: "/c".into(), ..peers };
        assert_eq!((peers.peer_mode(), peers.http_mode(), peers.contradiction()), (Mode::On, Mode::Off, None));
        let half = Tls { peer_key: PathBuf::new(), ..peers };
        assert!(half.contradiction().unwrap().2.contains("half a pair: tls.peer_key"));
        assert_eq!(Tls { peer: Some(Mode::Accept), ..none }.contradiction().unwrap().0, "tls.peer");
        let own = Tls { http_cert: "/a".into(), http_key: "/b".into(), http_client_auth: ClientAuth::Optional, ..dir };
        assert_eq!(own.http_pair(), Some(("/a".into(), "/b".into())));
        assert_eq!(own.http_ca(), Some("/tls/ca.pem".into()));
        let off = Tls { http: Some(Mode::Off), ..own };
        let (key, other, why) = off.contradiction().unwrap();
        assert_eq!((off.http_mode(), key, other), (Mode::Off, "tls.http", Some("tls.http_client_auth")));
        assert!(why.contains("set tls.http to on, or tls.http_client_auth to none"), "{why}");
        let off = Tls { http_client_auth: ClientAuth::None, ..off };
        assert_eq!((off.http_mode(), off.contradiction()), (Mode::Off, None));
    }
}
