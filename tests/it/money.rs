//! What pools cost, lived through on the real cluster with the time machine: terms, renewals, expiry, refunds, crashes.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::operator::{Operator, Start, scratch};
use crate::stories::{BOUND, POOL};
use crate::support::{field, k, must_apply, until, until_field};
use crate::world::World;

/// Who may move the clock.
const TOKEN: &str = "a token of the tests";

/// A world with a ledger of its own, and an account that pays in advance.
pub struct Market {
    pub world: World,
    /// Another one in each run: payments can't be deleted.
    pub account: String,
    pub ledger: PathBuf,
    token: PathBuf,
}

impl Market {
    pub fn new(name: &'static str, nodes: usize) -> Market {
        let world = World::new(name, nodes);
        let ledger = scratch(&format!("{name}-ledger.db"));
        for file in ["", "-wal", "-shm"] {
            std::fs::remove_file(format!("{}{file}", ledger.display())).ok();
        }
        let token = scratch("dev-clock-token");
        std::fs::write(&token, TOKEN).expect("the token is written");
        let account = format!("{name}-{}", std::process::id());
        must_apply(&format!(
            "apiVersion: tenure.dev/v1alpha1\nkind: Account\nmetadata: {{name: {account}}}\nspec: {{currency: EUR, mode: Prepaid}}"
        ));
        k(&format!("label namespace {name} --overwrite tenure.dev/account={account}"))
            .expect("it is labelled");
        Market { world, account, ledger, token }
    }

    /// An operator that leads, with a clock that can be moved.
    pub fn operator(&self) -> Operator {
        let arguments = vec!["--dev-clock".to_owned(), self.token.display().to_string()];
        let ledger = Some(self.ledger.clone());
        let operator = Operator::with(self.world.name, &Start { ledger, arguments, ..Start::default() });
        operator.leads();
        operator
    }

    /// Pays in.
    pub fn pay(&self, name: &str, amount: &str, kind: &str) {
        let account = &self.account;
        must_apply(&format!(
            "apiVersion: tenure.dev/v1alpha1\nkind: Payment\nmetadata: {{name: {account}-{name}}}\nspec: {{account: {account}, amount: \"{amount}\", kind: {kind}}}"
        ));
    }

    fn balance(&self) -> String {
        field(&format!("account/{}", self.account), ".status.balance")
    }

    /// Waits until the account has so much.
    pub fn until_balance(&self, balance: &str) {
        until_field(&format!("account/{}", self.account), ".status.balance", balance);
    }

    /// The time of a field of an object's status.
    pub fn time(&self, object: &str, path: &str) -> jiff::Timestamp {
        let text = self.world.field(object, path);
        text.parse().unwrap_or_else(|_| panic!("`{text}` of {path} is no time"))
    }
}

/// Moves the operator's clock.
pub fn move_to(operator: &Operator, then: jiff::Timestamp) {
    let answer = clock(operator, &["-X", "PUT", "--data", &then.to_string()], TOKEN);
    assert!(answer.contains(&then.strftime("%Y-%m-%dT%H:%M").to_string()), "{answer}");
}

fn clock(operator: &Operator, words: &[&str], token: &str) -> String {
    let url = format!("http://127.0.0.1:{}/dev/clock", operator.port);
    let header = format!("authorization: Bearer {token}");
    let output =
        Command::new("curl").args(["-sS", "-H", &header, &url]).args(words).output().expect("curl runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What the program says of a ledger.
pub fn verify(ledger: &Path) -> String {
    let url = format!("sqlite:{}", ledger.display());
    let output = Command::new(env!("CARGO_BIN_EXE_tenure"))
        .args(["ledger", "verify", "--ledger", &url])
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const DAY: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

#[test]
fn a_pool_is_paid_ages_expires_comes_back_and_is_refunded() {
    let market = Market::new("market", 2);
    let world = &market.world;
    let operator = market.operator();
    // 6 cards at 100 and 240 GB at 1: 840 a month. There is no money yet, so no card is locked.
    world.apply(POOL);
    let message = world.not_ready("rp/chat", "InsufficientFunds");
    let has = format!("initial costs 840.00 EUR and Account {} has 0.00 EUR", market.account);
    assert!(message.contains(&has), "{message}");
    assert!(message.contains("add a Payment of 840.00 EUR or more"), "{message}");
    assert_eq!(world.shares(2, "resident"), 0, "nothing is locked unpaid");

    // A voucher is used first.
    market.pay("voucher", "300", "Voucher");
    market.pay("wire", "2000", "Cash");
    world.ready("rp/chat");
    market.until_balance("1460.00");
    assert_eq!(
        world.field("rp/chat", ".status.paid"),
        r#"{"cash":"540.00","currency":"EUR","voucher":"300.00"}"#
    );
    assert_eq!(world.field("rp/chat", ".status.orders[*].order"), "Initial");
    until_field(&format!("account/{}", market.account), ".status.thisMonth", "840.00");
    let began = market.time("rp/chat", ".status.startedAt");
    let expires = market.time("rp/chat", ".status.expiresAt");
    world.apply(BOUND);
    world.until_running(&["bound-1", "bound-2", "bound-3", "bound-4"]);

    // The clock is moved by who has its token, and only forward.
    assert!(clock(&operator, &[], "another").contains("the token of --dev-clock is needed"));
    move_to(&operator, expires - DAY * 7);
    world.until("rp/chat", EXPIRING, "True Expiring");
    assert!(
        clock(&operator, &["-X", "PUT", "--data", &began.to_string()], TOKEN).contains("does not go back")
    );

    // Expired: its cards are lent to others, its instances end.
    move_to(&operator, expires);
    world.until("rp/chat", ".status.phase", "Expired");
    world.until("rp/chat", EXPIRING, "True Expired");
    world.until_running(&[]);
    world.until_shares(2, "resident", 0);
    world.not_ready("sep/bound", "PlacementNotReady");
    market.until_balance("1460.00");

    // A renewal brings it back, from its payment on.
    move_to(&operator, expires + DAY * 3);
    world.patch("rp/chat", r#"{"spec": {"renewals": [{"months": 1}]}}"#);
    world.until("rp/chat", ".status.phase", "Active");
    world.ready("rp/chat");
    world.ready("sep/bound");
    market.until_balance("620.00");
    assert_eq!(world.field("rp/chat", ".status.orders[*].order"), "Initial Manual");
    assert_eq!(world.field("rp/chat", ".status.renewalsBought"), "1");
    let renewed = market.time("rp/chat", ".status.orders[1].from");
    assert!(renewed >= expires + DAY * 3, "{renewed}");

    // Left in its first day: the day costs 1.2 day prices, the rest comes back once.
    world.k("delete sep bound");
    until("the pool to be free", || k("-n market delete rp/chat --timeout=60s"));
    let days = a_month_after(renewed).duration_since(renewed).as_hours() / 24;
    // 840.00 ÷ days × 1.2, to the nearest cent.
    let consumed_cents = (84_000 * 12 * 2 + 10 * days) / (2 * 10 * days);
    let left_cents = 62_000 + 84_000 - consumed_cents;
    market.until_balance(&format!("{}.{:02}", left_cents / 100, left_cents % 100));
    let again = market.balance();
    // A payment of a name counts once, whoever applies it again.
    k(&format!("delete payment {}-wire", market.account)).expect_err("a payment can't be deleted");
    drop(operator);
    let operator = market.operator();
    market.until_balance(&again);
    drop(operator);
    let report = verify(&market.ledger);
    assert!(report.contains("adds up"), "{report}");
}

const EXPIRING: &str = "range .status.conditions[?(@.type==\"ExpiringSoon\")]}{.status} {.reason}{end";

fn a_month_after(begin: jiff::Timestamp) -> jiff::Timestamp {
    let begin = begin.to_zoned(jiff::tz::TimeZone::UTC);
    begin.checked_add(jiff::Span::new().months(1)).expect("a month later is a time").timestamp()
}

#[test]
fn what_is_bought_is_renewed_while_more_is_refused_and_waits_for_its_cards_when_it_comes_back() {
    let market = Market::new("renewal", 1);
    let world = &market.world;
    let operator = market.operator();
    market.pay("wire", "10000", "Cash");
    world.apply(&POOL.replace("term:", "autoRenew: {enabled: true}, term:"));
    world.ready("rp/chat");
    market.until_balance("9160.00");
    let expires = market.time("rp/chat", ".status.expiresAt");

    // 30 cards are refused; the renewal comes all the same.
    world.patch("rp/chat", r#"{"spec": {"cards": 30}}"#);
    world.not_ready("rp/chat", "Refused");
    move_to(&operator, expires - DAY / 2);
    world.until("rp/chat", ".status.orders[*].order", "Initial Auto");
    market.until_balance("8320.00");
    let renewed = market.time("rp/chat", ".status.expiresAt");
    assert_eq!(
        market.time("rp/chat", ".status.orders[1].from"),
        expires,
        "it begins where the first one ends"
    );

    // 7 cards fit. 140 more a month, for all of it that is left: a little more than a month.
    world.patch("rp/chat", r#"{"spec": {"cards": 7, "autoRenew": {"enabled": false}}}"#);
    world.until("rp/chat", ".status.orders[*].order", "Initial Auto Expansion");
    world.ready("rp/chat");
    let price = world.field("rp/chat", ".status.orders[2].price");
    // Half a day costs 2.25 to 2.50, and moving the clock may have taken a moment of it.
    assert!(["142.", "141."].iter().any(|it| price.starts_with(it)), "{price}");

    // Expired, its cards go to another pool; a renewal waits for them unpaid, and is not refused.
    move_to(&operator, renewed);
    world.until("rp/chat", ".status.phase", "Expired");
    world.apply(&POOL.replace("name: chat", "name: later").replace("cards: 6", "cards: 5"));
    world.ready("rp/later");
    let before = market.balance();
    world.patch("rp/chat", r#"{"spec": {"renewals": [{"months": 1}]}}"#);
    let message = world.not_ready("rp/chat", "Shortage");
    assert!(message.contains("7 more renewal cards are needed and 3 are free"), "{message}");
    assert_eq!(market.balance(), before, "nothing is held for what waits");
    until("the other pool to be free", || k("-n renewal delete rp/later --timeout=60s"));
    world.ready("rp/chat");
    assert_eq!(world.field("rp/chat", ".status.orders[*].order"), "Initial Auto Expansion Manual");
    until("the pool to be free", || k("-n renewal delete rp/chat --timeout=60s"));
    drop(operator);
    verify(&market.ledger);
}
