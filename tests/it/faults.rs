//! What goes wrong between the operator and the API server: a proxy that kills the operator right after a write of its
//! choice, and one that holds watches back. Everything else is real.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, Response, StatusCode, header};
use futures::StreamExt;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::operator::{self, Operator, Start};
use crate::stories::{BOUND, GROUP, POOL, SPOT};
use crate::support::{field, k, until};
use crate::world::World;

/// Stands between an operator and the API server, with the operator's own rights.
struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

struct Shared {
    client: kube::Client,
    /// Writes that went through, Leases and Events apart.
    writes: AtomicUsize,
    /// Writes that were refused because somebody, or the operator itself, had been faster (409).
    conflicts: AtomicUsize,
    /// After which write which process is killed.
    kill: Mutex<Option<(usize, u32)>>,
    /// So many writes of nodes are refused as if somebody else had been faster.
    stale_nodes: AtomicUsize,
    /// Watches of which paths are held back.
    held: watch::Sender<Option<&'static str>>,
}

impl Proxy {
    fn start() -> Proxy {
        let kubeconfig = operator::kubeconfig();
        let runtime = Runtime::new().expect("a runtime starts");
        let (port, shared) = runtime.block_on(async {
            let config = kube::config::Kubeconfig::read_from(kubeconfig).expect("the kubeconfig is readable");
            let mut config =
                kube::Config::from_custom_kubeconfig(config, &kube::config::KubeConfigOptions::default())
                    .await
                    .expect("it is complete");
            config.default_retry = false;
            let client = kube::Client::try_from(config).expect("a client can be made of it");
            let shared = Arc::new(Shared {
                client,
                writes: AtomicUsize::new(0),
                conflicts: AtomicUsize::new(0),
                kill: Mutex::default(),
                stale_nodes: AtomicUsize::new(0),
                held: watch::Sender::new(None),
            });
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
            let port = listener.local_addr().expect("it is bound").port();
            let routes = axum::Router::new().fallback(forward).with_state(shared.clone());
            tokio::spawn(axum::serve(listener, routes).into_future());
            (port, shared)
        });
        Proxy { port, shared, _runtime: runtime }
    }

    /// A kubeconfig that leads through the proxy.
    fn kubeconfig(&self) -> PathBuf {
        let path = operator::scratch(&format!("proxy-{}.kubeconfig", self.port));
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: proxy, cluster: {{server: 'http://127.0.0.1:{}'}}}}]\nusers: [{{name: none, user: {{}}}}]\ncontexts: [{{name: proxy, context: {{cluster: proxy, user: none}}}}]\ncurrent-context: proxy\n",
            self.port
        );
        std::fs::write(&path, text).expect("it is written");
        path
    }

    fn operator(&self, story: &str) -> Operator {
        let operator = Operator::with(
            story,
            &Start { identity: story, kubeconfig: Some(self.kubeconfig()), ..Start::default() },
        );
        operator.leads();
        operator
    }

    fn hold(&self, watches: Option<&'static str>) {
        self.shared.held.send_replace(watches);
    }
}

async fn forward(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let is_watch = parts.uri.query().is_some_and(|it| it.contains("watch=true"));
    let counts = parts.method != Method::GET && !path.contains("/leases") && !path.contains("/events");
    let refused = |code: StatusCode, why: String| {
        Response::builder().status(code).body(Body::from(why)).expect("a plain answer")
    };
    let Ok(body) = axum::body::to_bytes(body, 16 << 20).await else {
        return refused(StatusCode::BAD_REQUEST, "body".to_owned());
    };

    let one_less = |it: usize| it.checked_sub(1);
    if parts.method == Method::PATCH
        && path.starts_with("/api/v1/nodes/")
        && shared.stale_nodes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
    {
        let conflict = r#"{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict", "message": "the object has been modified", "code": 409}"#;
        return refused(StatusCode::CONFLICT, conflict.to_owned());
    }

    let mut onward = axum::http::Request::builder()
        .method(parts.method)
        .uri(parts.uri.path_and_query().map_or("/", |it| it.as_str()));
    for (name, value) in &parts.headers {
        if ![header::HOST, header::AUTHORIZATION, header::CONNECTION, header::CONTENT_LENGTH].contains(name) {
            onward = onward.header(name, value);
        }
    }
    let Ok(onward) = onward.body(kube::client::Body::from(body.to_vec())) else {
        return refused(StatusCode::BAD_REQUEST, "request".to_owned());
    };
    let answer = match shared.client.send(onward).await {
        Ok(answer) => answer,
        Err(error) => return refused(StatusCode::BAD_GATEWAY, error.to_string()),
    };
    if counts && answer.status() == StatusCode::CONFLICT {
        shared.conflicts.fetch_add(1, Ordering::SeqCst);
    }
    if counts && answer.status().is_success() {
        let count = shared.writes.fetch_add(1, Ordering::SeqCst) + 1;
        let mut kill = shared.kill.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pid)) = kill.take_if(|(at, _)| *at == count) {
            // The write is done, and its writer never hears of it.
            Command::new("kill").args(["-KILL", &pid.to_string()]).status().expect("kill runs");
        }
    }
    let (head, body) = answer.into_parts();
    let mut back = Response::builder().status(head.status);
    for (name, value) in &head.headers {
        if ![header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH].contains(name) {
            back = back.header(name, value);
        }
    }
    let mut body = Body::new(body);
    if is_watch {
        let watches = shared.held.subscribe();
        let chunks = body.into_data_stream().then(move |chunk| {
            let (mut watches, path) = (watches.clone(), path.clone());
            async move {
                watches.wait_for(|it| it.is_none_or(|it| !path.ends_with(it))).await.ok();
                chunk
            }
        });
        body = Body::from_stream(chunks);
    }
    back.body(body).expect("an answer as it came")
}

/// An operator that is started again whenever it is gone.
struct Supervised {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// How often it was started again.
    again: Arc<AtomicUsize>,
}

impl Supervised {
    /// The first one is killed after this many writes from now.
    fn start(proxy: &Arc<Proxy>, story: &'static str, kill_after: usize) -> Supervised {
        let mut operator = proxy.operator(story);
        let at = proxy.shared.writes.load(Ordering::SeqCst) + kill_after;
        *proxy.shared.kill.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, operator.pid()));
        let (stop, again, proxy) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), proxy.clone());
        let (stopped, count) = (stop.clone(), again.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                if operator.is_gone() {
                    count.fetch_add(1, Ordering::SeqCst);
                    operator = proxy.operator(story);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Supervised { stop, thread: Some(thread), again }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A contract of each kind: 3 resident cards with 2 workers, a machine, a spot server.
fn contracts() -> String {
    let bound = BOUND.replace("instances: 4", "instances: 2");
    // Without a NetworkPolicy: it goes by its owner reference, later than the rest.
    let group = GROUP.replace("machineSets", "network: Open\n  machineSets");
    [small_pool(), bound, group, SPOT.to_owned()].join("---")
}

fn small_pool() -> String {
    POOL.replace("cards: 6", "cards: 3")
}

#[test]
fn an_operator_killed_between_any_two_writes_leaves_nothing_wrong() {
    let world = World::new("killed", 2);
    let proxy = Arc::new(Proxy::start());
    let mut at = 1;
    let billed = || field("account/killed", ".status.thisMonth").replace('.', "").parse::<i64>().ok();
    let before = billed_by_operator(&world, billed);
    // Until the whole life of all four contracts takes fewer writes than that.
    loop {
        let supervised = Supervised::start(&proxy, "killed", at);
        world.apply(&contracts());
        world.all_ready(&["rp/chat", "sep/bound", "dg/train", "spot/render"]);
        let sold = (world.shares(2, "resident"), world.shares(2, "dedicated"), world.shares(2, "spot"));
        assert_eq!(sold, (3, 8, 1), "killed after write {at}");
        assert_eq!(world.field("rp/chat", ".status.bought.cards"), "3", "killed after write {at}");
        assert_eq!(
            world.field("rp/chat", ".status.orders[*].price"),
            "420.00",
            "killed after write {at}: bought once"
        );
        world.until("sep/bound", ".status.ready", "2/2");
        assert_eq!(world.pods().len(), 3, "killed after write {at}: {:?}", world.pods());
        world.k("delete sep,spot,dg --all --timeout=60s");
        until("the pool to be free", || k("-n killed delete rp/chat --ignore-not-found --timeout=60s"));
        world.until_empty(2);
        // Each life of the pool cost its first day, 420.00 ÷ 28 to 31 × 1.2: charged once, and refunded once. And the machine by
        // the hour one hour, which had begun.
        let lives = i64::try_from(at).expect("few");
        let cost = [30, 31, 28, 29].map(|days| (first_day(42_000, days) + 200) * lives);
        until("the refund to be posted", || match billed() {
            Some(now) if cost.contains(&(now - before)) => Ok(()),
            now => Err(format!("{now:?} after {at} lives, none of {cost:?} more than {before}")),
        });
        let killed = supervised.again.load(Ordering::SeqCst) > 0;
        drop(supervised);
        if !killed {
            break;
        }
        at += 1;
    }
    assert!(at > 15, "killed after each of {at} writes");
}

/// What the first day of a month costs, in cents, for who leaves in it.
fn first_day(price: i64, days: i64) -> i64 {
    (price * 12 * 2 + 10 * days) / (2 * 10 * days)
}

#[test]
fn an_operator_killed_between_any_two_writes_charges_each_machine_once() {
    let world = World::new("killedgroup", 2);
    let proxy = Arc::new(Proxy::start());
    let mut at = 1;
    let billed = || field("account/killedgroup", ".status.thisMonth").replace('.', "").parse::<i64>().ok();
    let before = billed_by_operator(&world, billed);
    let sets = |renewals: &str| {
        let base = format!(
            "{{name: base, machineType: m8, count: 1, billing: Prepaid, term: {{months: 1}}{renewals}}}"
        );
        let mixed = format!("[{base}, {{name: burst, machineType: m8, count: 1, billing: Postpaid}}]");
        GROUP
            .replace("[{name: base, machineType: m8, count: 1, billing: Postpaid}]", &mixed)
            .replace("machineSets", "network: Open\n  machineSets")
    };
    // Until the whole life of the group takes fewer writes than that.
    loop {
        let supervised = Supervised::start(&proxy, "killedgroup", at);
        world.apply(&sets(""));
        world.ready("dg/train");
        world.apply(&sets(", renewals: [{months: 1}]"));
        let time = |path: &str| field("-n killedgroup dg/train", path).parse::<jiff::Timestamp>().ok();
        let made = time(".metadata.creationTimestamp").expect("it was made");
        until("the renewal", || match time(".status.machines[0].expiresAt") {
            Some(it) if it > made + jiff::SignedDuration::from_hours(24 * 40) => Ok(()),
            other => Err(format!("{other:?}, killed after write {at}")),
        });
        assert_eq!(world.shares(2, "dedicated"), 16, "killed after write {at}");
        until("the group to be free", || {
            k("-n killedgroup delete dg/train --ignore-not-found --timeout=60s")
        });
        world.until_empty(2);
        // Each life cost the first day of 1000.00 and an hour; the renewal, which had not begun, nothing.
        let lives = i64::try_from(at).expect("few");
        let cost = [30, 31, 28, 29].map(|days| (first_day(100_000, days) + 200) * lives);
        until("the refunds to be posted", || match billed() {
            Some(now) if cost.contains(&(now - before)) => Ok(()),
            now => Err(format!("{now:?} after {at} lives, none of {cost:?} more than {before}")),
        });
        let killed = supervised.again.load(Ordering::SeqCst) > 0;
        drop(supervised);
        if !killed {
            break;
        }
        at += 1;
    }
    assert!(at > 8, "killed after each of {at} writes");
}

/// What was billed before, in cents, once an operator has looked.
fn billed_by_operator(world: &World, billed: impl Fn() -> Option<i64>) -> i64 {
    let _operator = world.operator();
    until("the account's bill", || billed().ok_or_else(|| "none yet".to_owned()))
}

#[test]
fn nobody_is_refused_while_nodes_are_being_adopted() {
    let world = World::new("adopted", 3);
    // Orders that must fit at once, and that are there before the operator.
    world.apply(POOL);
    world.apply(GROUP);
    let proxy = Proxy::start();
    // A kubelet writes its node as it starts, so the operator's first writes are too late.
    proxy.shared.stale_nodes.store(7, Ordering::SeqCst);
    let _operator = proxy.operator("adopted");
    world.ready("rp/chat");
    world.ready("dg/train");
    assert_eq!(proxy.shared.stale_nodes.load(Ordering::SeqCst), 0, "all of them were tried");
    for object in ["rp/chat", "dg/train"] {
        assert_eq!(world.field(object, ".metadata.annotations.tenure\\.dev/refused"), "");
    }
    let refused = world.k("get events --field-selector reason=Refused -o name");
    assert_eq!(refused, "", "nobody was told otherwise");
}

#[test]
fn a_view_that_is_behind_doubles_nothing() {
    let world = World::new("stale", 2);
    let proxy = Proxy::start();
    let _operator = proxy.operator("stale");
    world.apply(&contracts());
    world.all_ready(&["rp/chat", "sep/bound", "dg/train", "spot/render"]);
    // It does not see the pods that it makes, and looks again and again.
    proxy.hold(Some("/pods"));
    world.patch("rp/chat", r#"{"spec": {"cards": 5}}"#);
    world.until("rp/chat", ".status.bought.cards", "5");
    world.patch("sep/bound", r#"{"spec": {"placement": {"residentPool": {"instances": 5}}}}"#);
    until("five workers", || match world.pods().iter().filter(|it| it.starts_with("bound-")).count() {
        5 => Ok(()),
        _ => Err(format!("{:?}", world.pods())),
    });
    for round in 0..3 {
        world.patch(
            "sep/bound",
            &format!(r#"{{"metadata": {{"annotations": {{"example.com/round": "{round}"}}}}}}"#),
        );
        world.patch(
            "rp/chat",
            &format!(r#"{{"metadata": {{"annotations": {{"example.com/round": "{round}"}}}}}}"#),
        );
    }
    // It waits for what it has created, and not for ever: then it acts on what it sees, and only the name keeps it from doubling.
    until("it to act on what it sees", || match proxy.shared.conflicts.load(Ordering::SeqCst) {
        0 => Err("no conflict yet".to_owned()),
        _ => Ok(()),
    });
    proxy.hold(None);
    world.until("sep/bound", ".status.ready", "5/5");
    assert_eq!(world.pods().iter().filter(|it| it.starts_with("bound-")).count(), 5, "{:?}", world.pods());

    // It does not see the nodes that it writes.
    proxy.hold(Some("/nodes"));
    world.patch("rp/chat", r#"{"spec": {"cards": 6}}"#);
    world.until("rp/chat", ".status.bought.cards", "6");
    world.apply(&small_pool().replace("name: chat", "name: more").replace("cards: 3", "cards: 1"));
    world.ready("rp/more");
    proxy.hold(None);
    world.ready("rp/chat");
    assert_eq!(
        (world.shares(2, "resident"), world.shares(2, "dedicated"), world.shares(2, "spot")),
        (7, 8, 1)
    );
    assert_eq!(field("cardtype/stale", ".status.cards.total"), "16");
}

#[test]
fn a_share_that_shrinks_while_pods_bind_to_it_sells_nothing_twice() {
    let world = World::new("race", 1);
    let _operator = world.operator();
    world.apply(
        r#"{"apiVersion": "tenure.dev/v1alpha1", "kind": "ServerlessEndpoint", "metadata": {"namespace": "@", "name": "llm"}, "spec": {
            "placement": {"serverless": {"cardType": "@", "region": "@"}}, "workers": {"active": 0, "max": 8, "gpus": 1, "concurrency": 8},
            "template": {"spec": {"containers": [{"name": "main", "image": "localhost/worker:1"}]}}}}"#,
    );
    let pool = small_pool().replace("cards: 3", "cards: 5").replace("term:", "onShortage: Wait, term:");
    for round in 0..4 {
        // Eight workers and a pool of five want the same eight cards at the same moment.
        std::thread::scope(|scope| {
            scope.spawn(|| world.k("scale sep/llm --replicas=8"));
            scope.spawn(|| world.apply(&pool));
        });
        until("all cards to be used", || {
            let workers = world.pods().iter().filter(|it| it.ends_with(":Running")).count();
            let resident = world.share(0, "resident") as usize;
            if workers + resident == 8 && (resident == 5 || resident == 0) {
                Ok(())
            } else {
                Err(format!("round {round}: {workers} workers, {resident} resident"))
            }
        });
        let bound = world.k("get pods -o jsonpath={.items[*].spec.nodeName}");
        assert!(bound.split_whitespace().count() <= 8, "more pods than cards: {bound}");
        world.k("scale sep/llm --replicas=0");
        world.ready("rp/chat");
        assert_eq!(world.share(0, "resident"), 5);
        until("the pool to be free", || k("-n race delete rp/chat --timeout=60s"));
        until("all cards to be shared", || {
            if world.share(0, "shared") == 8 { Ok(()) } else { Err(world.share(0, "shared").to_string()) }
        });
    }
}
