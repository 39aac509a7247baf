//! Stories of who may call an endpoint and what he sees of it: certificates and keys, and what becomes of requests when they
//! change. They play on the same stage as those in `gateway.rs`.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::caller::{Caller, Handshake, Load};
use crate::gateway::{SHARED, Scene, endpoint, kinds};
use crate::gateway_process::{DOMAIN, Gateway, tls_arguments};
use crate::operator::scratch;
use crate::support::{kubectl, until};

/// A Secret as the kubelet mounts it: names that point into a folder that another one replaces at once.
struct Mount {
    folder: PathBuf,
    versions: u32,
}

impl Mount {
    fn new(story: &str) -> Mount {
        let folder = scratch(&format!("{story}-mount"));
        std::fs::remove_dir_all(&folder).ok();
        std::fs::create_dir(&folder).expect("a folder can be made");
        for name in ["tls.crt", "tls.key"] {
            symlink(format!("..data/{name}"), folder.join(name)).expect("links can be made");
        }
        Mount { folder, versions: 0 }
    }

    fn put(&mut self, certificate: &Pair, key: &Pair) {
        self.versions += 1;
        let version = format!("..{}", self.versions);
        let folder = self.folder.join(&version);
        std::fs::create_dir(&folder).expect("a folder can be made");
        std::fs::copy(certificate.folder.join("tls.crt"), folder.join("tls.crt")).expect("a copy");
        std::fs::copy(key.folder.join("tls.key"), folder.join("tls.key")).expect("a copy");
        let next = self.folder.join("..next");
        symlink(&version, &next).expect("links can be made");
        std::fs::rename(next, self.folder.join("..data")).expect("a link can be replaced");
    }
}

/// A certificate for all endpoints of a namespace, and its key.
struct Pair {
    folder: PathBuf,
    certificate: CertificateDer<'static>,
}

impl Pair {
    fn make(story: &str, name: &str) -> Pair {
        let folder = scratch(&format!("{story}-{name}"));
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        let file = |name: &str| folder.join(name).display().to_string();
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", &format!("/CN={name}"), "-config", "/dev/null"])
            .args(["-addext", &format!("subjectAltName=DNS:*.{story}.{DOMAIN}")])
            .args(["-keyout", &file("tls.key"), "-out", &file("tls.crt")])
            .output()
            .expect("openssl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let certificate = CertificateDer::from_pem_file(folder.join("tls.crt")).expect("it is PEM");
        Pair { folder, certificate }
    }
}

/// Trusts these certificates, and offers these protocols.
fn trusting(pairs: [&Pair; 2], protocols: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for pair in pairs {
        roots.add(pair.certificate.clone()).expect("it is a certificate");
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("ring knows them");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    Arc::new(config)
}

fn gateway(scene: &Scene) -> &Gateway {
    scene.gateways[0].as_ref().expect("it runs")
}

/// Waits until new connections see this certificate.
fn until_seen(scene: &Scene, caller: &Caller, pair: &Pair) {
    until("the certificate to be seen", || match scene.runtime.block_on(caller.handshake())? {
        Handshake { certificate, .. } if certificate == pair.certificate.as_ref() => Ok(()),
        Handshake { protocol, .. } => Err(format!("another one, with {protocol}")),
    });
}

#[test]
fn clients_see_a_new_certificate_without_a_restart_and_lose_no_request() {
    let [old, new] = ["old", "new"].map(|it| Pair::make("gw-tls", it));
    let mut mount = Mount::new("gw-tls");
    mount.put(&old, &old);
    let Some(scene) = Scene::with("gw-tls", 1, &tls_arguments(0, &mount.folder)) else { return };
    scene.world.apply(&endpoint(SHARED, "{active: 2, max: 2, concurrency: 20}", 0));
    let workers = scene.until_ready(2);
    let run = &scene.runtime;
    let offering = |protocols: &[&str]| Caller {
        address: gateway(&scene).tls_address(),
        tls: Some(trusting([&old, &new], protocols)),
        ..scene.caller(0)
    };

    // What is spoken is what the client offers, HTTP/2 first.
    for (offered, protocol) in
        [(&["http/1.1", "h2"][..], "h2"), (&["h2"], "h2"), (&["http/1.1"], "http/1.1"), (&[], "")]
    {
        let caller = offering(offered);
        let seen = run.block_on(caller.handshake()).expect("a handshake");
        assert_eq!(seen, Handshake { protocol: protocol.to_owned(), certificate: old.certificate.to_vec() });
        assert_eq!(run.block_on(caller.get("/")).expect("an answer").what(), "200", "by {protocol}");
    }
    let (http1, http2) = (offering(&["http/1.1"]), offering(&["h2"]));
    let mut socket = run.block_on(http1.socket()).expect("a WebSocket");
    let mut grpc = run.block_on(http2.grpc()).expect("a gRPC call");
    let mut echo = |words: &str| {
        assert_eq!(run.block_on(socket.echo(words)).as_deref(), Ok(words));
        assert_eq!(run.block_on(grpc.echo(words)).as_deref(), Ok(words));
    };
    echo("before");
    let loads = [&http1, &http2].map(|it| Load::start(run, 3, it, "/slow?seconds=0.1"));
    let go_on = || loads.iter().for_each(|it| it.until_more("200", 10));
    go_on();

    mount.put(&new, &new);
    until_seen(&scene, &http2, &new);
    echo("over a connection that the old one was seen on");
    go_on();

    // A pair that does not fit together changes nothing, and is said.
    mount.put(&old, &new);
    until("the bad pair to be noticed", || match gateway(&scene).log() {
        log if log.contains("the new certificate is not good") => Ok(()),
        _ => Err("nothing in the log".to_owned()),
    });
    until_seen(&scene, &http1, &new);
    go_on();

    mount.put(&old, &old);
    until_seen(&scene, &http1, &old);
    echo("to the end");
    run.block_on(socket.close()).expect("the WebSocket ends as it should");
    assert_eq!(run.block_on(grpc.end()).as_deref(), Ok("0"));
    for tally in loads.map(|it| it.stop(run)) {
        assert_eq!(kinds(&tally), ["200"], "{tally:?}");
    }
    scene.until_open(&workers, 0);
}

/// Writes the Secret with the keys: pairs of a name and what stands there.
fn put_keys(scene: &Scene, keys: &[(&str, &str)]) {
    let entries: Vec<String> = keys.iter().map(|(name, value)| format!("  {name}: \"{value}\"\n")).collect();
    scene.world.apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{namespace: \"@\", name: keys}}\nstringData:\n{}",
        entries.concat()
    ));
}

/// SHA-256 of a key in hex, as a platform team would make it.
fn sha256(key: &str, folder: &Path) -> String {
    let file = folder.join("key");
    std::fs::write(&file, key).expect("a file");
    let output = Command::new("sha256sum").arg(&file).output().expect("sha256sum runs");
    std::fs::remove_file(&file).expect("the file was there");
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn who_has_a_key_may_call_as_often_as_it_says_and_as_long_as_it_is_there() {
    let folder = scratch("gw-keys");
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    let access = folder.join("access.log");
    std::fs::remove_file(&access).ok();
    let arguments = ["--access-log".to_owned(), access.display().to_string()];
    let Some(scene) = Scene::with("gw-keys", 1, &arguments) else { return };
    let hash = format!("sha256:{}", sha256("key-of-ci", &folder));
    let limited = format!("{hash} requestsPerSecond=1");
    put_keys(&scene, &[("alice", "key-of-alice"), ("steady", "key-of-steady"), ("ci", &limited)]);
    let guarded = endpoint(SHARED, "{active: 2, max: 2, concurrency: 20}", 0)
        .replace("  timeouts:", "  auth: {keysSecretName: keys}\n  timeouts:");
    scene.world.apply(&guarded);
    let workers = scene.until_ready(2);
    let run = &scene.runtime;
    let with = |key: &str| Caller { key: Some(key.to_owned()), ..scene.caller(0) };
    let what = |caller: &Caller| run.block_on(caller.get("/")).map(|it| it.what());

    // None, a wrong one, a hash in place of the key, and good ones.
    assert_eq!(what(&scene.caller(0)).as_deref(), Ok("401 bad-key"));
    for (key, expected) in [("key-of-bob", "401 bad-key"), (&hash, "401 bad-key"), ("key-of-alice", "200")] {
        assert_eq!(what(&with(key)).as_deref(), Ok(expected), "with {key}");
    }
    // The limited one runs dry, alone.
    let dry = until("the rate to be used up", || match run.block_on(with("key-of-ci").get("/"))? {
        answer if answer.what() == "429 key-rate" => Ok(answer),
        answer if answer.what() == "200" => Err(answer.what()),
        answer => panic!("{answer:?}"),
    });
    assert_eq!(dry.headers["retry-after"], "1", "{dry:?}");
    assert_eq!(what(&with("key-of-alice")).as_deref(), Ok("200"));
    // What the gateway keeps, of any key, is the hash.
    let kept = gateway(&scene).kept();
    for key in ["key-of-alice", "key-of-steady", "key-of-ci"] {
        assert!(kept.contains(&sha256(key, &folder)), "the hash of {key} in {kept}");
        assert!(!kept.contains(key) && !gateway(&scene).log().contains(key), "{key} itself");
    }

    // The Secret changes: a key goes, another comes, the limited one is free. Who is in is not thrown out.
    let mut socket = run.block_on(with("key-of-alice").socket()).expect("a WebSocket");
    let load = Load::start(run, 3, &with("key-of-steady"), "/slow?seconds=0.1");
    load.until_more("200", 10);
    put_keys(&scene, &[("bob", "key-of-bob"), ("steady", "key-of-steady"), ("ci", &hash)]);
    // Applying does not take entries of `stringData` away.
    kubectl(&[
        "-n",
        "gw-keys",
        "patch",
        "secret/keys",
        "--type",
        "merge",
        "-p",
        r#"{"data": {"alice": null}}"#,
    ])
    .unwrap_or_else(|it| panic!("patch: {it}"));
    for (key, expected) in [("key-of-alice", "401 bad-key"), ("key-of-bob", "200")] {
        until(&format!("{key} to get {expected}"), || match what(&with(key))? {
            found if found == expected => Ok(()),
            found => Err(found),
        });
    }
    assert_eq!(run.block_on(socket.echo("still here")).as_deref(), Ok("still here"));
    for _ in 0..5 {
        assert_eq!(what(&with("key-of-ci")).as_deref(), Ok("200"), "it has no rate any more");
    }

    // Without the Secret nobody is let in, and its endpoint says why; with it, as before.
    scene.world.k("delete secret keys");
    until("nobody to be let in", || match what(&with("key-of-bob"))? {
        found if found == "401 bad-key" => Ok(()),
        found => Err(found),
    });
    scene.world.not_ready("sep/llm", "KeysInvalid");
    load.until_more("401 bad-key", 3);
    assert_eq!(run.block_on(socket.echo("even now")).as_deref(), Ok("even now"));
    put_keys(&scene, &[("steady", "key-of-steady")]);
    load.until_more("200", 10);
    run.block_on(socket.close()).expect("the WebSocket ends as it should");
    let tally = load.stop(run);
    assert_eq!(kinds(&tally), ["200", "401 bad-key"], "{tally:?}");
    scene.until_open(&workers, 0);

    // All of it is written down, and no key.
    let written = until("the last request to be written down", || {
        let written = std::fs::read_to_string(&access).map_err(|it| it.to_string())?;
        let loaded = written.matches(r#""path":"/slow""#).count();
        if loaded == tally.values().sum::<usize>() { Ok(written) } else { Err(loaded.to_string()) }
    });
    for details in ["via_upstream", "bad-key", "key-rate"] {
        assert!(
            written.contains(&format!(r#""response_code_details":"{details}""#)),
            "{details} in {written}"
        );
    }
    assert!(!written.contains("key-of-") && !written.contains("seconds="), "{written}");
}
