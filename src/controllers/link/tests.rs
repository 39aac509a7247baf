//! Lines to gateways that live in this process.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::*;
use crate::domain::autoscale::Rules;
use crate::link::message::{Demand, Limit, Probe, Serving};

/// Opens lines to the test.
struct Fake(mpsc::UnboundedSender<DuplexStream>);

impl Dial for Fake {
    async fn dial(&self, _: &str) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        self.0.send(theirs).map_err(|_| io::Error::other("the test is over"))?;
        Ok(ours)
    }
}

struct World {
    link: Arc<Link>,
    looks: Arc<Mutex<Vec<(EndpointKey, Look)>>>,
    stop: CancellationToken,
}

impl World {
    /// A leader with `gateways` addresses and these endpoints.
    fn new(gateways: u8, endpoints: u32) -> World {
        let now = || Timestamp::from_second(1_000).unwrap();
        let link = Arc::new(Link::new(vec!["gw:9".to_owned()], now, &Registry::new()).unwrap());
        link.with(|state, _| state.addresses = (1..=gateways).map(address).collect());
        link.lead();
        link.put((0..endpoints).map(|it| (key(it), Some(route(it)))).collect());
        let world = World { link, looks: Arc::default(), stop: CancellationToken::new() };
        let (link, stop) = (world.link.clone(), world.stop.clone());
        tokio::spawn(async move { keep_owners_of(&link, &stop).await });
        world
    }

    /// Keeps the line to a gateway, which says hello and what it owns.
    async fn connect(&self, number: u8, owns: Vec<Demand>) -> Gateway {
        let (sender, opened) = mpsc::unbounded_channel();
        let (link, stop, looks) = (self.link.clone(), self.stop.clone(), self.looks.clone());
        let on_look: OnLook = Arc::new(move |endpoint: &EndpointKey, look| {
            looks.lock().unwrap().push((endpoint.clone(), look));
        });
        tokio::spawn(async move { keep_line(&link, &Fake(sender), address(number), &on_look, &stop).await });
        let mut gateway = Gateway::open(opened).await;
        let replica = format!("g{number}");
        gateway.say(&FromGateway::Hello { replica, epoch_seen: 7 }).await;
        gateway.say(&FromGateway::Demand(owns)).await;
        gateway
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Gateway {
    from: ReadHalf<DuplexStream>,
    to: WriteHalf<DuplexStream>,
    opened: mpsc::UnboundedReceiver<DuplexStream>,
}

impl Gateway {
    /// Takes the next line that is opened.
    async fn open(mut opened: mpsc::UnboundedReceiver<DuplexStream>) -> Gateway {
        let (mut from, to) = tokio::io::split(opened.recv().await.unwrap());
        let greeting = frame::read::<Greeting>(&mut from).await.unwrap();
        assert_eq!(greeting, Some(Greeting::Leader { since_ms: 1_000_000 }));
        Gateway { from, to, opened }
    }

    async fn say(&mut self, message: &FromGateway) {
        frame::write(&mut self.to, message).await.unwrap();
    }

    /// The next message that is no ping; meanwhile it says every second that it is alive.
    async fn hear(&mut self) -> ToGateway {
        loop {
            let alive = async {
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    frame::write(&mut self.to, &FromGateway::Demand(vec![])).await.unwrap();
                }
            };
            let message = tokio::select! {
                message = frame::read(&mut self.from) => message.unwrap().expect("the line is up"),
                () = alive => unreachable!("it is alive for ever"),
            };
            if message != ToGateway::Ping {
                return message;
            }
        }
    }

    async fn snapshot(&mut self) -> Table {
        match self.hear().await {
            ToGateway::Snapshot(table) => table,
            other => panic!("{other:?} instead of a snapshot"),
        }
    }

    async fn delta(&mut self) -> (Vec<Route>, Vec<EndpointKey>) {
        match self.hear().await {
            ToGateway::Delta { changed, removed, .. } => (changed, removed),
            other => panic!("{other:?} instead of a delta"),
        }
    }
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 9))
}

fn key(number: u32) -> EndpointKey {
    EndpointKey { namespace: "a".to_owned(), name: format!("e{number}") }
}

fn route(number: u32) -> Route {
    Route {
        endpoint: key(number),
        owner: String::new(),
        epoch: 0,
        serving: Serving::Yes,
        concurrency: 1,
        limit: Limit::Queue { depth: 9 },
        queue_timeout_ms: 1,
        first_byte_timeout_ms: 1,
        idle_timeout_ms: 1,
        total_timeout_ms: 0,
        drain_ms: 1,
        keys: None,
        probe: Probe::Connect,
        workers: vec![],
    }
}

fn demand(number: u32, epoch: u64, queued: u32) -> Demand {
    Demand { endpoint: key(number), epoch, in_flight: 0, queued, served: 0, workers: vec![] }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_gets_all_routes_once_and_then_what_changes() {
    let world = World::new(1, 2);
    let mut gateway = world.connect(1, vec![]).await;
    let table = gateway.snapshot().await;
    assert_eq!(table.replicas, [("g1".to_owned(), "10.0.0.1:9".to_owned())].into());
    assert_eq!(table.routes.iter().map(|it| it.owner.as_str()).collect::<Vec<_>>(), ["g1", "g1"]);
    assert!(table.routes.iter().all(|it| it.epoch > 1_000_000), "above the milliseconds of now");

    world.link.put(vec![(key(0), Some(route(0)))]);
    let changed = Route { serving: Serving::Stopped, ..route(1) };
    world.link.put(vec![(key(1), Some(changed)), (key(0), None)]);
    let (changed, removed) = gateway.delta().await;
    assert_eq!(
        changed.iter().map(|it| (it.serving, it.owner.as_str())).collect::<Vec<_>>(),
        [(Serving::Stopped, "g1")]
    );
    assert_eq!(changed[0].epoch, table.routes[1].epoch, "the owner is as before");
    assert_eq!(removed, [key(0)]);
}

#[tokio::test(start_paused = true)]
async fn demand_reaches_the_autoscaler_and_a_wake_the_allocator() {
    let world = World::new(1, 2);
    let rules = Rules { active: 0, max: 4, spare: 0, concurrency: 1, idle_ms: 1_000, delay_ms: 1_000 };
    assert_eq!(world.link.scale.decide(&key(0), rules, 0).wanted, 0);
    let mut gateway = world.connect(1, vec![]).await;
    let epoch = gateway.snapshot().await.routes[0].epoch;
    gateway.say(&FromGateway::Demand(vec![demand(0, epoch, 3), demand(1, epoch - 9, 3)])).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(*world.looks.lock().unwrap(), [(key(0), Look::Cards)], "not of an epoch that is over");
    assert_eq!(world.link.scale.decide(&key(0), rules, 0).wanted, 3);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_leaves_is_followed_at_once_with_a_higher_epoch() {
    let world = World::new(2, 20);
    let mut first = world.connect(1, vec![]).await;
    let mut second = world.connect(2, vec![]).await;
    let table = first.snapshot().await;
    assert_eq!(second.snapshot().await.routes, table.routes);
    let of_first: Vec<&Route> = table.routes.iter().filter(|it| it.owner == "g1").collect();
    assert!((1..20).contains(&of_first.len()), "both own some");
    let before = Instant::now();
    first.say(&FromGateway::Leaving).await;
    let (changed, _) = second.delta().await;
    assert!(before.elapsed() < Duration::from_millis(5));
    assert_eq!(changed.len(), of_first.len());
    let highest = table.routes.iter().map(|it| it.epoch).max().unwrap();
    assert!(changed.iter().all(|it| it.owner == "g2" && it.epoch > highest));
    assert_eq!(first.delta().await.0.len(), of_first.len(), "it hears it too");
}

#[tokio::test(start_paused = true)]
async fn a_silent_gateway_loses_its_endpoints_after_five_seconds_and_comes_back() {
    let world = World::new(2, 20);
    let mut first = world.connect(1, vec![]).await;
    let mut second = world.connect(2, vec![]).await;
    let table = second.snapshot().await;
    first.snapshot().await;
    let before = Instant::now();
    let (changed, _) = second.delta().await;
    assert!((5_000..5_400).contains(&before.elapsed().as_millis()), "{:?}", before.elapsed());
    assert!(changed.iter().all(|it| it.owner == "g2"));
    assert_eq!(changed.len(), table.routes.iter().filter(|it| it.owner == "g1").count());

    // Its line was given up, and is opened again.
    first = Gateway::open(first.opened).await;
    first.say(&FromGateway::Hello { replica: "g1".to_owned(), epoch_seen: 7 }).await;
    let again = first.snapshot().await;
    assert!(again.routes.iter().all(|it| it.owner == "g2"), "owners stay");
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_down_for_less_than_five_seconds_costs_nothing() {
    let world = World::new(1, 1);
    let mut gateway = world.connect(1, vec![]).await;
    let before = gateway.snapshot().await;
    let Gateway { from, to, opened } = gateway;
    drop((from, to));
    let mut gateway = Gateway::open(opened).await;
    gateway.say(&FromGateway::Hello { replica: "g1".to_owned(), epoch_seen: 7 }).await;
    assert_eq!(gateway.snapshot().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_leaves_endpoints_with_those_who_own_them() {
    let world = World::new(2, 4);
    let owned: Vec<Demand> = (0..4).map(|it| demand(it, 900, 0)).collect();
    let mut first = world.connect(1, owned).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let heard = AtomicBool::new(false);
    tokio::select! {
        _ = first.hear() => heard.store(true, Ordering::Relaxed),
        () = tokio::time::sleep(Duration::from_millis(100)) => (),
    }
    assert!(!heard.load(Ordering::Relaxed), "the other gateway has not said yet what it owns");
    let mut second = world.connect(2, vec![]).await;
    let table = second.snapshot().await;
    assert!(table.routes.iter().all(|it| it.owner == "g1" && it.epoch == 900));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_speaks_out_of_turn_is_hung_up_on() {
    let world = World::new(1, 1);
    let mut gateway = world.connect(1, vec![]).await;
    gateway.snapshot().await;
    gateway.say(&FromGateway::Hello { replica: "g1".to_owned(), epoch_seen: 7 }).await;
    loop {
        match frame::read::<ToGateway>(&mut gateway.from).await.unwrap() {
            Some(ToGateway::Ping) => (),
            Some(other) => panic!("{other:?} instead of the end"),
            None => return,
        }
    }
}
