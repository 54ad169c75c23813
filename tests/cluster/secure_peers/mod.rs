//! TLS of the peer port: real nodes with certificates of an authority of the test.

mod identity;
mod migration;
mod strangers;

use std::path::{Path, PathBuf};

use crate::harness::{Case, Cluster, Setup};
use crate::test_ca::{Leaf, TestCa};

/// The tests of this folder.
pub fn cases() -> Vec<Case> {
    [identity::cases(), migration::cases(), strangers::cases()].into_iter().flatten().collect()
}

/// Writes the certificate of a node into a folder of its own below `home`.
fn write(home: &Path, name: &str, leaf: &Leaf) -> PathBuf {
    let folder = home.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    leaf.write(&folder);
    folder
}

/// Gives a node whose clients speak plain HTTP the certificates in `folder` for its peers.
fn with_certificates(setup: Setup, folder: &Path) -> Setup {
    setup.set("HUSKV_TLS_DIR", folder.display()).set("HUSKV_TLS_HTTP", "off")
}

/// A node `name` with a certificate of `ca`.
fn member(setup: Setup, home: &Path, ca: &TestCa) -> Setup {
    let folder = write(home, &setup.name, &ca.node(&setup.name));
    with_certificates(setup, &folder)
}

/// Three nodes that speak TLS only.
#[track_caller]
fn secure_cluster(home: &Path, ca: &TestCa) -> Cluster {
    Cluster::with(3, |setup| member(setup, home, ca))
}
