//! mTLS between our own processes.

use std::io;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncWrite};

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not written yet.
    #[error("not written yet")]
    NotYet,
}

/// Who we are to other processes of ours.
pub struct Identity;

impl Identity {
    /// Reads certificate, key and authority.
    pub fn load(_certificate: &Path, _key: &Path, _ca: &Path) -> Result<Identity, Error> {
        Err(Error::NotYet)
    }

    /// Connects.
    pub async fn connect(
        &self,
        address: &str,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>> {
        tokio::net::TcpStream::connect(address).await
    }
}
