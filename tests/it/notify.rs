//! What owners are told, lived through on the real cluster with the time machine: each notice arrives once, by email and by a
//! signed webhook, also with the operator killed in between and the receiver away for a while.

#[path = "../../src/notify/tests/receivers.rs"]
#[allow(dead_code, reason = "what concerns TLS is used by the tests in the library")]
mod receivers;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::money::{DAY, Market, move_to, verify};
use crate::operator::Operator;
use crate::stories::POOL;
use crate::support::{field, k, kubectl, until, until_field};
use receivers::{Delivered, MailRules, MailServer, Receiver};

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NOTIFIED: &str = "range .status.conditions[?(@.type==\"Notified\")]}{.status} {.reason}{end";

/// What the example in the documentation says of a request.
fn verified(got: &Delivered, body: &[u8], timestamp: &str) -> bool {
    let header = |name: &str| got.headers.get(name).cloned().unwrap_or_default();
    let mut example = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/verify_webhook.py"))
        .args([KEY, &header("webhook-id"), timestamp, &header("webhook-signature")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("python3 is installed");
    example.stdin.take().expect("it is piped").write_all(body).expect("it reads");
    example.wait().expect("it ends").success()
}

/// Who is told.
struct Owner {
    mail: MailServer,
    receiver: Option<Receiver>,
    port: u16,
    /// Webhooks of receivers that are gone.
    earlier: Vec<Delivered>,
}

impl Owner {
    fn new() -> Owner {
        let receiver = Receiver::start(0, None);
        let port = receiver.port();
        Owner {
            mail: MailServer::start(MailRules::default()),
            receiver: Some(receiver),
            port,
            earlier: Vec::new(),
        }
    }

    /// The receiver goes away.
    fn leave(&mut self) {
        let receiver = self.receiver.take().expect("it is there");
        self.earlier.extend(receiver.got());
        drop(receiver);
        until("the receiver to be away", || match std::net::TcpStream::connect(("127.0.0.1", self.port)) {
            Ok(_) => Err("it listens".to_owned()),
            Err(_) => Ok(()),
        });
    }

    fn come_back(&mut self) {
        self.receiver = Some(Receiver::start(self.port, None));
    }

    /// All webhooks so far.
    fn got(&self) -> Vec<Delivered> {
        let now = self.receiver.iter().flat_map(Receiver::got);
        self.earlier.iter().cloned().chain(now).collect()
    }

    /// What was told, by id: `expiring 7`, `expired`. The same id says the same, however often it comes.
    fn told(&self) -> BTreeMap<String, String> {
        let mut told: BTreeMap<String, String> = BTreeMap::new();
        for it in self.got() {
            let event: Value = serde_json::from_slice(&it.body).expect("it is JSON");
            let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
            let kind = text("/type").replace("dev.tenure.notice.", "").replace(".v1", "");
            let what = match event.pointer("/data/days") {
                Some(days) => format!("{kind} {days}"),
                None => kind,
            };
            let id = text("/id").to_owned();
            assert_eq!(it.headers.get("webhook-id"), Some(&id));
            if let Some(before) = told.insert(id, what.clone()) {
                assert_eq!(before, what, "an id says one thing");
            }
        }
        told
    }

    /// Waits until this was told, and says how it was: the event.
    fn until_told(&self, what: &str) {
        until(&format!("the webhook `{what}`"), || {
            let told: BTreeSet<String> = self.told().into_values().collect();
            if told.contains(what) { Ok(()) } else { Err(format!("{told:?}")) }
        });
    }

    /// The subjects of all emails, by id.
    fn letters(&self) -> BTreeMap<String, String> {
        let header = |text: &str, name: &str| {
            let line = text.lines().find_map(|it| it.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        self.mail
            .got()
            .iter()
            .map(|it| (header(&it.text, "Message-ID:"), header(&it.text, "Subject:")))
            .collect()
    }

    /// Options of an operator that tells it.
    fn options(&self) -> Vec<String> {
        let smtp = format!("localhost:{}", self.mail.port());
        let words = [
            "--notify-allow",
            "127.0.0.0/8",
            "--smtp",
            &smtp,
            "--smtp-security",
            "none",
            "--smtp-from",
            "tenure@gpu.example",
        ];
        words.map(str::to_owned).to_vec()
    }
}

fn credit(market: &Market, limit: &str) {
    let patch = format!(r#"{{"spec": {{"creditLimit": "{limit}"}}}}"#);
    kubectl(&["patch", "account", &market.account, "--type", "merge", "-p", &patch]).expect("it is changed");
}

#[test]
fn each_notice_of_a_pools_life_arrives_once_whatever_happens_in_between() {
    let market = Market::new("told", 1);
    let (world, account) = (&market.world, format!("account/{}", market.account));
    let mut owner = Owner::new();
    k("-n tenure-system delete secret told-hook --ignore-not-found")
        .expect("an earlier run may have left it");
    k(&format!("-n tenure-system create secret generic told-hook --from-literal=key={KEY}"))
        .expect("it is made");
    let notify = format!(
        r#"{{"spec": {{"notify": [{{"email": "owners@told.example"}}, {{"webhook": {{"url": "http://127.0.0.1:{}/hook", "secretName": "told-hook"}}}}]}}}}"#,
        owner.port
    );
    kubectl(&["patch", "account", &market.account, "--type", "merge", "-p", &notify]).expect("it is told");
    let start = |owner: &Owner| -> Operator { market.operator_with(&owner.options()) };
    let operator = start(&owner);

    // There is no money for it. With credit there is, and when that is taken back the account owes.
    world.apply(&POOL.replace("term:", "autoRenew: {enabled: true}, term:"));
    owner.until_told("waits-for-money");
    credit(&market, "1000");
    world.ready("rp/chat");
    credit(&market, "0");
    owner.until_told("arrears-began");
    market.pay("wire", "840", "Cash");
    owner.until_told("arrears-ended");
    until_field(&account, NOTIFIED, "True Delivered");

    // Seven days before expiry; then the operator is killed, and the next one says nothing twice.
    let expires = market.time("rp/chat", ".status.expiresAt");
    move_to(&operator, expires - DAY * 7);
    owner.until_told("expiring 7");
    drop(operator);
    let operator = start(&owner);
    move_to(&operator, expires - DAY * 3);
    owner.until_told("expiring 3");

    // The receiver is away. The account says so and stays Ready; the operator is killed once more before it is back.
    owner.leave();
    move_to(&operator, expires - DAY);
    until_field(&account, NOTIFIED, "False Undelivered");
    assert_eq!(field(&account, ".status.conditions[?(@.type==\"Ready\")].status"), "True");
    until("an Event on the account", || {
        let events = k(&format!(
            "get events --field-selector involvedObject.name={},reason=Undelivered",
            market.account
        ))?;
        if events.contains("webhook:http://127.0.0.1") { Ok(()) } else { Err(events) }
    });
    drop(operator);
    owner.come_back();
    let operator = start(&owner);
    owner.until_told("expiring 1");
    owner.until_told("renewal-unpaid");
    until_field(&account, NOTIFIED, "True Delivered");

    move_to(&operator, expires);
    owner.until_told("expired");
    let releases = market.time("rp/chat", ".status.releasesAt");
    for days in [30, 7, 1] {
        move_to(&operator, releases - DAY * days);
        owner.until_told(&format!("releasing {days}"));
    }
    move_to(&operator, releases);
    owner.until_told("released");
    until("the pool to be gone", || k("-n told delete rp/chat --timeout=60s"));
    owner.until_told("refunded");
    until("all emails", || {
        let letters = owner.letters().len();
        if letters == owner.told().len() {
            Ok(())
        } else {
            Err(format!("{:?} {:?}", owner.letters(), owner.told()))
        }
    });
    let metrics = operator.get("/metrics").expect("it has metrics");
    for line in [
        "tenure_notices{state=\"waiting\"} 0",
        "tenure_contracts_expiring{days=\"7\",kind=\"ResidentPool\"} 0",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line} in {metrics}");
    }
    drop(operator);
    check(&owner);
    verify(&market.ledger);
    k("-n tenure-system delete secret told-hook").expect("it is there");
}

/// All that was told, each once, and all of it can be verified.
fn check(owner: &Owner) {
    let mut told: Vec<String> = owner.told().into_values().collect();
    told.sort();
    let expected = [
        "arrears-began",
        "arrears-ended",
        "expired",
        "expiring 1",
        "expiring 3",
        "expiring 7",
        "refunded",
        "released",
        "releasing 1",
        "releasing 30",
        "releasing 7",
        "renewal-unpaid",
        "waits-for-money",
    ];
    assert_eq!(told, expected);
    let mut subjects: Vec<String> = owner.letters().into_values().collect();
    subjects.sort();
    assert_eq!(subjects.iter().collect::<BTreeSet<_>>().len(), expected.len(), "{subjects:?}");
    let got = owner.got();
    for it in &got {
        let timestamp = it.headers.get("webhook-timestamp").cloned().unwrap_or_default();
        assert!(verified(it, &it.body, &timestamp), "{it:?}");
    }
    let first = got.first().expect("there is one");
    let timestamp = first.headers.get("webhook-timestamp").cloned().unwrap_or_default();
    let other = [&first.body[..], b" "].concat();
    assert!(!verified(first, &other, &timestamp), "another byte");
    let old = timestamp.parse::<i64>().expect("it is a number") - 301;
    assert!(!verified(first, &first.body, &old.to_string()), "an old one");
}
