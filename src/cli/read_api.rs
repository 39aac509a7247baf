//! The way to the operator's read API: through a port-forward of the API server to the operator's pod, or to an address; with the token
//! of the kubeconfig's user, or one that is made for a ServiceAccount.

use std::fmt::Write as _;

use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{ListParams, PostParams};
use kube::client::Body;
use kube::config::AuthInfo;
use kube::{Api, Client, Config, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::api::names;

/// How long a token is good that is made for a ServiceAccount, seconds: the least that there is.
const TOKEN_SECONDS: i64 = 600;
/// The longest line of an answer.
const LINE_BYTES: usize = 1024 * 1024;

/// Where the read API is, and who asks.
#[derive(clap::Args, Debug, Clone)]
pub struct Way {
    /// The operator's read API, such as http://127.0.0.1:8081; absent: a port-forward to the operator's pod.
    #[arg(long, env = "TENURE_SERVER", value_name = "URL")]
    pub server: Option<http::Uri>,
    /// Where the operator's pod is.
    #[arg(long, default_value = names::OPERATOR_NAMESPACE)]
    pub operator_namespace: String,
    /// Ask with a token of this ServiceAccount, which is made for it: for who has no token of his own, but a certificate.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub service_account: Option<String>,
}

/// A way to the read API.
pub struct ReadApi {
    client: Client,
    /// Ends with this.
    _forward: JoinSet<()>,
}

impl ReadApi {
    /// Opens the way.
    pub async fn open(config: &Config, client: &Client, way: &Way) -> Result<ReadApi, String> {
        let auth = credentials(config, client, way).await?;
        let mut forward = JoinSet::new();
        let url = match &way.server {
            Some(url) => checked(url)?,
            None => forward_to(client, way, &mut forward).await?,
        };
        let mut to = Config::new(url);
        to.auth_info = auth;
        to.default_retry = false;
        let client = Client::try_from(to).map_err(|it| it.to_string())?;
        Ok(ReadApi { client, _forward: forward })
    }

    /// What it answers.
    pub async fn ask(&self, method: http::Method, path: &str, body: Vec<u8>) -> Result<Lines, String> {
        let request = http::Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/json").body(Body::from(body));
        let answer = self.client.send(request.map_err(|it| it.to_string())?).await;
        let answer = answer.map_err(|it| format!("ask the operator: {it}"))?;
        let (head, body) = answer.into_parts();
        let mut lines = Lines { body, buffer: Vec::new() };
        if head.status.is_success() {
            return Ok(lines);
        }
        let text = lines.next().await?.unwrap_or_default();
        let told = serde_json::from_slice::<Status>(&text).map(|it| it.message);
        let message = told.unwrap_or_else(|_| String::from_utf8_lossy(&text).into_owned());
        Err(format!("the operator says {}: {message}", head.status.as_u16()))
    }

    /// What it answers, as one value.
    pub async fn value(&self, method: http::Method, path: &str, body: Vec<u8>) -> Result<Value, String> {
        let mut lines = self.ask(method, path, body).await?;
        let text = lines.next().await?.unwrap_or_default();
        serde_json::from_slice(&text).map_err(|it| format!("the operator's answer: {it}"))
    }
}

/// A refusal.
#[derive(Deserialize)]
struct Status {
    message: String,
}

/// An answer, line by line.
pub struct Lines {
    body: Body,
    buffer: Vec<u8>,
}

/// A line of a bill or an export.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub enum Told {
    /// Names of columns, and what they hold: `text`, `decimal`, `time`.
    Columns(Vec<(String, String)>),
    /// A row of them.
    Row(Vec<Option<String>>),
    /// A line of a bill.
    Line(Box<Value>),
    /// The last one: it is whole.
    End(Value),
    /// The last one: it is not.
    Error(String),
}

impl Lines {
    /// The next line; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|it| *it == b'\n') {
                let rest = self.buffer.split_off(searched + end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Ok(Some(line));
            }
            searched = self.buffer.len();
            if searched > LINE_BYTES {
                return Err("the operator's answer has a line that is too long".to_owned());
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        let data: Bytes = data;
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(format!("the answer broke off: {error}")),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Ok(Some(std::mem::take(&mut self.buffer))),
            }
        }
    }

    /// The next line of a bill or export, which ends with `End`.
    pub async fn told(&mut self) -> Result<Told, String> {
        let line = self.next().await?.ok_or("the answer broke off")?;
        match serde_json::from_slice(&line).map_err(|it| format!("the operator's answer: {it}"))? {
            Told::Error(error) => Err(format!("the operator broke it off: {error}")),
            told @ (Told::Columns(_) | Told::Row(_) | Told::Line(_) | Told::End(_)) => Ok(told),
        }
    }
}

/// A token goes in the clear only to this machine.
fn checked(url: &http::Uri) -> Result<http::Uri, String> {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|it| it.is_loopback());
    match url.scheme_str() {
        Some("https") => Ok(url.clone()),
        Some("http") if is_here => Ok(url.clone()),
        Some("http") => {
            Err(format!("--server {url}: a token is not sent in the clear: use https, or a port-forward"))
        }
        Some(_) | None => {
            Err(format!("--server {url}: write it such as http://127.0.0.1:{}", names::READ_PORT))
        }
    }
}

/// The token that asks.
async fn credentials(config: &Config, client: &Client, way: &Way) -> Result<AuthInfo, String> {
    if let Some(account) = &way.service_account {
        let (namespace, name) = account
            .split_once('/')
            .ok_or_else(|| format!("--service-account {account}: write NAMESPACE/NAME"))?;
        let spec = TokenRequestSpec {
            audiences: Some(vec![names::AUDIENCE.to_owned()]),
            expiration_seconds: Some(TOKEN_SECONDS),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
        let made = accounts.create_token_request(name, &PostParams::default(), &request).await;
        let made = made.map_err(|it| format!("make a token for ServiceAccount {account}: {it}"))?;
        let token = made.status.map(|it| it.token).unwrap_or_default();
        return serde_json::from_value(json!({"token": token})).map_err(|it| it.to_string());
    }
    let own = &config.auth_info;
    let has_token =
        own.token.is_some() || own.token_file.is_some() || own.exec.is_some() || own.auth_provider.is_some();
    if !has_token {
        return Err("the user of this kubeconfig has no token, and a client certificate can't be shown to the operator: \
                    name a ServiceAccount that may ask, --service-account NAMESPACE/NAME, or use a user with a token or an exec plugin"
            .to_owned());
    }
    Ok(AuthInfo {
        token: own.token.clone(),
        token_file: own.token_file.clone(),
        exec: own.exec.clone(),
        auth_provider: own.auth_provider.clone(),
        ..AuthInfo::default()
    })
}

/// Listens on this machine, and forwards what comes to the operator's pod. The address.
async fn forward_to(client: &Client, way: &Way, tasks: &mut JoinSet<()>) -> Result<http::Uri, String> {
    let pod = operator_pod(client, &way.operator_namespace).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|it| format!("listen: {it}"))?;
    let address = listener.local_addr().map_err(|it| format!("listen: {it}"))?;
    let pods = Api::<Pod>::namespaced(client.clone(), &way.operator_namespace);
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut here, _)) = listener.accept().await {
            let (pods, pod) = (pods.clone(), pod.clone());
            connections.spawn(async move {
                match pods.portforward(&pod, &[names::READ_PORT]).await {
                    Ok(mut forward) => {
                        if let Some(mut there) = forward.take_stream(names::READ_PORT) {
                            tokio::io::copy_bidirectional(&mut here, &mut there).await.ok();
                        }
                    }
                    Err(error) => tracing::error!(%error, pod, "no port-forward"),
                }
            });
        }
    });
    format!("http://{address}").parse().map_err(|it: http::uri::InvalidUri| it.to_string())
}

/// A pod of the operator that is ready: of several the one that leads.
async fn operator_pod(client: &Client, namespace: &str) -> Result<String, String> {
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let found = pods.list(&ListParams::default().labels(names::OPERATOR_PODS)).await;
    let found = found.map_err(|it| format!("look for the operator's pod: {it}"))?;
    let is_ready = |pod: &&Pod| {
        let conditions = pod.status.iter().flat_map(|it| it.conditions.iter().flatten());
        conditions.into_iter().any(|it| it.type_ == "Ready" && it.status == "True")
    };
    let ready: Vec<String> = found.iter().filter(is_ready).map(ResourceExt::name_any).collect();
    // Who may not read the Lease gets any of them.
    let lease = Api::<Lease>::namespaced(client.clone(), namespace).get_opt(names::LEASE).await;
    let holder = lease.ok().flatten().and_then(|it| it.spec).and_then(|it| it.holder_identity);
    let leads =
        ready.iter().find(|it| holder.as_deref().is_some_and(|holder| holder.starts_with(it.as_str())));
    leads.or(ready.first()).cloned().ok_or_else(|| {
        format!(
            "no pod with the labels {} is ready in namespace {namespace}: say where the operator is by --operator-namespace, or, \
             when it runs outside of the cluster, --server URL",
            names::OPERATOR_PODS
        )
    })
}

/// What has to be escaped in a query.
pub fn query(pairs: &[(&str, Option<&str>)]) -> String {
    let escaped = |text: &str| -> String {
        let mut escaped = String::new();
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                escaped.push(char::from(byte));
            } else {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
        escaped
    };
    let given: Vec<String> =
        pairs.iter().filter_map(|(name, value)| Some(format!("{name}={}", escaped((*value)?)))).collect();
    if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_in_the_clear_only_to_this_machine() {
        for (url, expected) in [
            ("http://127.0.0.1:8081", Ok(())),
            ("http://localhost:8081", Ok(())),
            ("http://[::1]:8081", Ok(())),
            ("https://tenure.example", Ok(())),
            ("http://tenure.example", Err("not sent in the clear")),
            ("http://10.0.0.1:8081", Err("not sent in the clear")),
            ("127.0.0.1:8081", Err("write it such as")),
        ] {
            let found = checked(&url.parse().unwrap());
            match (found, expected) {
                (Ok(_), Ok(())) => (),
                (Err(text), Err(words)) => assert!(text.contains(words), "{text}"),
                (found, expected) => panic!("{url}: {found:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn a_query_is_escaped() {
        assert_eq!(query(&[("a", None), ("b", None)]), "");
        assert_eq!(
            query(&[("account", Some("a&b=c d")), ("month", Some("2026-11"))]),
            "?account=a%26b%3Dc%20d&month=2026-11"
        );
    }
}
