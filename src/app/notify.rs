//! How owners are told, on the command line.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use super::clock;
use crate::controllers::notify::Senders;
use crate::notify::email::{self, Mailer, Security};
use crate::notify::webhook::{self, Webhooks};

/// How owners are told: `Account.spec.notify`.
#[derive(Args, Debug)]
pub struct NotifyOptions {
    /// The mail server, `host:port`. Absent: no email is sent.
    #[arg(long, env = "TENURE_SMTP", value_name = "HOST:PORT", value_parser = super::config::host_and_port, requires = "smtp_from")]
    smtp: Option<String>,
    /// How the way to the mail server is protected.
    #[arg(long, env = "TENURE_SMTP_SECURITY", value_enum, default_value_t = SmtpSecurity::Starttls)]
    smtp_security: SmtpSecurity,
    /// Who email comes from.
    #[arg(long, env = "TENURE_SMTP_FROM", value_name = "ADDRESS")]
    smtp_from: Option<String>,
    /// A file with `USER:PASSWORD` for the mail server; read anew for each letter. Absent: it asks for none.
    #[arg(long, env = "TENURE_SMTP_CREDENTIALS", value_name = "FILE", requires = "smtp")]
    smtp_credentials: Option<PathBuf>,
    /// Whom to trust beside the system's authorities, for mail servers and webhooks, PEM.
    #[arg(long, env = "TENURE_NOTIFY_CA", value_name = "FILE")]
    notify_ca: Option<PathBuf>,
    /// Networks that webhooks may go to and price feeds be read from although they are this machine, link-local or a cloud's
    /// metadata, and where webhooks take http without TLS; such as 10.96.0.0/12, comma separated.
    #[arg(long, env = "TENURE_NOTIFY_ALLOW", value_name = "NETWORKS", value_delimiter = ',')]
    notify_allow: Vec<IpNet>,
}

/// How the way to the mail server is protected.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum SmtpSecurity {
    /// It begins in the clear and must become TLS.
    Starttls,
    /// TLS from the first byte.
    Tls,
    /// None.
    None,
}

/// Why nobody can be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Email.
    #[error("email: {0}")]
    Email(#[from] email::Error),
    /// Webhooks.
    #[error("webhooks: {0}")]
    Webhook(#[from] webhook::Error),
}

impl NotifyOptions {
    /// Networks that may be called although they would be refused otherwise.
    pub(super) fn allowed(&self) -> Vec<IpNet> {
        self.notify_allow.clone()
    }

    /// What sends. What is wrong with a file is said now.
    pub(super) fn senders(&self) -> Result<Senders, Error> {
        let mailer = match (&self.smtp, &self.smtp_from) {
            (Some(server), Some(from)) => {
                let (host, port) = server.rsplit_once(':').unwrap_or((server, "25"));
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let security = match self.smtp_security {
                    SmtpSecurity::Starttls => Security::StartTls,
                    SmtpSecurity::Tls => Security::Tls,
                    SmtpSecurity::None => Security::None,
                };
                let port = port.parse().unwrap_or(25);
                let (credentials, authorities) = (self.smtp_credentials.clone(), self.notify_ca.as_ref());
                Some(Mailer::new(host, port, security, from, credentials, authorities)?)
            }
            (None, _) | (_, None) => None,
        };
        let webhooks = Webhooks::new(self.notify_ca.as_deref(), self.notify_allow.clone())?;
        Ok(Senders { mailer, webhooks, real_now: clock::real })
    }
}
