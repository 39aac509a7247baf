//! The operator's read API on the real cluster, as `kubectl tenure` asks it: who may, what a quote says before and the bill after, and
//! exports that are read back.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use parquet::file::reader::{FileReader, SerializedFileReader};
use rust_decimal::Decimal;
use serde_json::Value;

use crate::money::{Market, move_to};
use crate::operator::{Operator, read_address, scratch};
use crate::stories::{BOUND, ELASTIC, POOL};
use crate::support::{k, must_apply, until};

/// `kubectl tenure`, as a ServiceAccount of the world's namespace asks.
struct Caller<'a> {
    market: &'a Market,
    url: String,
}

impl Caller<'_> {
    fn new<'a>(market: &'a Market, operator: &Operator) -> Caller<'a> {
        Caller { market, url: format!("http://{}", read_address(operator.port)) }
    }

    fn ask(&self, account: &str, words: &[&str]) -> Result<String, String> {
        let who = format!("{}/{account}", self.market.world.name);
        let output = Command::new(env!("CARGO_BIN_EXE_kubectl-tenure"))
            .args(words)
            .args(["--server", &self.url, "--service-account", &who])
            .output()
            .expect("the plugin runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn json(&self, account: &str, words: &[&str]) -> Value {
        let text = self.ask(account, words).unwrap_or_else(|it| panic!("{words:?}: {it}"));
        serde_json::from_str(&text).unwrap_or_else(|it| panic!("{words:?}: {it}: {text}"))
    }

    /// The status of a request with this header, without the plugin.
    fn status(&self, header: &str, path: &str) -> String {
        let url = format!("{}{path}", self.url);
        let output = Command::new("curl")
            .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H", header, &url])
            .output()
            .expect("curl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// ServiceAccounts `auditor`, who may read this account and export it, `buyer`, who may buy here, and `nobody`.
fn rights(market: &Market) {
    let (name, account) = (market.world.name, &market.account);
    let binding = |role: &str, who: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: {role}}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {role}}}\n\
             subjects: [{{kind: ServiceAccount, namespace: {name}, name: {who}}}]\n---\n"
        )
    };
    let role = |role: &str, rules: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: {role}}}\nrules: [{rules}]\n---\n"
        )
    };
    let mut yaml = String::new();
    for who in ["auditor", "buyer", "nobody"] {
        let meta = format!("metadata: {{namespace: {name}, name: {who}}}");
        yaml += "apiVersion: v1\nkind: ServiceAccount\n";
        yaml += &meta;
        yaml += "\n---\n";
    }
    let auditor = format!(
        "{{apiGroups: [tenure.dev], resources: [accounts/bill, accounts/ledger], resourceNames: [{account}], verbs: [get]}}"
    );
    let buyer = "{apiGroups: [tenure.dev], resources: [residentpools, serverlessendpoints], verbs: [create]}";
    for (what, rules, who) in [("auditor", auditor.as_str(), "auditor"), ("buyer", buyer, "buyer")] {
        let of = format!("{name}-{what}");
        yaml += &role(&of, rules);
        yaml += &binding(&of, who);
    }
    must_apply(&yaml);
}

/// A file of CSV: rows by the names of their columns.
fn csv_rows(path: &Path) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_path(path).expect("it is there");
    reader.deserialize().collect::<Result<_, _>>().expect("it is CSV")
}

fn sum(
    rows: &[BTreeMap<String, String>],
    column: &str,
    of: impl Fn(&BTreeMap<String, String>) -> bool,
) -> Decimal {
    let amounts = rows.iter().filter(|it| of(it)).map(|it| &it[column]).filter(|it| !it.is_empty());
    amounts.map(|it| it.parse::<Decimal>().expect("a number")).sum()
}

#[test]
fn who_may_ask_reads_what_it_will_cost_and_what_it_did() {
    let market = Market::new("read-api", 2);
    let world = &market.world;
    let operator = market.operator();
    let caller = Caller::new(&market, &operator);
    rights(&market);
    market.pay("wire", "5000", "Cash");
    market.pay("voucher", "300", "Voucher");
    market.until_balance("5300.00");
    let account = market.account.as_str();
    let bill = ["bill", "--account", account, "-o", "json"];

    // Without a token, with one that nobody made, with one of somebody who may not.
    let path = format!("/v1/accounts/{account}/bill");
    assert_eq!(caller.status("x-nothing: 1", &path), "401");
    assert_eq!(caller.status("authorization: Bearer not-a-token", &path), "401");
    let refused = caller.ask("nobody", &bill).unwrap_err();
    assert!(refused.contains("403") && refused.contains("may not get accounts/bill"), "{refused}");
    let refused = caller.ask("buyer", &bill).unwrap_err();
    assert!(refused.contains("403"), "{refused}");
    let refused = caller.ask("auditor", &["bill", "--account", "another"]).unwrap_err();
    assert!(refused.contains("may not get accounts/bill of API group tenure.dev, another"), "{refused}");
    // All accounts are more than one.
    let refused = caller.ask("auditor", &["ledger", "verify"]).unwrap_err();
    assert!(
        refused.contains("may not get accounts/ledger of API group tenure.dev, all of them"),
        "{refused}"
    );

    // What it costs, before it is applied; what is wrong with it, instead.
    let manifest = |name: &str, text: &str| {
        let path = scratch(&format!("read-api-{name}.yaml"));
        std::fs::write(&path, text.replace('@', world.name)).expect("it is written");
        path.display().to_string()
    };
    let pool = POOL.replace("term: {months: 1}", "term: {months: 2}, renewals: [{months: 1}]");
    let both = manifest("both", &format!("{pool}\n---\n{ELASTIC}"));
    let refused = caller.ask("auditor", &["quote", "-f", &both]).unwrap_err();
    assert!(refused.contains("may not create residentpools"), "{refused}");
    let quote = caller.json("buyer", &["quote", "-f", &both, "-o", "json"]);
    // 840 a month: two of them, and one more.
    assert_eq!(quote["total"], "2520.00", "{quote}");
    assert_eq!(quote["documents"][0]["orders"][0]["price"], "1680.00");
    assert_eq!(quote["documents"][1]["rates"][0]["price"], "0.01");
    let wrong = manifest("wrong", &pool.replace("diskPerCardGB: 40", "diskPerCardGB: 45"));
    let refused = caller.ask("buyer", &["quote", "-f", &wrong]).unwrap_err();
    assert!(
        refused.contains("can't be applied") && refused.contains("10, 20, 30, 40, 50 or 60"),
        "{refused}"
    );

    world.apply(&pool);
    world.ready("rp/chat");
    let billed = caller.json("auditor", &bill);
    assert_eq!(billed["totals"][0]["amount"], quote["total"], "{billed}");
    assert_eq!(billed["totals"][0]["voucher"], "300.00");
    let lines = billed["lines"].as_array().expect("it has lines");
    let words =
        |it: &Value| format!("{} {} {}", it["purpose"], it["quantity"], it["amount"]).replace('"', "");
    assert_eq!(
        lines.iter().map(words).collect::<Vec<_>>(),
        ["initial 2 1680.00", "renewal/manual/0 1 840.00"]
    );
    // Bought as it is: there is nothing more to pay.
    let again = caller.json("buyer", &["quote", "-f", &manifest("again", &pool), "-o", "json"]);
    assert_eq!(again["total"], "0.00", "{again}");
    let more = caller.json(
        "buyer",
        &["quote", "-f", &manifest("more", &pool.replace("cards: 6", "cards: 7")), "-o", "json"],
    );
    assert!(
        more["documents"][0]["orders"][0]["order"].as_str().expect("an order").starts_with("expand/7 cards"),
        "{more}"
    );

    // Four of six cards run for what is left of the day, and all of the next.
    world.apply(BOUND);
    world.apply(ELASTIC);
    world.all_ready(&["sep/bound", "sep/llm"]);
    let began: jiff::Timestamp = world.field("rp/chat", ".status.startedAt").parse().expect("a time");
    let midnight = began.to_zoned(jiff::tz::TimeZone::UTC).date().tomorrow().expect("a day");
    let midnight = midnight.to_zoned(jiff::tz::TimeZone::UTC).expect("a time").timestamp();
    let hours = jiff::SignedDuration::from_hours;
    exported_when(&market, &operator, &caller, midnight + hours(1), 1);
    exported_when(&market, &operator, &caller, midnight + hours(25), 2);

    // Left: what came back is less, and the rest of the price is borne by the day of leaving.
    world.k("delete sep bound llm");
    until("the pool to be free", || k("-n read-api delete rp/chat --timeout=60s"));
    let rows = exported_when(&market, &operator, &caller, midnight + hours(49), 3);
    let is_purchase = |it: &BTreeMap<String, String>| it["ChargeCategory"] == "Purchase";
    let is_borne = |it: &BTreeMap<String, String>| {
        it["ChargeCategory"] == "Usage" && !it["CommitmentDiscountId"].is_empty()
    };
    assert_eq!(rows.iter().filter(|it| is_purchase(it)).count(), 4, "two orders and their refunds");
    assert_eq!(sum(&rows, "EffectiveCost", is_borne), sum(&rows, "BilledCost", is_purchase));
    let used = |it: &BTreeMap<String, String>| it["CommitmentDiscountStatus"] == "Used";
    let unused = |it: &BTreeMap<String, String>| it["CommitmentDiscountStatus"] == "Unused";
    assert_eq!(sum(&rows, "ConsumedQuantity", used), sum(&rows, "CommitmentDiscountQuantity", used));
    // A whole day: 96 of 144 card-hours.
    assert!(rows.iter().any(|it| used(it) && it["ConsumedQuantity"] == "96.0"), "{rows:?}");
    assert!(rows.iter().any(|it| unused(it) && it["CommitmentDiscountQuantity"] == "48.0"), "{rows:?}");
    drop(operator);
    k("delete clusterrolebinding,clusterrole read-api-auditor read-api-buyer").expect("they are deleted");
}

/// Moves the clock, waits until so many days of the pool are told, and reads both files back: what is in them is the bill.
fn exported_when(
    market: &Market,
    operator: &Operator,
    caller: &Caller<'_>,
    then: jiff::Timestamp,
    days: usize,
) -> Vec<BTreeMap<String, String>> {
    move_to(operator, then);
    let account = market.account.as_str();
    let file = |name: &str| scratch(&format!("read-api-{name}"));
    let export = |format: &str| {
        let path = file(&format!("all.{format}"));
        let text = path.display().to_string();
        let words = ["ledger", "export", "--focus", "--format", format, "-o", &text, "--account", account];
        caller.ask("auditor", &words).map(|_| path)
    };
    let rows = until(&format!("{days} days to be told"), || {
        let rows = csv_rows(&export("csv")?);
        let told: std::collections::BTreeSet<_> = rows
            .iter()
            .filter(|it| !it["CommitmentDiscountStatus"].is_empty())
            .map(|it| it["ChargePeriodStart"][..10].to_owned())
            .collect();
        if told.len() == days { Ok(rows) } else { Err(format!("{told:?}")) }
    });
    let path = export("parquet").unwrap_or_else(|it| panic!("{it}"));
    let reader = SerializedFileReader::new(File::open(path).expect("it is there")).expect("it is Parquet");
    assert_eq!(reader.metadata().file_metadata().num_rows(), i64::try_from(rows.len()).expect("few"));
    let commitments = csv_rows(&file("all-contract-commitment.csv"));
    assert_eq!(commitments.len(), 2, "the term and its renewal");
    let cost = commitments.iter().map(|it| it["ContractCommitmentCost"].clone()).collect::<Vec<_>>();
    assert_eq!(cost, ["1680.00", "840.00"]);
    // All months together are what was billed.
    let mut billed = Decimal::ZERO;
    let months: std::collections::BTreeSet<_> =
        rows.iter().map(|it| it["BillingPeriodStart"][..7].to_owned()).collect();
    for month in months {
        let bill = caller.json("auditor", &["bill", "--account", account, "--month", &month, "-o", "json"]);
        for total in bill["totals"].as_array().expect("it has totals") {
            billed += total["amount"].as_str().expect("a text").parse::<Decimal>().expect("a number");
        }
    }
    assert_eq!(sum(&rows, "BilledCost", |_| true), billed);
    rows
}
