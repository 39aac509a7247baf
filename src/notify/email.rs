//! Email by SMTP: one letter, one connection.

use std::path::PathBuf;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::{self, AsyncSmtpTransport};
use lettre::{Address, AsyncTransport, Message, Tokio1Executor};

use super::{Letter, TRY_WITHIN, Undelivered};

/// How long the mail server may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How the way to the mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// It begins in the clear and must become TLS before anything is said.
    StartTls,
    /// TLS from the first byte.
    Tls,
    /// None: for a relay on this machine.
    None,
}

/// Why no email can be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sender is no address.
    #[error("`{0}` is no email address: {1}")]
    From(String, lettre::address::AddressError),
    /// A file can't be read.
    #[error("read {0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// The file with credentials has none.
    #[error("{0} must have one line, USER:PASSWORD")]
    Credentials(PathBuf),
    /// A password is not sent in the clear.
    #[error("credentials are sent only by TLS: use starttls or tls")]
    InTheClear,
    /// TLS can't be set up.
    #[error("set up TLS: {0}")]
    Tls(#[from] smtp::Error),
}

/// Sends email.
pub struct Mailer {
    host: String,
    port: u16,
    from: Address,
    tls: Tls,
    credentials: Option<PathBuf>,
}

impl Mailer {
    /// A mailer for a server. `credentials`: a file with `USER:PASSWORD`; it is read anew for each letter, so that a new password
    /// is used without a restart. `authorities`: a PEM file with whom to trust beside the system's.
    pub fn new(
        host: &str,
        port: u16,
        security: Security,
        from: &str,
        credentials: Option<PathBuf>,
        authorities: Option<&PathBuf>,
    ) -> Result<Mailer, Error> {
        let from = from.parse().map_err(|it| Error::From(from.to_owned(), it))?;
        let mut parameters = TlsParameters::builder(host.to_owned());
        if let Some(path) = authorities {
            let pem = std::fs::read(path).map_err(|it| Error::Read(path.clone(), it))?;
            parameters = parameters.add_root_certificate(Certificate::from_pem(&pem)?);
        }
        let tls = match security {
            Security::StartTls => Tls::Required(parameters.build()?),
            Security::Tls => Tls::Wrapper(parameters.build()?),
            Security::None if credentials.is_some() => return Err(Error::InTheClear),
            Security::None => Tls::None,
        };
        let mailer = Mailer { host: host.to_owned(), port, from, tls, credentials };
        mailer.credentials()?;
        Ok(mailer)
    }

    fn credentials(&self) -> Result<Option<Credentials>, Error> {
        let Some(path) = &self.credentials else { return Ok(None) };
        let text = std::fs::read_to_string(path).map_err(|it| Error::Read(path.clone(), it))?;
        let (user, password) = text.trim().split_once(':').ok_or_else(|| Error::Credentials(path.clone()))?;
        Ok(Some(Credentials::new(user.to_owned(), password.to_owned())))
    }

    /// Sends a letter to an address.
    pub async fn send(&self, letter: &Letter, to: &str) -> Result<(), Undelivered> {
        let message = self.message(letter, to)?;
        let credentials = self.credentials().map_err(|it| Undelivered::for_now(it.to_string()))?;
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&self.host)
            .port(self.port)
            .tls(self.tls.clone())
            .timeout(Some(CONNECT_WITHIN));
        if let Some(credentials) = credentials {
            builder = builder.credentials(credentials);
        }
        match tokio::time::timeout(TRY_WITHIN, builder.build().send(message)).await {
            Err(_) => Err(Undelivered::for_now(format!(
                "the mail server gave no answer within {} s",
                TRY_WITHIN.as_secs()
            ))),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(undelivered(&error)),
        }
    }

    /// The letter as an email. The library encodes what stands in headers, and an address with a line break is none.
    fn message(&self, letter: &Letter, to: &str) -> Result<Message, Undelivered> {
        let to: Address =
            to.parse().map_err(|it| Undelivered::for_good(format!("`{to}` is no email address: {it}")))?;
        let body = format!(
            "{}\r\n\r\nAccount {}, {}.\r\nSent by Tenure; this is notice {}.\r\n",
            letter.text, letter.account, letter.at, letter.id
        );
        Message::builder()
            .from(Mailbox::new(Some("Tenure".to_owned()), self.from.clone()))
            .to(Mailbox::new(None, to))
            .subject(&letter.title)
            // A repeat has the same one: mail systems keep one of both.
            .message_id(Some(message_id(&letter.id)))
            .header(ContentType::TEXT_PLAIN)
            .body(body)
            .map_err(|it| Undelivered::for_good(format!("it can't be written as an email: {it}")))
    }
}

fn message_id(id: &str) -> String {
    use std::fmt::Write as _;
    let digest = ring::digest::digest(&ring::digest::SHA256, id.as_bytes());
    let hex = digest.as_ref().iter().take(16).fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a String takes all that is written to it");
        hex
    });
    format!("<{hex}@notice.tenure.dev>")
}

/// Answers of a mail server that mean this address, and not how we said hello: others may be mended.
const NO_SUCH_MAILBOX: [u16; 5] = [550, 551, 552, 553, 554];

fn undelivered(error: &smtp::Error) -> Undelivered {
    let is_final = error.status().is_some_and(|it| NO_SUCH_MAILBOX.contains(&u16::from(it)));
    let cause = std::error::Error::source(error).map(|it| format!(": {it}")).unwrap_or_default();
    Undelivered { message: format!("the mail server: {error}{cause}"), is_final }
}
