//! mTLS between our own processes: both ends show a certificate of one CA, and the name in it says what the end is.
//!
//! The files are read anew for each connection. Connections of this kind are few and long, so a renewed certificate is used
//! without a restart and without a watch.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// The DNS name in a gateway's certificate.
pub const GATEWAY_NAME: &str = "tenure-gateway";
/// The DNS name in an operator's certificate: only who has it may lead.
pub const OPERATOR_NAME: &str = "tenure-operator";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read, or is no PEM.
    #[error("read {}: {}", .0.display(), .1)]
    Read(PathBuf, rustls::pki_types::pem::Error),
    /// What is in the files does not go together.
    #[error("use certificates: {0}")]
    Use(#[from] rustls::Error),
    /// There is nobody whom the CA file lets in.
    #[error("use the CA: {0}")]
    Verify(#[from] rustls::server::VerifierBuilderError),
}

/// Is the other end's certificate for this name?
///
/// # Errors
/// It is for another one.
pub fn is_called(stream: &server::TlsStream<TcpStream>, name: &str) -> io::Result<()> {
    let certificate = stream.get_ref().1.peer_certificates().and_then(|it| it.first());
    let certificate = certificate.ok_or_else(|| io::Error::other("it has shown no certificate"))?;
    let certificate = webpki::EndEntityCert::try_from(certificate).map_err(io::Error::other)?;
    let wanted = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    certificate
        .verify_is_valid_for_subject_name(&wanted)
        .map_err(|_| io::Error::other(format!("its certificate is not for the name {name}")))
}

/// Who this process is to the others: files, as a Secret is mounted.
#[derive(Clone, Debug)]
pub struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

impl Identity {
    /// Reads the files once, so that what is wrong with them is said at the start.
    ///
    /// # Errors
    /// They can't be used.
    pub fn load(certificate: &Path, key: &Path, ca: &Path) -> Result<Identity, Error> {
        let identity =
            Identity { certificate: certificate.to_owned(), key: key.to_owned(), ca: ca.to_owned() };
        identity.client()?;
        identity.server()?;
        Ok(identity)
    }

    /// Connects to a gateway at `host:port`.
    ///
    /// # Errors
    /// Nobody is there, or it is somebody else.
    pub async fn connect(&self, address: &str) -> io::Result<client::TlsStream<TcpStream>> {
        let connector = TlsConnector::from(Arc::new(self.client().map_err(io::Error::other)?));
        let name = ServerName::try_from(GATEWAY_NAME).map_err(io::Error::other)?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        connector.connect(name, stream).await
    }

    /// Lets somebody in who has connected.
    ///
    /// # Errors
    /// It shows no certificate of the CA.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(Arc::new(self.server().map_err(io::Error::other)?));
        stream.set_nodelay(true)?;
        acceptor.accept(stream).await
    }

    fn client(&self) -> Result<ClientConfig, Error> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.certificates()?, self.key()?)?;
        Ok(config)
    }

    fn server(&self) -> Result<ServerConfig, Error> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider()).build()?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.certificates()?, self.key()?)?;
        Ok(config)
    }

    fn roots(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in read(&self.ca)? {
            roots.add(certificate)?;
        }
        Ok(roots)
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        read(&self.certificate)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_file(&self.key).map_err(|it| Error::Read(self.key.clone(), it))
    }
}

fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|it| Error::Read(file.to_owned(), it))
}

/// ring, said in so many words: the process-wide default is set by whoever comes first.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
