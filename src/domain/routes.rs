//! Which endpoint a request is for: by host, `<endpoint>.<namespace>.<domain>`, or by path, `/<namespace>/<endpoint>/rest`.
//!
//! A name that is read here decides who is asked for a key and who pays, so nothing is decoded and nothing is tidied up: what
//! is not a plain name is refused. What comes after the names in a path is the worker's business and is passed on as it is.

/// The endpoint a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub endpoint: String,
    /// So many bytes at the start of the path name the endpoint and are not forwarded; 0 if the host names it.
    pub prefix: usize,
}

/// Why a request is for no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoTarget {
    /// Neither host nor path can be an endpoint's.
    Unknown,
    /// The path is written so that two readers may understand two things.
    Ambiguous,
}

/// The endpoint that `host` (with or without a port) and `path` (without its query) name.
pub fn target(domain: &str, host: &str, path: &str) -> Result<Target, NoTarget> {
    if !path.starts_with('/') {
        return Err(NoTarget::Unknown);
    }
    match by_host(domain, host) {
        Some((endpoint, namespace)) if is_name(&endpoint) && is_name(&namespace) => {
            Ok(Target { namespace, endpoint, prefix: 0 })
        }
        Some(_) => Err(NoTarget::Unknown),
        None => by_path(path),
    }
}

/// Endpoint and namespace, if the host lies two labels below the domain.
fn by_host(domain: &str, host: &str) -> Option<(String, String)> {
    let host = without_port(host);
    let host = host.strip_suffix('.').unwrap_or(host);
    let at = host.len().checked_sub(domain.len() + 1)?;
    let (names, rest) = (host.get(..at)?, host.get(at..)?);
    if domain.is_empty() || !rest.starts_with('.') || !rest.get(1..)?.eq_ignore_ascii_case(domain) {
        return None;
    }
    let (endpoint, namespace) = names.split_once('.')?;
    if namespace.contains('.') {
        return None;
    }
    Some((endpoint.to_ascii_lowercase(), namespace.to_ascii_lowercase()))
}

fn by_path(path: &str) -> Result<Target, NoTarget> {
    let mut segments = path.splitn(4, '/').skip(1);
    let namespace = segments.next().unwrap_or_default();
    let endpoint = segments.next();
    for name in [Some(namespace), endpoint].into_iter().flatten() {
        if is_tricky(name) && path != "/" {
            return Err(NoTarget::Ambiguous);
        }
    }
    let endpoint = endpoint.unwrap_or_default();
    if !is_name(namespace) || !is_name(endpoint) {
        return Err(NoTarget::Unknown);
    }
    let prefix = namespace.len() + endpoint.len() + 2;
    Ok(Target { namespace: namespace.to_owned(), endpoint: endpoint.to_owned(), prefix })
}

/// The host without `:port`.
pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|it| it.is_ascii_digit()) => name,
        _ => host,
    }
}

/// What some reader of a path decodes, resolves or takes for a slash.
fn is_tricky(segment: &str) -> bool {
    segment.is_empty() || segment == "." || segment == ".." || segment.contains(['%', '\\', ';'])
}

/// A DNS label, as Kubernetes names namespaces and endpoints.
fn is_name(name: &str) -> bool {
    let inner = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `namespace/endpoint prefix`, or why not.
    fn check(host: &str, path: &str, expected: &str) {
        let found = match target("gpu.example.com", host, path) {
            Ok(it) => format!("{}/{} {}", it.namespace, it.endpoint, it.prefix),
            Err(NoTarget::Unknown) => "unknown".to_owned(),
            Err(NoTarget::Ambiguous) => "ambiguous".to_owned(),
        };
        assert_eq!(found, expected, "{host} {path}");
    }

    #[test]
    fn hosts() {
        check("chat.rp.gpu.example.com", "/", "rp/chat 0");
        check("chat.rp.gpu.example.com:8443", "/v1/models", "rp/chat 0");
        check("Chat.RP.GPU.example.COM.", "/", "rp/chat 0");
        check("Chat.RP.gpu.example.com.:80", "/a/b/c", "rp/chat 0");
        check("chat.rp.gpu.example.com", "/../x", "rp/chat 0");
        check("chat_.rp.gpu.example.com", "/", "unknown");
        check("-chat.rp.gpu.example.com", "/", "unknown");
        check(".rp.gpu.example.com", "/", "unknown");
        check("chat..gpu.example.com", "/a/b", "unknown");
        check(&format!("{}.rp.gpu.example.com", "a".repeat(64)), "/", "unknown");
        check("chat.rp.gpu.example.com", "*", "unknown");
    }

    #[test]
    fn other_hosts_leave_it_to_the_path() {
        for host in
            ["gpu.example.com", "10.0.0.1:80", "[::1]:80", "evilgpu.example.com", "a.b.c.gpu.example.com"]
        {
            check(host, "/rp/chat/v1/models", "rp/chat 8");
        }
        check("", "/rp/chat/", "rp/chat 8");
        check("chat.rp.gpu.example.com.evil", "/rp/chat", "rp/chat 8");
        check("é.gpu.example.com", "/rp/chat", "rp/chat 8");
    }

    #[test]
    fn paths() {
        check("h", "/", "unknown");
        check("h", "/rp", "unknown");
        check("h", "/rp/", "ambiguous");
        check("h", "/RP/chat/", "unknown");
        check("h", "/rp/chat-/", "unknown");
        check("h", "//chat/x", "ambiguous");
        check("h", "/rp//chat/x", "ambiguous");
        check("h", "/./rp/chat", "ambiguous");
        check("h", "/rp/../chat", "ambiguous");
        check("h", "/rp/%2e%2e/chat", "ambiguous");
        check("h", "/rp%2fchat/x", "ambiguous");
        check("h", "/rp\\chat/x", "ambiguous");
        check("h", "/rp/chat;a=b/x", "ambiguous");
        check("h", "/rp/chat/../../x", "rp/chat 8");
        check("h", "/rp/chat//x%2f", "rp/chat 8");
    }
}
