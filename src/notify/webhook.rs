//! A webhook: one POST of a CloudEvent 1.0 in structured mode, signed. The address that was looked at is the one that is connected
//! to; no redirect is followed; of the answer only the status is read.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use tokio_util::task::AbortOnDropHandle;

use super::addresses::{is_allowed, refused};
use super::signature::{Key, sign};
use super::{Letter, TRY_WITHIN, Undelivered};
use crate::link::tls::provider;

/// What an event's `type` begins with.
const TYPE_PREFIX: &str = "dev.tenure.notice.";
/// And ends with: another meaning of a field is another version.
const TYPE_SUFFIX: &str = ".v1";
/// Bytes of the head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Headers of an answer.
const HEADERS_MAX: usize = 64;

/// Why no webhook can be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file with authorities.
    #[error("read {0}: {1}")]
    Authorities(std::path::PathBuf, rustls::pki_types::pem::Error),
    /// What is in it.
    #[error("use the authorities: {0}")]
    Use(#[from] rustls::Error),
}

/// Sends webhooks.
pub struct Webhooks {
    tls: Arc<ClientConfig>,
    allowed: Vec<IpNet>,
}

impl Webhooks {
    /// Trusts the system's authorities, and those in the file. `allowed`: networks that would be refused otherwise; into them it
    /// also goes in the clear.
    pub fn new(authorities: Option<&Path>, allowed: Vec<IpNet>) -> Result<Webhooks, Error> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if let Some(path) = authorities {
            let fault = |it| Error::Authorities(path.to_owned(), it);
            for certificate in CertificateDer::pem_file_iter(path).map_err(fault)? {
                roots.add(certificate.map_err(fault)?)?;
            }
        }
        let tls = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Webhooks { tls: Arc::new(tls), allowed })
    }

    /// Sends a letter to a URL, signed with these keys at this time.
    pub async fn send(
        &self,
        letter: &Letter,
        url: &str,
        keys: &[Key],
        at: Timestamp,
    ) -> Result<(), Undelivered> {
        let sent = tokio::time::timeout(TRY_WITHIN, self.post(letter, url, keys, at)).await;
        let status = sent.unwrap_or_else(|_| {
            Err(Undelivered::for_now(format!("no answer within {} s", TRY_WITHIN.as_secs())))
        })?;
        match status {
            it if it.is_success() => Ok(()),
            it if it.is_redirection() => Err(Undelivered::for_now(format!(
                "it answered {it}: redirects are not followed, name the place itself"
            ))),
            StatusCode::GONE => Err(Undelivered::for_good("it answered 410 Gone: nobody is there any more")),
            it => Err(Undelivered::for_now(format!("it answered {it}"))),
        }
    }

    async fn post(
        &self,
        letter: &Letter,
        url: &str,
        keys: &[Key],
        at: Timestamp,
    ) -> Result<StatusCode, Undelivered> {
        let place = Place::parse(url)?;
        let body = event(letter).to_string();
        let request = Request::post(&place.path)
            .header(header::HOST, &place.authority)
            .header(header::USER_AGENT, concat!("tenure/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "application/cloudevents+json; charset=utf-8")
            .header("webhook-id", &letter.id)
            .header("webhook-timestamp", at.as_second())
            .header("webhook-signature", sign(keys, &letter.id, at, body.as_bytes()))
            .body(Full::new(Bytes::from(body)));
        let request = request.map_err(|it| Undelivered::for_good(format!("it can't be sent: {it}")))?;
        let stream = self.connect(&place).await?;
        if !place.is_secret {
            return exchange(stream, request).await.map_err(|it| broke(&it));
        }
        let name = ServerName::try_from(place.host.clone()).map_err(|_| {
            Undelivered::for_now(format!("`{}` is no name that a certificate can have", place.host))
        })?;
        let connector = TlsConnector::from(self.tls.clone());
        let stream = connector.connect(name, stream).await;
        let stream = stream.map_err(|it| Undelivered::for_now(format!("TLS: {it}")))?;
        exchange(stream, request).await.map_err(|it| broke(&it))
    }

    /// Connects to an address that was looked at, never to a name: it might mean another one by then.
    async fn connect(&self, place: &Place) -> Result<TcpStream, Undelivered> {
        let found = tokio::net::lookup_host((place.host.as_str(), place.port)).await;
        let addresses: Vec<SocketAddr> = found
            .map_err(|it| Undelivered::for_now(format!("`{}` can't be looked up: {it}", place.host)))?
            .collect();
        for address in addresses.iter().map(SocketAddr::ip) {
            self.check(address, place.is_secret)?;
        }
        let mut last = Undelivered::for_now(format!("`{}` has no address", place.host));
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Undelivered::for_now(format!("connect to {address}: {error}")),
            }
        }
        Err(last)
    }

    fn check(&self, address: IpAddr, is_secret: bool) -> Result<(), Undelivered> {
        if is_allowed(&self.allowed, address) {
            return Ok(());
        }
        if let Some(why) = refused(address) {
            return Err(Undelivered::for_now(format!(
                "{address} {why}: webhooks go there only when the operator's --notify-allow names it"
            )));
        }
        if is_secret {
            return Ok(());
        }
        Err(Undelivered::for_now(
            "http sends in the clear: use https, or have the operator's --notify-allow name the network",
        ))
    }
}

/// Where a URL points.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    is_secret: bool,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Place {
    fn parse(url: &str) -> Result<Place, Undelivered> {
        let wrong = |why: &str| Undelivered::for_now(format!("its URL can't be used: {why}"));
        let uri: Uri = url.parse().map_err(|_| wrong("it is no URL"))?;
        let is_secret = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(wrong("it must begin with https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("it must name no user"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_secret { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |it| it.as_str()).to_owned();
        Ok(Place { is_secret, host, port, authority: authority.to_string(), path })
    }
}

/// Sends a request and reads the head of its answer.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> hyper::Result<StatusCode>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    Ok(sender.send_request(request).await?.status())
}

fn broke(error: &hyper::Error) -> Undelivered {
    let cause = std::error::Error::source(error);
    let cause =
        cause.map(|it| it.downcast_ref::<io::Error>().map_or_else(|| it.to_string(), ToString::to_string));
    Undelivered::for_now(format!(
        "it gave no answer: {error}{}",
        cause.map(|it| format!(": {it}")).unwrap_or_default()
    ))
}

/// The letter as a CloudEvent.
fn event(letter: &Letter) -> Value {
    let Letter { id, account, kind, about, title: _, text: _, at, data } = letter;
    json!({
        "specversion": "1.0",
        "id": id,
        "source": format!("/tenure.dev/accounts/{account}"),
        "type": format!("{TYPE_PREFIX}{kind}{TYPE_SUFFIX}"),
        "subject": about,
        "time": at,
        "datacontenttype": "application/json",
        "data": data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_points_somewhere_or_is_refused() {
        let place = |is_secret, host: &str, port, authority: &str, path: &str| Place {
            is_secret,
            host: host.to_owned(),
            port,
            authority: authority.to_owned(),
            path: path.to_owned(),
        };
        for (url, expected) in [
            ("https://a.example", Ok(place(true, "a.example", 443, "a.example", "/"))),
            ("https://a.example:8443/b?c=d", Ok(place(true, "a.example", 8443, "a.example:8443", "/b?c=d"))),
            ("http://10.0.0.1/x", Ok(place(false, "10.0.0.1", 80, "10.0.0.1", "/x"))),
            ("https://[fd00::1]:9/x", Ok(place(true, "fd00::1", 9, "[fd00::1]:9", "/x"))),
            ("https://user:word@a.example/", Err("it must name no user")),
            ("ftp://a.example/", Err("it must begin with https://")),
            ("/a", Err("it must begin with https://")),
            ("https://a b/", Err("it is no URL")),
            ("https://a.example/\r\nx: y", Err("it is no URL")),
        ] {
            match (Place::parse(url), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(found), Err(why)) => assert!(found.message.contains(why), "{url}: {found:?}"),
                (found, expected) => panic!("{url}: {found:?} instead of {expected:?}"),
            }
        }
    }
}
