//! Letters on real sockets: what a receiver and a mail server see, and what is refused before anything is sent.

mod receivers;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::email::{Error, Mailer, Security};
use super::signature::{Key, sign};
use super::webhook::Webhooks;
use super::{Letter, Undelivered};
use receivers::{MailRules, MailServer, Receiver};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/notify/tests");
const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn file(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// The certificate is for `localhost`, by `ca.crt`.
fn tls() -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(file("tls.crt")).unwrap().collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(file("tls.key")).unwrap();
    let builder = ServerConfig::builder_with_provider(crate::link::tls::provider());
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

fn letter() -> Letter {
    Letter {
        id: "contract/u/expiring/10/7".to_owned(),
        account: "acme".to_owned(),
        kind: "expiring".to_owned(),
        about: "ResidentPool/team-a/chat".to_owned(),
        title: "ResidentPool team-a/chat expires within 7 days".to_owned(),
        text: "Renew it in time.".to_owned(),
        at: Timestamp::from_second(0).unwrap(),
        data: json!({"days": 7}),
    }
}

fn webhooks(allowed: &str) -> Webhooks {
    let allowed = allowed.split(',').filter(|it| !it.is_empty()).map(|it| it.parse().unwrap()).collect();
    Webhooks::new(Some(&file("ca.crt")), allowed).unwrap()
}

async fn send(webhooks: &Webhooks, url: &str) -> Result<(), Undelivered> {
    let at = Timestamp::from_second(1_800_000_000).unwrap();
    webhooks.send(&letter(), url, &[Key::parse(KEY).unwrap()], at).await
}

#[tokio::test]
async fn a_webhook_is_a_signed_event() {
    let receiver = Receiver::start(0, Some(tls()));
    let url = format!("https://localhost:{}/hook?a=b", receiver.port());
    send(&webhooks("127.0.0.0/8,::1/128"), &url).await.unwrap();
    let [got] = &receiver.got()[..] else { panic!("one request") };
    assert_eq!(got.line, "POST /hook?a=b HTTP/1.1");
    let event: Value = serde_json::from_slice(&got.body).unwrap();
    let expected = json!({
        "specversion": "1.0",
        "id": "contract/u/expiring/10/7",
        "source": "/tenure.dev/accounts/acme",
        "type": "dev.tenure.notice.expiring.v1",
        "subject": "ResidentPool/team-a/chat",
        "time": "1970-01-01T00:00:00Z",
        "datacontenttype": "application/json",
        "data": {"days": 7},
    });
    assert_eq!(event, expected);
    let at = Timestamp::from_second(1_800_000_000).unwrap();
    let signature = sign(&[Key::parse(KEY).unwrap()], &letter().id, at, &got.body);
    for (name, value) in [
        ("host", format!("localhost:{}", receiver.port()).as_str()),
        ("content-type", "application/cloudevents+json; charset=utf-8"),
        ("webhook-id", "contract/u/expiring/10/7"),
        ("webhook-timestamp", "1800000000"),
        ("webhook-signature", &signature),
    ] {
        assert_eq!(got.headers.get(name).map(String::as_str), Some(value), "{name}");
    }
}

#[tokio::test]
async fn only_2xx_is_there_and_no_redirect_is_followed() {
    let receiver = Receiver::start(0, None);
    let other = Receiver::start(0, None);
    let url = format!("http://127.0.0.1:{}/", receiver.port());
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
    let moved = format!("HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:{}/\r\n\r\n", other.port());
    let webhooks = webhooks("127.0.0.1/32");
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\n\r\n", None),
        // Its body is not read, however long it says that it is.
        ("HTTP/1.1 202 Accepted\r\ncontent-length: 1000000000000\r\n\r\n", None),
        ("HTTP/1.1 500 Oops\r\n\r\n", Some(("it answered 500", false))),
        ("HTTP/1.1 429 Slow\r\n\r\n", Some(("it answered 429", false))),
        ("HTTP/1.1 404 None\r\n\r\n", Some(("it answered 404", false))),
        ("HTTP/1.1 410 Gone\r\n\r\n", Some(("nobody is there any more", true))),
        (moved.as_str(), Some(("redirects are not followed", false))),
        (endless.as_str(), Some(("it gave no answer", false))),
        ("220 mail.test ESMTP\r\n", Some(("it gave no answer", false))),
    ] {
        receiver.answer(answer);
        let sent = send(&webhooks, &url).await;
        match (&sent, expected) {
            (Ok(()), None) => (),
            (Err(it), Some((words, is_final))) => {
                assert!(it.message.contains(words), "{it:?}");
                assert_eq!(it.is_final, is_final, "{it:?}");
            }
            _ => panic!("{sent:?} for {answer:.40}"),
        }
    }
    assert_eq!(other.got().len(), 0);
}

#[tokio::test]
async fn nothing_is_sent_to_where_it_may_not_go() {
    let plain = Receiver::start(0, None);
    let secret = Receiver::start(0, Some(tls()));
    let (http, https) = (plain.port(), secret.port());
    for (allowed, url, words) in [
        ("", format!("https://localhost:{https}/"), "is this machine itself"),
        ("", format!("https://2130706433:{https}/"), "is this machine itself"),
        ("", format!("https://[::ffff:7f00:1]:{https}/"), "is this machine itself"),
        ("", format!("http://127.0.0.1:{http}/"), "is this machine itself"),
        ("10.0.0.0/8", "http://169.254.169.254/latest/meta-data/".to_owned(), "is link-local"),
        ("", "http://100.100.100.200/".to_owned(), "is where a cloud keeps a machine's secrets"),
        ("", "http://10.0.0.1/".to_owned(), "http sends in the clear"),
        ("127.0.0.0/8", format!("https://127.0.0.1:{https}/"), "TLS: "),
    ] {
        let refused = send(&webhooks(allowed), &url).await.unwrap_err();
        assert!(refused.message.contains(words), "{url}: {refused:?}");
        assert!(!refused.is_final, "it may be allowed later");
    }
    assert_eq!((plain.got().len(), secret.got().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_is_left() {
    // It takes connections and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let silent = send(&webhooks("127.0.0.0/8"), &url).await.unwrap_err();
    assert_eq!(silent, Undelivered::for_now("no answer within 15 s"));
}

fn mailer(port: u16, security: Security, credentials: Option<PathBuf>) -> Result<Mailer, Error> {
    let authority = file("ca.crt");
    Mailer::new("localhost", port, security, "tenure@gpu.example", credentials, Some(&authority))
}

/// A file with credentials, gone when the test ends.
struct Credentials(PathBuf);

impl Credentials {
    fn new(name: &str, text: &str) -> Credentials {
        let path = std::env::temp_dir().join(format!("tenure-smtp-{name}-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Credentials(path)
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

#[tokio::test]
async fn a_letter_comes_by_tls_with_credentials() {
    let file = Credentials::new("tls", "gpu:a:word\n");
    for (security, rules) in [
        (Security::StartTls, MailRules { starttls: Some(tls()), ..MailRules::default() }),
        (Security::Tls, MailRules { tls: Some(tls()), ..MailRules::default() }),
    ] {
        let server = MailServer::start(rules);
        let mailer = mailer(server.port(), security, Some(file.0.clone())).unwrap();
        mailer.send(&letter(), "owners@acme.example").await.unwrap();
        let [mail] = &server.got()[..] else { panic!("one letter") };
        assert!(mail.is_secret, "{security:?}");
        assert_eq!(mail.auth.as_deref(), Some(STANDARD.encode("\0gpu\0a:word").as_str()));
        assert!(mail.from.contains("<tenure@gpu.example>") && mail.to.contains("<owners@acme.example>"));
        for line in [
            "From: Tenure <tenure@gpu.example>\r\n",
            "To: owners@acme.example\r\n",
            "Subject: ResidentPool team-a/chat expires within 7 days\r\n",
            "\r\nRenew it in time.\r\n",
            "this is notice contract/u/expiring/10/7.\r\n",
        ] {
            assert!(mail.text.contains(line), "{line} in {}", mail.text);
        }
    }
}

#[tokio::test]
async fn no_letter_goes_in_the_clear_unless_that_was_asked_for() {
    let server = MailServer::start(MailRules::default());
    let refused =
        mailer(server.port(), Security::StartTls, None).unwrap().send(&letter(), "a@b.example").await;
    assert!(!refused.unwrap_err().is_final);
    assert_eq!(server.got().len(), 0);
    mailer(server.port(), Security::None, None).unwrap().send(&letter(), "a@b.example").await.unwrap();
    assert_eq!(server.got().len(), 1);
    let file = Credentials::new("clear", "gpu:word");
    let refused = mailer(server.port(), Security::None, Some(file.0.clone())).err();
    assert!(matches!(refused, Some(Error::InTheClear)));
    let none = Credentials::new("none", "gpu");
    assert!(matches!(mailer(1, Security::Tls, Some(none.0.clone())).err(), Some(Error::Credentials(_))));
}

#[tokio::test]
async fn a_mailbox_that_is_none_is_not_tried_again_and_a_busy_server_is() {
    for (answer, is_final) in
        [("550 no such user", true), ("451 later", false), ("530 say who you are", false)]
    {
        let server =
            MailServer::start(MailRules { refuses: Some(answer.to_owned()), ..MailRules::default() });
        let mailer = mailer(server.port(), Security::None, None).unwrap();
        let refused = mailer.send(&letter(), "a@b.example").await.unwrap_err();
        assert_eq!(refused.is_final, is_final, "{refused:?}");
        assert!(refused.message.contains(&answer[4..]), "{refused:?}");
    }
}

#[tokio::test]
async fn nobody_writes_headers_by_what_a_letter_says() {
    let server = MailServer::start(MailRules::default());
    let mailer = mailer(server.port(), Security::None, None).unwrap();
    let evil = Letter {
        title: "x\r\nBcc: everybody@acme.example\r\n\r\nnew body".to_owned(),
        id: "a\r\nBcc: everybody@acme.example".to_owned(),
        text: "first\r\n.\r\nMAIL FROM:<x@y>".to_owned(),
        ..letter()
    };
    mailer.send(&evil, "a@b.example").await.unwrap();
    let [mail] = &server.got()[..] else { panic!("one letter") };
    let head = mail.text.split("\r\n\r\n").next().unwrap_or_default();
    assert!(!head.lines().any(|it| it.starts_with("Bcc")), "{head}");
    assert!(
        mail.text.contains("\r\n..\r\nMAIL FROM"),
        "a lonely full stop does not end the letter: {}",
        mail.text
    );
    for to in ["a@b.example\r\nBcc: c@d", "a@b.example>\r\nRCPT TO:<c@d", "a b@c", "", "@"] {
        let refused = mailer.send(&letter(), to).await.unwrap_err();
        assert!(refused.is_final && refused.message.contains("is no email address"), "{to}: {refused:?}");
    }
    assert_eq!(server.got().len(), 1);
}

#[tokio::test]
async fn a_repeat_is_the_same_letter() {
    let server = MailServer::start(MailRules::default());
    let mailer = mailer(server.port(), Security::None, None).unwrap();
    for id in ["a", "a", "b"] {
        mailer.send(&Letter { id: id.to_owned(), ..letter() }, "a@b.example").await.unwrap();
    }
    let ids: Vec<String> = server
        .got()
        .iter()
        .filter_map(|it| it.text.lines().find(|it| it.starts_with("Message-ID:")).map(str::to_owned))
        .collect();
    assert_eq!(ids.len(), 3);
    assert!(ids[0] == ids[1] && ids[1] != ids[2], "{ids:?}");
}
