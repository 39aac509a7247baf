//! Who is told, in tests: a webhook receiver and a mail server on loopback, each as small as its clients allow. Blocking, on threads
//! of their own, so that any test can use them. Also compiled into `tests/it`.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A connection, with TLS or without.
trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// TLS for a server's end of a connection.
fn secret(stream: TcpStream, tls: &Arc<ServerConfig>) -> StreamOwned<ServerConnection, TcpStream> {
    StreamOwned::new(ServerConnection::new(tls.clone()).expect("the configuration is good"), stream)
}

/// Listens, and serves each connection on a thread of its own, until it is dropped.
struct Server {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

impl Server {
    fn start(port: u16, serve: impl Fn(TcpStream) + Clone + Send + 'static) -> Server {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("loopback has ports");
        let address = listener.local_addr().expect("it listens");
        let stopped = Arc::new(AtomicBool::new(false));
        let is_stopped = stopped.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if is_stopped.load(Ordering::SeqCst) {
                    return;
                }
                let serve = serve.clone();
                std::thread::spawn(move || serve(stream));
            }
        });
        Server { address, stopped }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener, which then closes.
        TcpStream::connect(self.address).ok();
    }
}

/// A request that a webhook receiver got.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// `POST /path HTTP/1.1`.
    pub line: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

/// A webhook receiver.
pub struct Receiver {
    server: Server,
    got: Arc<Mutex<Vec<Delivered>>>,
    /// The next answers, as they are on the wire; then 204.
    answers: Arc<Mutex<VecDeque<String>>>,
}

impl Receiver {
    /// Starts one; port 0 is any.
    pub fn start(port: u16, tls: Option<Arc<ServerConfig>>) -> Receiver {
        let (got, answers) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(VecDeque::new())));
        let (into, from) = (got.clone(), answers.clone());
        let server = Server::start(port, move |stream| {
            let stream: Box<dyn Stream> = match &tls {
                Some(tls) => Box::new(secret(stream, tls)),
                None => Box::new(stream),
            };
            answer(stream, &into, &from);
        });
        Receiver { server, got, answers }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.server.address.port()
    }

    /// What it got so far.
    pub fn got(&self) -> Vec<Delivered> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How it answers the next request.
    pub fn answer(&self, answer: &str) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push_back(answer.to_owned());
    }
}

fn answer(stream: Box<dyn Stream>, got: &Mutex<Vec<Delivered>>, answers: &Mutex<VecDeque<String>>) {
    let mut stream = BufReader::new(stream);
    let Some(request) = read_request(&mut stream) else { return };
    let answer = answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let answer = answer.unwrap_or_else(|| "HTTP/1.1 204 No Content\r\n\r\n".to_owned());
    got.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    stream.get_mut().write_all(answer.as_bytes()).ok();
    stream.get_mut().flush().ok();
    // Until the other side has it.
    stream.read_to_end(&mut Vec::new()).ok();
}

fn read_request(stream: &mut impl BufRead) -> Option<Delivered> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|it| *it > 0)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Delivered { line: line.trim_end().to_owned(), headers, body })
}

/// A letter that a mail server took.
#[derive(Debug, Clone)]
pub struct Mail {
    /// By its envelope.
    pub from: String,
    /// By its envelope.
    pub to: String,
    /// Headers and body.
    pub text: String,
    /// Did it come by TLS?
    pub is_secret: bool,
    /// Who sent it: the argument of `AUTH PLAIN`.
    pub auth: Option<String>,
}

/// How a mail server behaves.
#[derive(Clone, Default)]
pub struct MailRules {
    /// It offers STARTTLS.
    pub starttls: Option<Arc<ServerConfig>>,
    /// It speaks TLS from the first byte.
    pub tls: Option<Arc<ServerConfig>>,
    /// What it says to `RCPT TO` instead of taking it.
    pub refuses: Option<String>,
}

/// A mail server.
pub struct MailServer {
    server: Server,
    got: Arc<Mutex<Vec<Mail>>>,
}

impl MailServer {
    /// Starts one.
    pub fn start(rules: MailRules) -> MailServer {
        let got = Arc::new(Mutex::new(Vec::new()));
        let into = got.clone();
        let server = Server::start(0, move |stream| drop(talk(stream, &rules, &into)));
        MailServer { server, got }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.server.address.port()
    }

    /// What it took so far.
    pub fn got(&self) -> Vec<Mail> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn talk(stream: TcpStream, rules: &MailRules, got: &Mutex<Vec<Mail>>) -> std::io::Result<()> {
    if let Some(tls) = &rules.tls {
        return converse(&mut BufReader::new(secret(stream, tls)), rules, true, true, got).map(drop);
    }
    let mut plain = BufReader::new(stream);
    let upgrades = converse(&mut plain, rules, false, true, got)?;
    match (&rules.starttls, upgrades) {
        (Some(tls), true) => {
            converse(&mut BufReader::new(secret(plain.into_inner(), tls)), rules, true, false, got).map(drop)
        }
        _ => Ok(()),
    }
}

/// Talks until the end, or until TLS shall begin; true then.
fn converse<S: Read + Write>(
    stream: &mut BufReader<S>,
    rules: &MailRules,
    is_secret: bool,
    greets: bool,
    got: &Mutex<Vec<Mail>>,
) -> std::io::Result<bool> {
    let say = |stream: &mut BufReader<S>, text: &str| {
        stream.get_mut().write_all(format!("{text}\r\n").as_bytes())?;
        stream.get_mut().flush()
    };
    if greets {
        say(stream, "220 mail.test ESMTP")?;
    }
    let (mut from, mut to, mut auth) = (String::new(), String::new(), None);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(false);
        }
        let line = line.trim_end();
        match line.split(' ').next().unwrap_or_default().to_uppercase().as_str() {
            "EHLO" if rules.starttls.is_some() && !is_secret => say(stream, "250-mail.test\r\n250 STARTTLS")?,
            "EHLO" => say(stream, "250-mail.test\r\n250 AUTH PLAIN")?,
            "STARTTLS" => {
                say(stream, "220 go on")?;
                return Ok(true);
            }
            "AUTH" => {
                auth = line.strip_prefix("AUTH PLAIN ").map(str::to_owned);
                say(stream, "235 welcome")?;
            }
            "MAIL" => {
                line.clone_into(&mut from);
                say(stream, "250 ok")?;
            }
            "RCPT" => {
                line.clone_into(&mut to);
                say(stream, rules.refuses.as_deref().unwrap_or("250 ok"))?;
            }
            "DATA" => {
                say(stream, "354 go on")?;
                let mut text = String::new();
                while !text.ends_with("\r\n.\r\n") {
                    if stream.read_line(&mut text)? == 0 {
                        return Ok(false);
                    }
                }
                let mail = Mail { from: from.clone(), to: to.clone(), text, is_secret, auth: auth.clone() };
                got.lock().unwrap_or_else(PoisonError::into_inner).push(mail);
                say(stream, "250 taken")?;
            }
            "QUIT" => {
                say(stream, "221 bye")?;
                return Ok(false);
            }
            _ => say(stream, "250 ok")?,
        }
    }
}
