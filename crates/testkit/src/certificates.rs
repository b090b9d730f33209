//! Certificates that are made for one test.

use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// A certificate authority and a server's certificate for `localhost`, in a folder of their own.
pub struct Certificates {
    /// The authority's certificate, in PEM format.
    pub authority: PathBuf,
    /// That of another authority, which has signed nothing.
    pub stranger: PathBuf,
    /// The server's certificate, in PEM format.
    pub certificate: String,
    /// The server's key, in PEM format.
    pub key: String,
    _folder: TempDir,
}

impl Certificates {
    /// Makes them.
    ///
    /// # Panics
    /// If they can't be made or written.
    pub fn make() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (issuer, authority) = authority("the test's authority");
        let (_, stranger) = self::authority("somebody else");
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned()];
        let certificate = CertificateParams::new(names).expect("a name").signed_by(&key, &issuer);
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("a file that can be written");
            path
        };
        Self {
            authority: write("authority.pem", authority),
            stranger: write("stranger.pem", stranger),
            certificate: certificate.expect("a certificate").pem(),
            key: key.serialize_pem(),
            _folder: folder,
        }
    }
}

fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    (Issuer::new(params, key), certificate)
}
