//! Certificates and keys as they stand in files.

use super::names::Names;
use crate::reload::{Files, Reloaded, read_file};
use client::admin::PortCertificates;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The one implementation of the primitives.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A chain of certificates with its key.
pub struct Pair {
    /// The own one first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Of the first.
    pub key: PrivateKeyDer<'static>,
}

/// What the TLS of a port is made of.
pub struct Material {
    /// What the port shows.
    pub pair: Pair,
    /// What is told of it.
    pub told: PortCertificates,
    /// Whose certificates others must show.
    pub roots: Option<Arc<RootCertStore>>,
}

/// Reads the files of a port's TLS, makes of them what `make` makes, and follows their changes; `what` names them in the
/// log.
pub fn follow<T: Send + Sync + 'static>(
    what: &'static str,
    [certificate, key]: [PathBuf; 2],
    ca: Option<PathBuf>,
    make: impl Fn(Material) -> Result<T, String> + Send + Sync + 'static,
) -> Result<Arc<Reloaded<T>>, String> {
    let paths: Vec<PathBuf> = [certificate, key].into_iter().chain(ca).collect();
    let read = move || paths.iter().map(|path| read_file(path)).collect();
    Reloaded::follow(what, read, move |files: &Files| {
        let [certificate, key, ca @ ..] = files.as_slice() else { return Err("files are missing".into()) };
        let pair = pair(certificate, key)?;
        let authorities = ca.first().map(certificates).transpose()?;
        let told = PortCertificates {
            certificate: fingerprint(&pair.chain[0]),
            not_after: Names::of(&pair.chain[0])?.not_after,
            authorities: authorities.iter().flatten().map(fingerprint).collect(),
        };
        let roots = ca.first().zip(authorities).map(|(file, found)| roots(file, found)).transpose()?;
        make(Material { pair, told, roots })
    })
}

type File = (PathBuf, Vec<u8>);

/// Reads a chain and its key.
fn pair(certificates_file: &File, key_file: &File) -> Result<Pair, String> {
    let chain = certificates(certificates_file)?;
    // The library's message names no content.
    let key =
        PrivateKeyDer::from_pem_slice(&key_file.1).map_err(|e| of(&key_file.0, format!("no key: {e}")))?;
    Ok(Pair { chain, key })
}

/// Reads certificates; there must be one.
fn certificates((path, bytes): &File) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let chain = chain.map_err(|e| of(path, format!("no certificate: {e}")))?;
    if chain.is_empty() { Err(of(path, "no certificate in it".into())) } else { Ok(chain) }
}

/// The certificates of authorities: all of the file, so that two are trusted while one takes over from the other.
fn roots(file: &File, found: Vec<CertificateDer<'static>>) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in found {
        roots.add(certificate).map_err(|e| of(&file.0, e.to_string()))?;
    }
    Ok(Arc::new(roots))
}

/// What names a certificate in reports.
fn fingerprint(certificate: &CertificateDer<'static>) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of(path: &Path, message: String) -> String {
    format!("{}: {message}", path.display())
}
