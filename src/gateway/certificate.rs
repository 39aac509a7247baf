//! The certificate that clients see: two PEM files, a mounted Secret, that may change while we serve.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::interval;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::link::tls::provider;

/// How often the files are read again.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("read {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// A file is not PEM.
    #[error("parse the certificate or its key")]
    Parse(#[from] pem::Error),
    /// They don't belong together, or are of a kind that we don't speak.
    #[error("use the certificate")]
    Use(#[from] rustls::Error),
}

/// A certificate with its key, as last read.
pub struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<ServerConfig>>,
    /// The files' content when it was last looked at, good or bad, so that a bad pair is reported once.
    seen: Mutex<[Vec<u8>; 2]>,
}

impl Certificate {
    /// Reads a certificate chain and its key.
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<Arc<Certificate>, Error> {
        let read = [read(&certificate)?, read(&key)?];
        let current = RwLock::new(configuration(&read)?);
        Ok(Arc::new(Certificate { certificate, key, current, seen: Mutex::new(read) }))
    }

    /// What the next connection gets.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again if they changed. A pair that is not good leaves the old one in place. Is there a new one?
    pub fn reload(&self) -> Result<bool, Error> {
        let read = [read(&self.certificate)?, read(&self.key)?];
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == read {
            return Ok(false);
        }
        let new = configuration(&read);
        *seen = read;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new?;
        Ok(true)
    }

    /// Reads the files again and again until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(RELOAD_INTERVAL);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            match self.reload() {
                Ok(true) => tracing::info!("clients see a new certificate"),
                Ok(false) => (),
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, cause, "the new certificate is not good; clients see the old one");
                }
            }
        }
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| Error::Read(path.clone(), error))
}

fn configuration([certificate, key]: &[Vec<u8>; 2]) -> Result<Arc<ServerConfig>, Error> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key)?;
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
    let mut configuration = builder.with_single_cert(chain, key)?;
    configuration.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(configuration))
}
