//! `huskv certs`: files, modes and refusals, and what `show` prints of files and of servers.
//!
//! See also: `trust::authority`, whose unit tests verify what is issued as nodes and clients do.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Need, Setup, binary, check, eventually, secs, tool};

crate::harness::cases![
    ca_node_and_client_get_their_files_whatever_the_umask,
    certs_replace_nothing_without_force,
    wrong_names_hosts_and_days_exit_2_and_create_nothing,
    certs_show_prints_certificates_and_no_key,
    certs_show_verifies_a_server_with_the_ca_of_huskv_ca,
    certs_show_says_why_a_server_shows_none,
    a_node_serves_with_what_certs_wrote_and_takes_its_renewal,
    openssl_accepts_what_certs_issues.needs(Need::Openssl),
    openssl_shows_the_extensions_of_ca_and_node.needs(Need::Openssl),
    openssl_tells_two_cas_of_one_name_apart.needs(Need::Openssl),
];

/// The output of a command: exit code, stdout, stderr.
type Output = (Option<i32>, String, String);

/// A folder in which commands run.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// One with the CA of the cluster prod, the node kv1 and the client alice.
    fn with_certificates() -> Self {
        let desk = Self::new();
        desk.done("certs ca certs --cluster prod");
        desk.done("certs node certs kv1 --host 10.0.0.1 --host kv1.example.org");
        desk.done("certs client certs alice");
        desk
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn run(&self, program: &Path, arguments: &str, variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(program);
        let command = command.current_dir(self.0.path()).env_clear().envs(variables.iter().copied());
        let output = command.args(arguments.split_whitespace()).output().expect("it can be started");
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// Runs openssl: whether it succeeds, and what it prints.
    fn openssl(&self, arguments: &str) -> (bool, String) {
        let openssl = tool("openssl").expect("the need was checked");
        let (code, out, error) = self.run(&openssl, arguments, &[]);
        (code == Some(0), out + &error)
    }

    fn huskv(&self, arguments: &str) -> Output {
        self.run(&binary(), arguments, &[])
    }

    /// Runs huskv, which succeeds, and returns its stdout.
    #[track_caller]
    fn done(&self, arguments: &str) -> String {
        let (code, out, error) = self.huskv(arguments);
        assert_eq!((code, error.as_str()), (Some(0), ""), "{arguments}");
        out
    }

    /// Runs huskv, which fails with `code` and one line that holds all of `words`.
    #[track_caller]
    fn refused(&self, code: i32, arguments: &str, words: &[&str]) {
        let (found, out, error) = self.huskv(arguments);
        assert_eq!((found, out.as_str(), error.lines().count()), (Some(code), "", 1), "{arguments}: {error}");
        for word in words {
            assert!(error.contains(word), "{arguments}: no {word:?} in {error}");
        }
    }

    /// All files and folders with their modes.
    fn tree(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![self.0.path().to_owned()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let (path, metadata) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
                let name = path.strip_prefix(self.0.path()).unwrap().display().to_string();
                found.push(format!("{name} {:03o}", metadata.mode() & 0o777));
                if metadata.is_dir() {
                    open.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

fn ca_node_and_client_get_their_files_whatever_the_umask() {
    for (umask, public) in [("000", "644"), ("022", "644"), ("077", "600")] {
        let desk = Desk::new();
        let huskv = binary().display().to_string();
        let script = format!(
            "umask {umask}\n{huskv} certs ca a/certs --cluster prod && {huskv} certs node a/certs kv1 && \
             {huskv} certs client a/certs alice\n"
        );
        fs::write(desk.path("script"), script).unwrap();
        let (code, out, error) = desk.run(Path::new("/bin/sh"), "script", &[]);
        assert_eq!((code, error.as_str()), (Some(0), ""));
        assert!(out.starts_with("the CA of the cluster prod, valid until 20"), "{out}");
        assert!(out.contains("the node kv1 of the cluster prod, valid until 20"), "{out}");
        assert!(
            out.ends_with("  a/certs/alice/ca.pem\n  a/certs/alice/client.pem\n  a/certs/alice/client-key.pem\n"),
            "{out}"
        );
        fs::remove_file(desk.path("script")).unwrap();
        let expected = [
            "a 700".to_owned(),
            "a/certs 700".to_owned(),
            "a/certs/alice 700".to_owned(),
            format!("a/certs/alice/ca.pem {public}"),
            "a/certs/alice/client-key.pem 600".to_owned(),
            format!("a/certs/alice/client.pem {public}"),
            "a/certs/ca-key.pem 600".to_owned(),
            format!("a/certs/ca.pem {public}"),
            "a/certs/kv1 700".to_owned(),
            format!("a/certs/kv1/ca.pem {public}"),
            "a/certs/kv1/node-key.pem 600".to_owned(),
            format!("a/certs/kv1/node.pem {public}"),
        ];
        assert_eq!(desk.tree(), expected, "umask {umask}");
        assert_eq!(desk.read("a/certs/kv1/ca.pem"), desk.read("a/certs/ca.pem"));
    }
}

fn certs_replace_nothing_without_force() {
    let desk = Desk::with_certificates();
    let files = ["certs/ca.pem", "certs/ca-key.pem", "certs/kv1/node.pem", "certs/kv1/node-key.pem"];
    let read = || files.map(|file| desk.read(file));
    let old = read();
    let tree = desk.tree();
    desk.refused(1, "certs ca certs --cluster prod", &["certs/ca.pem: it exists, and nothing was written", "--force"]);
    desk.refused(1, "certs node certs kv1", &["certs/kv1/ca.pem: it exists", "--force"]);
    desk.refused(1, "certs client certs kv1", &["certs/kv1/ca.pem: it exists"]);
    // One file of three is enough, and the other two are not written.
    fs::remove_file(desk.path("certs/kv1/ca.pem")).unwrap();
    fs::remove_file(desk.path("certs/kv1/node.pem")).unwrap();
    desk.refused(1, "certs node certs kv1", &["certs/kv1/node-key.pem: it exists"]);
    assert!(!desk.path("certs/kv1/ca.pem").exists() && !desk.path("certs/kv1/node.pem").exists());
    desk.done("certs node certs kv1 --force");
    assert_eq!(desk.tree(), tree, "no temporary file is left");
    let new = read();
    assert_eq!((&new[..2], new[2] == old[2], new[3] == old[3]), (&old[..2], false, false));
    desk.done("certs ca certs --cluster test --force");
    assert!(read()[..2] != old[..2]);
    assert!(desk.done("certs client certs bob").contains("the client bob of the cluster test"));
}

fn wrong_names_hosts_and_days_exit_2_and_create_nothing() {
    let desk = Desk::new();
    let longest = "a".repeat(64);
    for cluster in ["Prod", "prod.eu", "-prod", "../prod", &longest] {
        desk.refused(2, &format!("certs ca certs --cluster={cluster}"), &[cluster, "--cluster", "label of a DNS name"]);
    }
    desk.refused(2, "certs ca certs", &["--cluster"]);
    desk.refused(2, "certs", &["subcommand"]);
    desk.refused(1, "certs node certs kv1", &["certs/ca.pem", "huskv certs ca"]);
    desk.refused(1, "certs show certs/ca.pem", &["there is no such file, and it is no HOST:PORT"]);
    assert!(desk.tree().is_empty());
    desk.done("certs ca certs --cluster prod");
    let tree = desk.tree();
    for name in ["KV1", "kv_1", "kv.1", "../kv1", "/kv1", "kv1-", &longest] {
        desk.refused(2, &format!("certs node certs {name}"), &[name, "label of a DNS name"]);
        desk.refused(2, &format!("certs client certs {name}"), &[name, "label of a DNS name"]);
    }
    desk.refused(2, "certs node certs node", &["every node shares the name node"]);
    for host in ["kv1:2221", "https://kv1", "0.0.0.0", "a..b", "kv2.prod.huskv"] {
        desk.refused(2, &format!("certs node certs kv1 --host {host}"), &[host, "--host"]);
    }
    let hosts: String = (0..25).map(|n| format!(" --host h{n}")).collect();
    desk.refused(2, &format!("certs node certs kv1{hosts}"), &["at most 24 hosts"]);
    for days in ["0", "-1", "3651", "1.5", "year"] {
        desk.refused(2, &format!("certs node certs kv1 --days={days}"), &[days, "--days"]);
    }
    assert_eq!(desk.tree(), tree);
    let out = desk.done("certs node certs kv1 --days 3650");
    assert!(out.contains(", the end of its CA"), "{out}");
    desk.done("certs node certs kv2 --days 1");
    let shown = desk.done("certs show certs/kv2/node.pem");
    assert!(shown.contains(", 0 days left") && shown.contains("DNS:kv2 IP:127.0.0.1"), "{shown}");
}

fn certs_show_prints_certificates_and_no_key() {
    let desk = Desk::with_certificates();
    let shown = desk.done("certs show certs/kv1/node.pem");
    for line in [
        "certs/kv1/node.pem\n",
        "  subject  CN=kv1\n",
        "  issuer   O=prod, CN=huskv CA\n",
        "  names    DNS:node.prod.huskv DNS:kv1.prod.huskv DNS:localhost DNS:kv1.example.org IP:127.0.0.1 IP:::1 IP:10.0.0.1\n",
        "  usage    server, client; Digital Signature\n",
        ", 396 days left\n",
        "  SHA-256  ",
    ] {
        assert!(shown.contains(line), "no {line:?} in {shown}");
    }
    let shown = desk.done("certs show certs/ca.pem");
    assert!(shown.contains("usage    CA, path length 0; Key Cert Sign, CRL Sign\n"), "{shown}");
    let shown = desk.done("certs show certs/alice/client.pem");
    assert!(shown.contains("names    no names\n  usage    client; Digital Signature\n"), "{shown}");
    let shown = desk.done("certs show certs/ca-key.pem");
    assert_eq!(shown, "certs/ca-key.pem\n  a private key (PKCS #8); it is not shown\n");
    let all = ["certs/ca.pem", "certs/ca-key.pem", "certs/kv1/node.pem"].map(|file| desk.read(file)).concat();
    fs::write(desk.path("all"), all).unwrap();
    let shown = desk.done("certs show all");
    assert!(shown.contains("all, 1 of 3\n") && shown.contains("all, 3 of 3\n  subject  CN=kv1"), "{shown}");
    for line in desk.read("certs/ca-key.pem").lines() {
        assert!(!shown.contains(line), "a line of the key");
    }
    fs::write(desk.path("broken"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let (code, _, error) = desk.huskv("certs show broken");
    assert_eq!((code, error.as_str()), (Some(1), "huskv: broken: it is no X.509 certificate\n"));
    fs::write(desk.path("text"), "hello").unwrap();
    desk.refused(1, "certs show text", &["text: it holds no certificate in PEM form"]);
}

/// Serves TLS with the certificate in `folder`; where `client_ca` is given, to clients of that CA alone. Returns the port, and
/// what each connection has sent after its handshake.
fn serve(
    folder: &Path,
    versions: &[&'static SupportedProtocolVersion],
    client_ca: Option<&Path>,
) -> (u16, mpsc::Receiver<Vec<u8>>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions).unwrap();
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(file).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = vec![CertificateDer::from_pem_file(folder.join("node.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(folder.join("node-key.pem")).unwrap();
    let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, received) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut connection) = (stream.unwrap(), ServerConnection::new(Arc::clone(&config)).unwrap());
            stream.set_read_timeout(Some(secs(20))).unwrap();
            let mut sent = Vec::new();
            // A client that just closes is an error here, after which `sent` holds what came before.
            rustls::Stream::new(&mut connection, &mut stream).read_to_end(&mut sent).ok();
            if sender.send(sent).is_err() {
                return;
            }
        }
    });
    (port, received)
}

fn certs_show_verifies_a_server_with_the_ca_of_huskv_ca() {
    let desk = Desk::with_certificates();
    desk.done("certs ca other --cluster prod");
    let bundle = ["other/ca.pem", "certs/ca.pem"].map(|file| desk.read(file)).concat();
    fs::write(desk.path("bundle.pem"), bundle).unwrap();
    let fingerprint = |file: &str| {
        let shown = desk.done(&format!("certs show {file}"));
        shown.lines().last().unwrap().trim_start_matches("  SHA-256  ").to_owned()
    };
    let ca = fingerprint("certs/ca.pem");
    for (versions, name) in [(&[&rustls::version::TLS13], "TLS 1.3"), (&[&rustls::version::TLS12], "TLS 1.2")] {
        let (port, received) = serve(&desk.path("certs/kv1"), versions, None);
        let show = |host: &str, variables: &[(&str, &str)]| {
            let output = desk.run(&binary(), &format!("certs show {host}:{port}"), variables);
            assert_eq!(received.recv_timeout(secs(20)).unwrap(), b"", "nothing is sent");
            output
        };
        let (code, out, error) = show("localhost", &[]);
        assert_eq!((code, error.as_str()), (Some(0), ""));
        assert!(
            out.starts_with(&format!("localhost:{port}, {name}, certificate 1 of 1\n  subject  CN=kv1\n")),
            "{out}"
        );
        assert!(out.contains(&fingerprint("certs/kv1/node.pem")), "{out}");
        assert!(out.ends_with("\nnot verified: HUSKV_CA names no CA\n"), "{out}");
        for file in ["certs/ca.pem", "bundle.pem"] {
            let (code, out, _) = show("127.0.0.1", &[("HUSKV_CA", file)]);
            let last = format!("\nverified for 127.0.0.1 by O=prod, CN=huskv CA of {file}, SHA-256 {ca}\n");
            assert!(code == Some(0) && out.ends_with(&last), "{out}");
        }
        let (code, out, error) = show("localhost", &[("HUSKV_CA", "other/ca.pem")]);
        assert_eq!(code, Some(1));
        assert!(
            out.contains("subject  CN=kv1")
                && out.contains("\nnot verified by HUSKV_CA=other/ca.pem: the signature is not by the trusted"),
            "{out}"
        );
        assert!(error.contains("not verified by HUSKV_CA=other/ca.pem"), "{error}");
    }
    // A server that wants a certificate of its clients is shown, too.
    for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
        let (port, _received) = serve(&desk.path("certs/kv1"), versions, Some(&desk.path("certs/ca.pem")));
        let out = desk.done(&format!("certs show localhost:{port}"));
        assert!(out.contains("subject  CN=kv1"), "{out}");
        let is_old = *versions == [&rustls::version::TLS12];
        assert_eq!(out.contains("the handshake was not completed: "), is_old, "{out}");
    }
    for (file, words) in
        [("", "HUSKV_CA is empty"), ("nowhere", "HUSKV_CA: nowhere: "), ("certs/ca-key.pem", "no certificate")]
    {
        let (code, _, error) = desk.run(&binary(), "certs show localhost:1", &[("HUSKV_CA", file)]);
        assert!(code == Some(2) && error.contains(words), "{error}");
    }
}

fn certs_show_says_why_a_server_shows_none() {
    let desk = Desk::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.read_exact(&mut [0; 5]).unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        stream.read_to_end(&mut Vec::new()).ok();
    });
    desk.refused(1, &format!("certs show localhost:{port}"), &["localhost:", "does the port speak plain HTTP?"]);
    plain.join().unwrap();
    // The listener is closed.
    desk.refused(1, &format!("certs show 127.0.0.1:{port}"), &["127.0.0.1:", "cannot connect"]);
}

fn a_node_serves_with_what_certs_wrote_and_takes_its_renewal() {
    let desk = Desk::with_certificates();
    let mut node = Setup::named("kv1").set("HUSKV_TLS_DIR", desk.path("certs/kv1").display()).spawn();
    for renewal in ["certs show certs/kv1/node.pem", "certs node certs kv1 --host 10.0.0.1 --force"] {
        desk.done(renewal);
        let own = desk.done("certs show certs/kv1/node.pem");
        let own = own.lines().last().unwrap();
        // Files are read again every 10 s.
        eventually(secs(40), format!("the node presents {own}"), || {
            if let Some(status) = node.exited() {
                panic!("it exited with {status}: {}", node.log());
            }
            let text =
                fs::read_to_string(node.directory().join("addresses.json")).map_err(|error| error.to_string())?;
            let addresses: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let show = format!("certs show {}", addresses["http"].as_str().unwrap_or(""));
            let (code, out, error) = desk.run(&binary(), &show, &[("HUSKV_CA", "certs/ca.pem")]);
            let is_verified = code == Some(0) && out.contains("\nverified for 127.0.0.1 by ");
            check(is_verified && out.lines().any(|line| line == own), out + &error)
        });
    }
}

fn openssl_accepts_what_certs_issues() {
    let desk = Desk::with_certificates();
    let verify = |more: &str| desk.openssl(&format!("verify -x509_strict {more}"));
    for more in [
        "-CAfile certs/ca.pem -purpose sslserver -verify_hostname node.prod.huskv certs/kv1/node.pem",
        "-CAfile certs/ca.pem -purpose sslserver -verify_hostname kv1.example.org certs/kv1/node.pem",
        "-CAfile certs/ca.pem -purpose sslserver -verify_ip 10.0.0.1 certs/kv1/node.pem",
        "-CAfile certs/ca.pem -purpose sslserver -verify_ip ::1 certs/kv1/node.pem",
        "-CAfile certs/ca.pem -purpose sslclient certs/kv1/node.pem certs/alice/client.pem",
    ] {
        let (accepted, text) = verify(more);
        assert!(accepted, "{more}: {text}");
    }
    for more in [
        "-CAfile certs/ca.pem -purpose sslserver certs/alice/client.pem",
        "-CAfile certs/ca.pem -verify_hostname kv2.prod.huskv certs/kv1/node.pem",
        // No certificate below a node's: neither its own constraints nor the CA's path length allow one.
        "-CAfile certs/kv1/node.pem certs/alice/client.pem",
    ] {
        let (accepted, text) = verify(more);
        assert!(!accepted, "{more}: {text}");
    }
}

fn openssl_shows_the_extensions_of_ca_and_node() {
    let desk = Desk::with_certificates();
    let text = desk.openssl("x509 -in certs/ca.pem -noout -text").1;
    for words in [
        "Subject: O = prod, CN = huskv CA",
        "NIST CURVE: P-256",
        "X509v3 Basic Constraints: critical\n                CA:TRUE, pathlen:0",
        "X509v3 Key Usage: critical\n                Certificate Sign, CRL Sign",
        "X509v3 Subject Key Identifier",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    let text = desk.openssl("x509 -in certs/kv1/node.pem -noout -text").1;
    for words in [
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "DNS:node.prod.huskv, DNS:kv1.prod.huskv, DNS:localhost",
        "X509v3 Basic Constraints: critical\n                CA:FALSE",
        "X509v3 Authority Key Identifier",
        "X509v3 Subject Key Identifier",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    let fingerprint = desk.openssl("x509 -in certs/kv1/node.pem -noout -fingerprint -sha256").1;
    let fingerprint = fingerprint.trim().split_once('=').unwrap().1;
    assert!(desk.done("certs show certs/kv1/node.pem").contains(fingerprint), "{fingerprint}");
}

/// As in the replacement of a CA: each certificate finds its own by the key identifier.
fn openssl_tells_two_cas_of_one_name_apart() {
    let desk = Desk::with_certificates();
    desk.done("certs ca new --cluster prod");
    fs::write(desk.path("new/ca.pem"), ["new/ca.pem", "certs/ca.pem"].map(|file| desk.read(file)).concat()).unwrap();
    desk.done("certs node new kv1");
    let (accepted, text) =
        desk.openssl("verify -x509_strict -CAfile new/kv1/ca.pem new/kv1/node.pem certs/kv1/node.pem");
    assert!(accepted, "{text}");
    // A key in the form of `openssl ec` is refused in words.
    let (converted, text) = desk.openssl("ec -in certs/ca-key.pem -out sec1.pem");
    assert!(converted, "{text}");
    fs::rename(desk.path("sec1.pem"), desk.path("certs/ca-key.pem")).unwrap();
    desk.refused(1, "certs node certs kv2", &["certs/ca-key.pem", "PKCS #8", "openssl pkcs8"]);
}
