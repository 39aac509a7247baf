//! What must hold on every engine. Each case gets the address of an empty database. Also compiled into `tests/it`, so it uses
//! only what is public.

use std::collections::BTreeMap;
use std::str::FromStr;

use sqlx::any::AnyConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions};

use super::{
    At, ChargeIn, Contract, Done, Error, Interval, Ledger, LineKind, LineOrder, OrderIn, OrderState,
    PaymentIn, RefundIn,
};

#[path = "metered.rs"]
mod metered;
pub use metered::*;

#[path = "outbox.rs"]
mod outbox;
pub use outbox::*;

/// Hands the names of all cases to a macro that makes tests of them.
macro_rules! for_each_case {
    ($with:ident) => {
        $with! {
            the_pool_of_the_contract_is_bought_and_left
            several_orders_are_held_and_posted_whole
            arrears_begin_with_the_row_that_brought_them
            vouchers_pay_first
            a_voided_order_is_tried_again
            what_is_held_is_not_spent_twice
            nothing_below_the_least
            a_free_order_leaves_a_row
            a_repeat_is_a_no_op
            many_at_once_charge_once
            an_older_epoch_is_fenced
            contracts_are_minted_once_and_adopted
            contracts_close_once
            usage_is_charged_in_batches
            an_id_stands_for_one_thing
            what_can_not_be_is_refused
            nothing_wraps
            bills_add_up
            rows_stay_as_they_are
            tampering_is_found_and_named
            a_newer_ledger_is_left_alone
            the_chain_is_the_same_everywhere
            spans_begin_end_and_are_billed
            usage_is_billed_whole
            spans_only_move_forward
            spans_that_do_not_add_up_are_found
            a_ledger_of_version_1_is_taken_over
            a_notice_is_kept_once_and_delivered_once
            old_notices_are_forgotten_but_not_those_that_are_looked_for
            who_only_reads_sees_one_state_and_writes_nothing
            who_only_reads_makes_no_tables
            arrears_begin_once_and_end_once
        }
    };
}

pub fn at(ms: i64) -> At {
    At { ms, epoch: 1 }
}

pub fn cash(name: &str, amount: i64) -> PaymentIn {
    PaymentIn {
        name: name.to_owned(),
        account: "acme".to_owned(),
        currency: "CNY".to_owned(),
        amount,
        voucher: false,
        reference: format!("wire {name}"),
    }
}

pub fn voucher(name: &str, amount: i64) -> PaymentIn {
    PaymentIn { voucher: true, ..cash(name, amount) }
}

/// An order that may use what is there.
pub fn order(id: &str, price: i64) -> OrderIn {
    OrderIn {
        id: id.to_owned(),
        contract: "c1".to_owned(),
        account: "acme".to_owned(),
        currency: "CNY".to_owned(),
        price,
        least: Some(0),
        accrued: 0,
        detail: format!(r#"{{"order":"{id}"}}"#),
    }
}

pub fn charge(id: &str, amount: i64) -> ChargeIn {
    ChargeIn {
        id: id.to_owned(),
        contract: "c1".to_owned(),
        account: "acme".to_owned(),
        currency: "CNY".to_owned(),
        amount,
        detail: r#"{"seconds":60}"#.to_owned(),
    }
}

pub fn refund(id: &str, amount: i64, close: bool) -> RefundIn {
    RefundIn {
        id: id.to_owned(),
        contract: "c1".to_owned(),
        account: "acme".to_owned(),
        currency: "CNY".to_owned(),
        amount,
        detail: r#"{"days":10}"#.to_owned(),
        close,
    }
}

/// A ledger with contract `c1`.
pub async fn open(url: &str) -> Ledger {
    let ledger = Ledger::open(url).await.unwrap();
    ledger.open_contract(at(1), "c1", "ResidentPool/team-a/chat", "uid-1").await.unwrap();
    ledger
}

/// Cash posted and held, voucher posted and held.
async fn has(ledger: &Ledger) -> (i64, i64, i64, i64) {
    let it = ledger.balance("acme", "CNY").await.unwrap();
    (it.cash.posted, it.cash.held, it.voucher.posted, it.voucher.held)
}

/// Runs SQL that no Tenure would run.
async fn sql(url: &str, text: &str) -> Result<(), sqlx::Error> {
    let address = if url.starts_with("sqlite:") { format!("{url}?mode=rw") } else { url.to_owned() };
    let mut connection = AnyConnectOptions::from_str(&address)?.connect().await?;
    let done = sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(&mut connection).await;
    sqlx::Connection::close(connection).await?;
    done.map(|_| ())
}

/// The machines of a group: all are held or none, and so posted and voided; then each is refunded by itself.
pub async fn several_orders_are_held_and_posted_whole(url: &str) {
    let ledger = open(url).await;
    ledger.pay(at(2), &cash("first", 100)).await.unwrap();
    ledger.pay(at(2), &voucher("gift", 30)).await.unwrap();
    let three = [order("m0", 50), order("m1", 50), order("m2", 50)];
    // 30 in vouchers: 120 are needed, and 100 are there. Nothing of it is held.
    match ledger.hold_all(at(3), &three).await {
        Err(Error::NotEnough { available: 100, needed: 120 }) => (),
        other => panic!("{other:?}"),
    }
    assert_eq!(has(&ledger).await, (100, 0, 30, 0));
    let held = ledger.hold_all(at(4), &three[..2]).await.unwrap();
    let legs: Vec<_> = held.iter().map(|it| (it.done, it.order.cash, it.order.voucher)).collect();
    assert_eq!(legs, [(Done::New, 20, 30), (Done::New, 50, 0)]);
    assert_eq!(has(&ledger).await, (100, 70, 30, 30));
    // A repeat holds what is missing only.
    let again = ledger.hold_all(at(5), &[order("m1", 50), order("m2", 30)]).await.unwrap();
    assert_eq!(again.iter().map(|it| it.done).collect::<Vec<_>>(), [Done::AlreadyThere, Done::New]);
    ledger.void_all(at(6), &["m2", "never"]).await.unwrap();
    assert_eq!(has(&ledger).await, (100, 70, 30, 30));
    // One that was never held: none is posted.
    assert!(matches!(ledger.post_all(at(7), &["m0", "m2"]).await, Err(Error::NoHold(id)) if id == "m2"));
    assert_eq!(has(&ledger).await, (100, 70, 30, 30));
    let posted = ledger.post_all(at(8), &["m0", "m1"]).await.unwrap();
    assert!(posted.iter().all(|it| it.order.posted_at_ms == Some(8)));
    assert_eq!(has(&ledger).await, (30, 0, 0, 0));
    assert!(matches!(ledger.void_all(at(9), &["m0"]).await, Err(Error::Posted(_))));
    let repeat = ledger.post_all(at(9), &["m1", "m0"]).await.unwrap();
    assert!(repeat.iter().all(|it| it.done == Done::AlreadyThere));
    // Several of different payers, or one twice, are no one order.
    let other = OrderIn { account: "else".to_owned(), ..order("m3", 1) };
    assert!(matches!(ledger.hold_all(at(9), &[order("m2", 1), other]).await, Err(Error::Invalid { .. })));
    assert!(matches!(ledger.hold_all(at(9), &[order("m2", 1), order("m2", 1)]).await, Err(Error::Taken(_))));

    ledger.refund(at(10), &refund("back/m0", 10, false)).await.unwrap();
    let ids = ["back/m0".to_owned(), "back/m1".to_owned()];
    assert_eq!(ledger.refunded(&ids).await.unwrap(), BTreeMap::from([("back/m0".to_owned(), 10)]));
    ledger.verify().await.unwrap();
}

/// When what is posted went below what must be left, whatever came since.
pub async fn arrears_begin_with_the_row_that_brought_them(url: &str) {
    let ledger = open(url).await;
    let since = async |least| ledger.below_since("acme", "CNY", least).await.unwrap();
    assert_eq!(since(0).await, None);
    ledger.pay(at(2), &cash("first", 100)).await.unwrap();
    ledger.charge(at(3), &[charge("h0", 90)]).await.unwrap();
    assert_eq!(since(0).await, None);
    ledger.charge(at(4), &[charge("h1", 20)]).await.unwrap();
    ledger.charge(at(5), &[charge("h2", 20)]).await.unwrap();
    assert_eq!((since(0).await, since(-10).await, since(-30).await), (Some(4), Some(5), None));
    // Paid, and below it once more: that is another time.
    ledger.pay(at(6), &voucher("gift", 40)).await.unwrap();
    assert_eq!(since(0).await, None);
    ledger.charge(at(7), &[charge("h3", 30)]).await.unwrap();
    ledger.pay(at(8), &cash("little", 5)).await.unwrap();
    assert_eq!(since(0).await, Some(7), "a payment that does not suffice changes nothing");
    // What is held is not spent.
    ledger.refund(at(9), &refund("back", 40, false)).await.unwrap();
    ledger.hold(at(10), &OrderIn { least: None, ..order("o", 1_000) }).await.unwrap();
    assert_eq!(since(0).await, None);
    for hour in 0..600 {
        ledger.charge(at(11 + hour), &[charge(&format!("more/{hour}"), 1)]).await.unwrap();
    }
    assert_eq!(since(0).await, Some(11 + 25), "however many rows have come since");
}

/// contracts.md §5: six `ada` with 40 GB in cn-hangzhou, bought for November and left on the 10th day.
pub async fn the_pool_of_the_contract_is_bought_and_left(url: &str) {
    let ledger = open(url).await;
    assert_eq!(ledger.pay(at(2), &cash("first", 5_000_000)).await.unwrap(), Done::New);
    let held = ledger.hold(at(3), &order("c1/initial", 4_282_800)).await.unwrap();
    assert_eq!((held.done, held.order.state, held.order.cash), (Done::New, OrderState::Held, 4_282_800));
    assert_eq!(has(&ledger).await, (5_000_000, 4_282_800, 0, 0));
    let posted = ledger.post(at(4), "c1/initial").await.unwrap();
    assert_eq!((posted.done, posted.order.state), (Done::New, OrderState::Posted));
    assert_eq!((posted.order.held_at_ms, posted.order.posted_at_ms), (3, Some(4)));
    assert_eq!(has(&ledger).await, (717_200, 0, 0, 0));
    let back = refund("c1/refund", 2_569_680, true);
    assert_eq!(ledger.refund(at(5), &back).await.unwrap(), Done::New);
    assert_eq!(has(&ledger).await, (3_286_880, 0, 0, 0));
    assert_eq!(ledger.contracts().await.unwrap(), []);
    assert_eq!(ledger.orders("c1").await.unwrap(), [posted.order]);

    let lines = ledger.lines("acme", 0, 100).await.unwrap();
    let lines: Vec<_> = lines.iter().map(|it| (it.kind, it.id.as_str(), it.at_ms, it.cash)).collect();
    assert_eq!(
        lines,
        [
            (LineKind::Payment, "payment/first", 2, 5_000_000),
            (LineKind::Order, "c1/initial", 4, -4_282_800),
            (LineKind::Refund, "c1/refund", 5, 2_569_680),
        ]
    );
    let report = ledger.verify().await.unwrap();
    assert_eq!((report.transfers, report.open_holds, report.accounts["CNY"]), (4, 0, 3));

    // And so it is after a restart.
    let dump = ledger.dump().await.unwrap();
    ledger.close().await;
    assert_eq!(Ledger::open(url).await.unwrap().dump().await.unwrap(), dump);
}

pub async fn vouchers_pay_first(url: &str) {
    let ledger = open(url).await;
    ledger.pay(at(2), &voucher("gift", 300)).await.unwrap();
    ledger.pay(at(2), &cash("wire", 1_000)).await.unwrap();
    let both = ledger.hold(at(3), &order("both", 500)).await.unwrap().order;
    assert_eq!((both.price, both.voucher, both.cash), (500, 300, 200));
    assert_eq!(has(&ledger).await, (1_000, 200, 300, 300));
    // What a voucher is held for, no other order gets.
    let second = ledger.hold(at(4), &order("second", 100)).await.unwrap().order;
    assert_eq!((second.voucher, second.cash), (0, 100));
    ledger.void(at(5), "both").await.unwrap();
    assert_eq!(has(&ledger).await, (1_000, 100, 300, 0));
    let small = ledger.hold(at(6), &order("small", 250)).await.unwrap().order;
    assert_eq!((small.voucher, small.cash), (250, 0));
    ledger.post(at(7), "small").await.unwrap();
    assert_eq!(has(&ledger).await, (1_000, 100, 50, 0));
    // Usage too: what is left of the voucher, then cash.
    ledger.charge(at(8), &[charge("u1", 30), charge("u2", 30)]).await.unwrap();
    assert_eq!(has(&ledger).await, (990, 100, 0, 0));
    ledger.verify().await.unwrap();
}

pub async fn a_voided_order_is_tried_again(url: &str) {
    let ledger = open(url).await;
    ledger.pay(at(2), &cash("wire", 1_000)).await.unwrap();
    assert!(matches!(ledger.post(at(3), "pool").await, Err(Error::NoHold(it)) if it == "pool"));
    ledger.void(at(3), "pool").await.unwrap();
    for attempt in 0..3 {
        let held = ledger.hold(at(4), &order("pool", 400)).await.unwrap();
        assert_eq!((held.done, held.order.attempt), (Done::New, attempt));
        ledger.void(at(5), "pool").await.unwrap();
        ledger.void(at(6), "pool").await.unwrap();
        assert!(matches!(ledger.post(at(6), "pool").await, Err(Error::NoHold(_))));
        assert_eq!(has(&ledger).await, (1_000, 0, 0, 0));
    }
    ledger.hold(at(7), &order("other", 100)).await.unwrap();
    ledger.hold(at(8), &order("pool", 500)).await.unwrap();
    ledger.post(at(9), "pool").await.unwrap();
    ledger.post(at(10), "other").await.unwrap();
    assert!(matches!(ledger.void(at(11), "pool").await, Err(Error::Posted(it)) if it == "pool"));
    let orders = ledger.orders("c1").await.unwrap();
    let orders: Vec<_> = orders.iter().map(|it| (it.id.as_str(), it.attempt, it.state, it.price)).collect();
    assert_eq!(
        orders,
        [
            ("pool", 0, OrderState::Voided, 400),
            ("pool", 1, OrderState::Voided, 400),
            ("pool", 2, OrderState::Voided, 400),
            ("pool", 3, OrderState::Posted, 500),
            ("other", 0, OrderState::Posted, 100),
        ]
    );
    assert_eq!(has(&ledger).await, (400, 0, 0, 0));
}

pub async fn what_is_held_is_not_spent_twice(url: &str) {
    let ledger = open(url).await;
    ledger.pay(at(2), &cash("wire", 1_000)).await.unwrap();
    ledger.hold(at(3), &order("first", 700)).await.unwrap();
    let error = ledger.hold(at(4), &order("second", 400)).await.unwrap_err();
    assert!(matches!(error, Error::NotEnough { available: 300, needed: 400 }));
    assert_eq!(error.to_string(), "not enough: 400 needed, 300 available");
    ledger.void(at(5), "first").await.unwrap();
    ledger.hold(at(6), &order("second", 400)).await.unwrap();
}

pub async fn nothing_below_the_least(url: &str) {
    let ledger = open(url).await;
    ledger.pay(at(2), &cash("wire", 1_000)).await.unwrap();
    for (name, price, least, accrued, fits) in [
        ("all of it", 1_000, Some(0), 0, true),
        ("one more", 1_001, Some(0), 0, false),
        ("all and the credit", 1_500, Some(-500), 0, true),
        ("one more than the credit", 1_501, Some(-500), 0, false),
        ("usage counts", 901, Some(0), 100, false),
        ("usage leaves this", 900, Some(0), 100, true),
        ("something must be left", 900, Some(200), 0, false),
        ("chargeback has no limit", 1_000_000, None, 900, true),
        ("free, but in arrears", 0, Some(0), 1_001, false),
    ] {
        let wanted = OrderIn { least, accrued, ..order(name, price) };
        let held = ledger.hold(at(3), &wanted).await;
        assert_eq!(held.is_ok(), fits, "{name}: {held:?}");
        ledger.void(at(4), name).await.unwrap();
    }
}

pub async fn a_free_order_leaves_a_row(url: &str) {
    let ledger = open(url).await;
    let held = ledger.hold(at(2), &order("free", 0)).await.unwrap();
    assert_eq!((held.done, held.order.price), (Done::New, 0));
    assert_eq!(ledger.hold(at(3), &order("free", 0)).await.unwrap().done, Done::AlreadyThere);
    assert_eq!(ledger.post(at(4), "free").await.unwrap().done, Done::New);
    assert_eq!(ledger.charge(at(5), &[charge("nothing", 0)]).await.unwrap(), [Done::New]);
    assert_eq!(ledger.charge(at(6), &[charge("nothing", 0)]).await.unwrap(), [Done::AlreadyThere]);
    assert_eq!(ledger.refund(at(7), &refund("none", 0, false)).await.unwrap(), Done::New);
    assert_eq!(ledger.verify().await.unwrap().transfers, 4);
}

pub async fn a_repeat_is_a_no_op(url: &str) {
    let ledger = open(url).await;
    ledger.pay(at(2), &cash("wire", 1_000)).await.unwrap();
    let first = ledger.hold(at(3), &order("pool", 400)).await.unwrap().order;
    ledger.charge(at(4), &[charge("usage", 50)]).await.unwrap();
    ledger.refund(at(4), &refund("back", 20, false)).await.unwrap();
    let dump = ledger.dump().await.unwrap();
    // Whatever the second says: the first wins.
    assert_eq!(ledger.pay(at(9), &cash("wire", 9_999)).await.unwrap(), Done::AlreadyThere);
    assert_eq!(ledger.pay(at(9), &voucher("wire", 9_999)).await.unwrap(), Done::AlreadyThere);
    let again = ledger.hold(at(9), &order("pool", 9_999)).await.unwrap();
    assert_eq!((again.done, &again.order), (Done::AlreadyThere, &first));
    assert_eq!(ledger.charge(at(9), &[charge("usage", 7)]).await.unwrap(), [Done::AlreadyThere]);
    assert_eq!(ledger.refund(at(9), &refund("back", 7, false)).await.unwrap(), Done::AlreadyThere);
    assert_eq!(ledger.dump().await.unwrap(), dump);
    let posted = ledger.post(at(10), "pool").await.unwrap().order;
    let dump = ledger.dump().await.unwrap();
    for _ in 0..2 {
        let again = ledger.post(at(11), "pool").await.unwrap();
        assert_eq!((again.done, &again.order), (Done::AlreadyThere, &posted));
        let again = ledger.hold(at(11), &order("pool", 400)).await.unwrap();
        assert_eq!((again.done, &again.order), (Done::AlreadyThere, &posted));
    }
    assert_eq!(ledger.dump().await.unwrap(), dump);
    // A refund that was written without closing closes when it is repeated so.
    ledger.refund(at(12), &refund("back", 20, true)).await.unwrap();
    assert_eq!(ledger.contracts().await.unwrap(), []);
    assert_eq!(has(&ledger).await, (570, 0, 0, 0));
}

pub async fn many_at_once_charge_once(url: &str) {
    let ledger = open(url).await;
    let other = Ledger::open(url).await.unwrap();
    ledger.pay(at(2), &cash("wire", 1_000)).await.unwrap();
    let mut tasks = Vec::new();
    for number in 0..24 {
        let ledger = if number % 2 == 0 { ledger.clone() } else { other.clone() };
        tasks.push(tokio::spawn(async move {
            let held = ledger.hold(at(3), &order("pool", 400)).await.unwrap().done;
            let posted = ledger.post(at(4), "pool").await.unwrap().done;
            let charged = ledger.charge(at(5), &[charge("usage", 50)]).await.unwrap()[0];
            [held, posted, charged]
        }));
    }
    let mut new = [0; 3];
    for task in tasks {
        for (count, done) in new.iter_mut().zip(task.await.unwrap()) {
            *count += i32::from(done == Done::New);
        }
    }
    assert_eq!(new, [1, 1, 1]);
    assert_eq!(has(&ledger).await, (550, 0, 0, 0));
    assert_eq!(ledger.verify().await.unwrap().transfers, 4);
}

pub async fn an_older_epoch_is_fenced(url: &str) {
    let old = open(url).await;
    let new = Ledger::open(url).await.unwrap();
    let (before, after) = (At { ms: 2, epoch: 7 }, At { ms: 3, epoch: 8 });
    old.pay(before, &cash("wire", 1_000)).await.unwrap();
    old.hold(before, &order("pool", 400)).await.unwrap();
    assert_eq!(new.post(after, "pool").await.unwrap().done, Done::New);
    let dump = new.dump().await.unwrap();
    // Also what would write nothing: who is not the leader learns it at once.
    let fenced = [
        old.pay(before, &cash("late", 1)).await.map(|_| ()),
        old.pay(before, &cash("wire", 1)).await.map(|_| ()),
        old.hold(before, &order("late", 1)).await.map(|_| ()),
        old.post(before, "pool").await.map(|_| ()),
        old.void(before, "pool").await,
        old.charge(before, &[charge("late", 1)]).await.map(|_| ()),
        old.refund(before, &refund("late", 1, true)).await.map(|_| ()),
        old.open_contract(before, "c2", "ResidentPool/team-a/late", "uid-2").await.map(|_| ()),
        old.adopt_contract(before, "c1", "ResidentPool/team-a/chat", "uid-3").await.map(|_| ()),
        old.close_contract(before, "c1").await,
    ];
    for (place, result) in fenced.into_iter().enumerate() {
        assert!(matches!(result, Err(Error::Fenced { epoch: 7 })), "{place}: {result:?}");
    }
    assert_eq!(new.dump().await.unwrap(), dump);
    // Elected again it may.
    old.pay(At { ms: 4, epoch: 9 }, &cash("late", 1)).await.unwrap();
    assert_eq!(new.verify().await.unwrap().epoch, 9);
}

pub async fn contracts_are_minted_once_and_adopted(url: &str) {
    let ledger = open(url).await;
    let (object, other) = ("ResidentPool/team-a/chat", "ResidentPool/team-a/other");
    let minted = Contract {
        id: "c1".to_owned(),
        object: object.to_owned(),
        uid: "uid-1".to_owned(),
        opened_at_ms: 1,
        closed_at_ms: None,
    };
    assert_eq!(ledger.open_contract(at(2), "c1", object, "uid-1").await.unwrap(), minted);
    // Two mint for the same object: one wins.
    assert_eq!(ledger.open_contract(at(2), "c1-too", object, "uid-1").await.unwrap(), minted);
    assert!(matches!(ledger.open_contract(at(2), "c1", other, "uid-2").await, Err(Error::Taken(_))));
    let error = ledger.open_contract(at(2), "c2", other, "uid-1").await.unwrap_err();
    assert_eq!(error.to_string(), "contract `c1` is that of ResidentPool/team-a/chat");

    let adopted = Contract { uid: "uid-9".to_owned(), ..minted };
    assert_eq!(ledger.adopt_contract(at(3), "c1", object, "uid-9").await.unwrap(), adopted);
    assert_eq!(ledger.adopt_contract(at(4), "c1", object, "uid-9").await.unwrap(), adopted);
    assert_eq!(ledger.open_contract(at(4), "c3", object, "uid-9").await.unwrap(), adopted);
    let wrong = ledger.adopt_contract(at(5), "c1", other, "uid-5").await;
    assert!(matches!(wrong, Err(Error::OtherObject { .. })));
    let missing = ledger.adopt_contract(at(5), "c7", object, "uid-5").await;
    assert!(matches!(missing, Err(Error::NoContract(it)) if it == "c7"));
    // Who has a contract can't adopt another.
    ledger.open_contract(at(6), "c2", object, "uid-6").await.unwrap();
    let second = ledger.adopt_contract(at(6), "c1", object, "uid-6").await;
    assert!(matches!(second, Err(Error::Taken(it)) if it == "uid-6"));
    let open: Vec<_> = ledger.contracts().await.unwrap().into_iter().map(|it| it.id).collect();
    assert_eq!(open, ["c1", "c2"]);
}

pub async fn contracts_close_once(url: &str) {
    let ledger = open(url).await;
    ledger.close_contract(at(5), "c1").await.unwrap();
    ledger.close_contract(at(6), "c1").await.unwrap();
    let closed = ledger.open_contract(at(7), "c1", "ResidentPool/team-a/chat", "uid-1").await.unwrap();
    assert_eq!(closed.closed_at_ms, Some(5));
    let adopt = ledger.adopt_contract(at(7), "c1", "ResidentPool/team-a/chat", "uid-2").await;
    assert!(matches!(adopt, Err(Error::Closed(_))));
    assert!(matches!(ledger.hold(at(7), &order("late", 0)).await, Err(Error::Closed(it)) if it == "c1"));
    // Its last usage may come late.
    assert_eq!(ledger.charge(at(8), &[charge("late", 5)]).await.unwrap(), [Done::New]);
    assert!(matches!(ledger.close_contract(at(9), "c7").await, Err(Error::NoContract(_))));
}

pub async fn usage_is_charged_in_batches(url: &str) {
    let ledger = open(url).await;
    ledger.pay(at(2), &voucher("gift", 1_005)).await.unwrap();
    let mut lines: Vec<ChargeIn> = (0..700).map(|it| charge(&format!("usage/{it}"), 10)).collect();
    lines.push(charge("usage/3", 99));
    let done = ledger.charge(at(3), &lines).await.unwrap();
    assert!(done[..700].iter().all(|it| *it == Done::New));
    assert_eq!(done[700], Done::AlreadyThere);
    assert_eq!(has(&ledger).await, (-5_995, 0, 0, 0));
    lines.push(charge("usage/700", 10));
    let done = ledger.charge(at(4), &lines).await.unwrap();
    assert_eq!(done.iter().filter(|it| **it == Done::New).count(), 1);
    assert_eq!(has(&ledger).await, (-6_005, 0, 0, 0));
    // All or none.
    let dump = ledger.dump().await.unwrap();
    let wrong = ChargeIn { contract: "c7".to_owned(), ..charge("b", 1) };
    let result = ledger.charge(at(5), &[charge("a", 1), wrong]).await;
    assert!(matches!(result, Err(Error::NoContract(it)) if it == "c7"));
    assert_eq!(ledger.charge(at(5), &[]).await.unwrap(), []);
    assert_eq!(ledger.dump().await.unwrap(), dump);
    // One payment, one line in two legs, the others in one: 701 lines of usage.
    assert_eq!(ledger.verify().await.unwrap().transfers, 1 + 701 + 1);
    assert_eq!(ledger.lines("acme", 0, 100).await.unwrap().len(), 1 + 701);
}

pub async fn an_id_stands_for_one_thing(url: &str) {
    let ledger = open(url).await;
    ledger.pay(at(2), &cash("wire", 1_000)).await.unwrap();
    ledger.hold(at(3), &order("order", 1)).await.unwrap();
    ledger.charge(at(3), &[charge("usage", 1)]).await.unwrap();
    ledger.refund(at(3), &refund("back", 1, false)).await.unwrap();
    let dump = ledger.dump().await.unwrap();
    let taken = [
        ledger.hold(at(4), &order("usage", 1)).await.map(|_| ()),
        ledger.hold(at(4), &order("back", 1)).await.map(|_| ()),
        ledger.hold(at(4), &order("payment/wire", 1)).await.map(|_| ()),
        ledger.charge(at(4), &[charge("order", 1)]).await.map(|_| ()),
        ledger.charge(at(4), &[charge("order/0", 1)]).await.map(|_| ()),
        ledger.charge(at(4), &[charge("back", 1)]).await.map(|_| ()),
        ledger.refund(at(4), &refund("order", 1, false)).await.map(|_| ()),
        ledger.refund(at(4), &refund("order/0", 1, false)).await.map(|_| ()),
        ledger.refund(at(4), &refund("usage", 1, false)).await.map(|_| ()),
    ];
    for (place, result) in taken.into_iter().enumerate() {
        assert!(matches!(result, Err(Error::Taken(_))), "{place}: {result:?}");
    }
    assert_eq!(ledger.dump().await.unwrap(), dump);
}

pub async fn what_can_not_be_is_refused(url: &str) {
    let ledger = open(url).await;
    let long = "x".repeat(254);
    for account in ["", "acme:cash", "ac\nme", long.as_str()] {
        let payment = PaymentIn { account: account.to_owned(), ..cash("wire", 1) };
        assert!(matches!(ledger.pay(at(2), &payment).await, Err(Error::Invalid { field: "account", .. })));
    }
    for currency in ["", "cny", "CNYX", "C:Y"] {
        let payment = PaymentIn { currency: currency.to_owned(), ..cash("wire", 1) };
        assert!(matches!(ledger.pay(at(2), &payment).await, Err(Error::Invalid { field: "currency", .. })));
    }
    for id in ["", "a\0b", long.as_str()] {
        assert!(matches!(
            ledger.hold(at(2), &order(id, 1)).await,
            Err(Error::Invalid { field: "order", .. })
        ));
        assert!(matches!(ledger.pay(at(2), &cash(id, 1)).await, Err(Error::Invalid { field: "name", .. })));
        let charged = ledger.charge(at(2), &[charge(id, 1)]).await;
        assert!(matches!(charged, Err(Error::Invalid { field: "charge", .. })));
        let opened = ledger.open_contract(at(2), id, "object", "uid").await;
        assert!(matches!(opened, Err(Error::Invalid { field: "contract", .. })));
    }
    assert!(matches!(ledger.pay(at(2), &cash("none", 0)).await, Err(Error::Invalid { .. })));
    assert!(matches!(ledger.hold(at(2), &order("less", -1)).await, Err(Error::Invalid { .. })));
    assert!(matches!(ledger.charge(at(2), &[charge("less", -1)]).await, Err(Error::Invalid { .. })));
    assert!(matches!(ledger.refund(at(2), &refund("less", -1, false)).await, Err(Error::Invalid { .. })));
    for detail in ["", "{", "text", "\"\0\""] {
        let wanted = OrderIn { detail: detail.to_owned(), ..order("order", 1) };
        assert!(matches!(ledger.hold(at(2), &wanted).await, Err(Error::Invalid { field: "detail", .. })));
    }
    let elsewhere = OrderIn { contract: "c7".to_owned(), ..order("order", 0) };
    assert!(matches!(ledger.hold(at(2), &elsewhere).await, Err(Error::NoContract(_))));
    assert_eq!(ledger.verify().await.unwrap().transfers, 0);
}

pub async fn nothing_wraps(url: &str) {
    let ledger = open(url).await;
    ledger.pay(at(2), &cash("all there is", i64::MAX)).await.unwrap();
    let more = ledger.pay(at(3), &cash("and one more", 1)).await;
    assert!(matches!(more, Err(Error::Overflow(it)) if it == "bank:CNY" || it == "acme:cash"));
    ledger.hold(at(4), &order("dear", i64::MAX)).await.unwrap();
    let second = OrderIn { least: None, ..order("too", 1) };
    assert!(matches!(ledger.hold(at(5), &second).await, Err(Error::Overflow(it)) if it == "acme:cash"));
    let accrued = OrderIn { accrued: i64::MAX, least: Some(i64::MIN), ..order("too", i64::MAX) };
    let refused = ledger.hold(at(5), &accrued).await;
    assert!(matches!(refused, Err(Error::Overflow(_) | Error::NotEnough { .. })), "{refused:?}");
    ledger.post(at(6), "dear").await.unwrap();
    ledger.verify().await.unwrap();
}

pub async fn bills_add_up(url: &str) {
    let ledger = open(url).await;
    ledger.pay(at(10), &voucher("gift", 300)).await.unwrap();
    ledger.pay(at(11), &cash("wire", 1_000)).await.unwrap();
    ledger.pay(at(12), &PaymentIn { account: "acme2".to_owned(), ..cash("theirs", 7) }).await.unwrap();
    ledger.hold(at(13), &order("pool", 500)).await.unwrap();
    ledger.hold(at(14), &order("given up", 100)).await.unwrap();
    ledger.void(at(15), "given up").await.unwrap();
    ledger.post(at(20), "pool").await.unwrap();
    ledger.charge(at(21), &[charge("usage", 40)]).await.unwrap();
    ledger.refund(at(29), &refund("back", 60, false)).await.unwrap();
    ledger.charge(at(30), &[charge("later", 1)]).await.unwrap();
    let lines = ledger.lines("acme", 20, 30).await.unwrap();
    let short: Vec<_> = lines.iter().map(|it| (it.kind, it.id.as_str(), it.cash, it.voucher)).collect();
    assert_eq!(
        short,
        [
            (LineKind::Order, "pool", -200, -300),
            (LineKind::Usage, "usage", -40, 0),
            (LineKind::Refund, "back", 60, 0),
        ]
    );
    // Holds and payments are no part of it.
    assert_eq!(ledger.billed("acme", "CNY", 20).await.unwrap(), 500 + 40 - 60 + 1);
    assert_eq!(ledger.billed("acme", "CNY", 30).await.unwrap(), 1);
    assert_eq!(ledger.billed("acme", "EUR", 0).await.unwrap(), 0);
    let pool = &lines[0];
    assert_eq!((pool.contract.as_deref(), pool.currency.as_str()), (Some("c1"), "CNY"));
    assert_eq!(pool.detail, r#"{"order":"pool"}"#);
    let all = ledger.lines("acme", i64::MIN, i64::MAX).await.unwrap();
    let sums = all.iter().fold((0, 0), |(cash, voucher), it| (cash + it.cash, voucher + it.voucher));
    let has = has(&ledger).await;
    assert_eq!(sums, (has.0, has.2));
    assert_eq!(all[0].detail, r#"{"reference":"wire gift"}"#);
}

pub async fn rows_stay_as_they_are(url: &str) {
    let ledger = open(url).await;
    ledger.pay(at(2), &cash("wire", 1_000)).await.unwrap();
    ledger.open_contract(at(2), "c2", "ResidentPool/team-a/other", "uid-2").await.unwrap();
    ledger.close_contract(at(3), "c2").await.unwrap();
    let dump = ledger.dump().await.unwrap();
    for (text, complaint) in [
        ("UPDATE transfers SET amount = 2", "transfers are never changed"),
        ("UPDATE transfers SET detail = '{}'", "transfers are never changed"),
        ("DELETE FROM transfers", "transfers are never deleted"),
        ("DELETE FROM contracts", "contracts are never deleted"),
        ("UPDATE contracts SET object = 'x'", "a contract keeps its object"),
        ("UPDATE contracts SET closed_at_ms = NULL WHERE id = 'c2'", "stays closed"),
        ("UPDATE fence SET epoch = 0", "the fence only moves forward"),
        ("UPDATE fence SET seq = 0", "the fence only moves forward"),
        ("DELETE FROM fence", "the fence stays"),
    ] {
        let refused = sql(url, text).await.expect_err(text).to_string();
        assert!(refused.contains(complaint), "{text}: {refused}");
    }
    assert_eq!(ledger.dump().await.unwrap(), dump);
}

pub async fn tampering_is_found_and_named(url: &str) {
    let ledger = open(url).await;
    ledger.pay(at(2), &cash("wire", 1_000)).await.unwrap();
    ledger.hold(at(3), &order("pool", 400)).await.unwrap();
    ledger.post(at(4), "pool").await.unwrap();
    ledger.hold(at(5), &order("open", 100)).await.unwrap();
    ledger.charge(at(6), &[charge("usage", 10), charge("last", 0)]).await.unwrap();
    ledger.close().await;
    let on = if url.starts_with("sqlite:") { "" } else { " ON transfers" };
    sql(url, &format!("DROP TRIGGER transfers_keep{on}; DROP TRIGGER transfers_stay{on}")).await.unwrap();
    Ledger::open(url).await.unwrap().close().await;

    // How it is tampered with, how it is made good, and what `open` says.
    let balance = "UPDATE balances SET";
    let whole =
        "seq, id, kind, of, order_id, contract, debit, credit, amount, currency, at_ms, epoch, detail, chain";
    let take = |seq: i64| {
        format!(
            "CREATE TABLE aside AS SELECT {whole} FROM transfers WHERE seq = {seq}; \
             DELETE FROM transfers WHERE seq = {seq}"
        )
    };
    let give = format!("INSERT INTO transfers ({whole}) SELECT {whole} FROM aside; DROP TABLE aside");
    let cases: Vec<(String, String, &str)> = vec![
        (
            "UPDATE transfers SET amount = 11 WHERE seq = 5".into(),
            "UPDATE transfers SET amount = 10 WHERE seq = 5".into(),
            "transfer 5 (usage/cash) is not what was written",
        ),
        (
            "UPDATE transfers SET at_ms = 7 WHERE seq = 1".into(),
            "UPDATE transfers SET at_ms = 2 WHERE seq = 1".into(),
            "transfer 1 (payment/wire) is not what was written",
        ),
        (
            "UPDATE transfers SET amount = 300 WHERE seq = 3".into(),
            "UPDATE transfers SET amount = 400 WHERE seq = 3".into(),
            "transfer 3 (pool/0/cash/post) ends no open hold that is like it",
        ),
        (
            format!("{balance} posted = 591 WHERE account = 'acme:cash'"),
            format!("{balance} posted = 590 WHERE account = 'acme:cash'"),
            "acme:cash has 591 posted and 100 held CNY, by its transfers 590 posted and 100 held",
        ),
        (
            format!("{balance} held = 0 WHERE account = 'acme:cash'"),
            format!("{balance} held = 100 WHERE account = 'acme:cash'"),
            "acme:cash has 590 posted and 0 held CNY, by its transfers 590 posted and 100 held",
        ),
        (
            "INSERT INTO balances (account, currency, posted, held) VALUES ('evil:cash', 'CNY', 5, 0)".into(),
            "DELETE FROM balances WHERE account = 'evil:cash'".into(),
            "evil:cash has 5 posted and 0 held CNY, by its transfers 0 posted and 0 held",
        ),
        (take(5), give.clone(), "transfer 5 is missing"),
        // The last one, which no later chain misses and which moved nothing.
        (take(6), give, "6 transfers were written, the last that is there is 5"),
    ];
    for (tamper, repair, complaint) in cases {
        sql(url, &tamper).await.unwrap_or_else(|it| panic!("{tamper}: {it}"));
        let refused = Ledger::open(url).await.expect_err(&tamper);
        assert!(matches!(refused, Error::Differs(_)), "{tamper}: {refused:?}");
        assert!(refused.to_string().contains(complaint), "{tamper}: {refused}");
        sql(url, &repair).await.unwrap_or_else(|it| panic!("{repair}: {it}"));
        Ledger::open(url).await.unwrap_or_else(|it| panic!("{repair}: {it}")).close().await;
    }
}

pub async fn arrears_begin_once_and_end_once(url: &str) {
    let ledger = open(url).await;
    assert_eq!(ledger.arrears().await.unwrap(), [].into());
    ledger.begin_arrears(at(5), "acme").await.unwrap();
    ledger.begin_arrears(at(9), "acme").await.unwrap();
    ledger.begin_arrears(at(9), "other").await.unwrap();
    assert_eq!(ledger.arrears().await.unwrap(), [("acme".to_owned(), 5), ("other".to_owned(), 9)].into());
    ledger.end_arrears(at(12), "acme").await.unwrap();
    ledger.end_arrears(at(15), "acme").await.unwrap();
    assert_eq!(ledger.arrears().await.unwrap(), [("other".to_owned(), 9)].into());
    ledger.begin_arrears(at(20), "acme").await.unwrap();
    assert_eq!(ledger.arrears().await.unwrap(), [("acme".to_owned(), 20), ("other".to_owned(), 9)].into());
    let dump = ledger.dump().await.unwrap();
    assert!(dump.contains("arrears \"acme\" 5 12\n"), "{dump}");
    for change in [
        "UPDATE arrears SET since_ms = 1",
        "UPDATE arrears SET until_ms = 99 WHERE until_ms IS NOT NULL",
        "DELETE FROM arrears",
    ] {
        sql(url, change).await.unwrap_err();
    }
    ledger.close().await;
}

pub async fn a_newer_ledger_is_left_alone(url: &str) {
    open(url).await.close().await;
    sql(url, "INSERT INTO migrations (version) VALUES (999)").await.unwrap();
    let refused = Ledger::open(url).await.unwrap_err();
    assert!(matches!(refused, Error::Newer { found: 999, known: 5 }), "{refused}");
}

/// If this fails, rows that are out there can't be verified any more: what a chain is made of must not change.
pub async fn the_chain_is_the_same_everywhere(url: &str) {
    let ledger = open(url).await;
    ledger.pay(at(2), &voucher("gift", 300)).await.unwrap();
    ledger.pay(at(3), &cash("wire", 1_000)).await.unwrap();
    ledger.hold(at(4), &order("pool", 500)).await.unwrap();
    ledger.post(at(5), "pool").await.unwrap();
    ledger.hold(at(6), &order("other", 5)).await.unwrap();
    ledger.void(at(7), "other").await.unwrap();
    ledger.charge(at(8), &[charge("usage", 7)]).await.unwrap();
    ledger.refund(at(9), &refund("back", 3, true)).await.unwrap();
    let report = ledger.verify().await.unwrap();
    assert_eq!(report.chain, "60e9241336edb96d928153d4e3e743e125197c2135ec54272dedc1a9f6ee229f");
}

pub async fn who_only_reads_sees_one_state_and_writes_nothing(url: &str) {
    let ledger = open(url).await;
    ledger.pay(at(2), &voucher("gift", 300)).await.unwrap();
    ledger.pay(at(2), &cash("wire", 1_000)).await.unwrap();
    ledger.hold(at(3), &order("pool", 500)).await.unwrap();
    ledger.post(at(4), "pool").await.unwrap();
    ledger.charge(at(5), &[charge("usage", 7)]).await.unwrap();
    ledger.refund(at(6), &refund("back", 3, false)).await.unwrap();

    let reader = Ledger::open_to_read(url).await.unwrap();
    let mut snapshot = reader.snapshot().await.unwrap();
    let all = Interval { from_ms: 0, until_ms: 100 };
    assert_eq!(snapshot.billed(Some("acme"), "CNY", all).await.unwrap(), 500 + 7 - 3);
    // From now on it is one state, whatever is written.
    ledger.charge(at(7), &[charge("later", 9)]).await.unwrap();
    for account in [Some("acme"), None] {
        let mut found = Vec::new();
        let mut lines = snapshot.lines(account, all, LineOrder::Written).unwrap();
        while let Some(it) = lines.next().await.unwrap() {
            assert_eq!(it.account, "acme");
            found.push((it.line.id, it.line.cash, it.line.voucher, it.object.is_some()));
        }
        drop(lines);
        let line = |id: &str, cash, voucher, has_contract| (id.to_owned(), cash, voucher, has_contract);
        assert_eq!(
            found,
            [
                line("payment/gift", 0, 300, false),
                line("payment/wire", 1_000, 0, false),
                line("pool", -200, -300, true),
                line("usage", -7, 0, true),
                line("back", 3, 0, true),
            ]
        );
        assert_eq!(snapshot.billed(account, "CNY", all).await.unwrap(), 504);
        assert_eq!(snapshot.billed(account, "EUR", all).await.unwrap(), 0);
        let some = Interval { from_ms: 4, until_ms: 6 };
        assert_eq!(snapshot.billed(account, "CNY", some).await.unwrap(), 507);
        let mut lines = snapshot.lines(account, some, LineOrder::Contract).unwrap();
        assert_eq!(lines.next().await.unwrap().unwrap().line.id, "pool");
        drop(lines);
    }
    let contracts = snapshot.ordered_contracts().await.unwrap();
    assert_eq!(contracts.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["c1"]);
    let orders = snapshot.orders("c1").await.unwrap();
    assert_eq!(orders.iter().map(|it| (it.id.as_str(), it.price)).collect::<Vec<_>>(), [("pool", 500)]);
    let refunds = snapshot.refunds("c1").await.unwrap();
    assert_eq!(
        refunds.iter().map(|it| (it.id.as_str(), it.amount, it.at_ms)).collect::<Vec<_>>(),
        [("back", 3, 6)]
    );
    drop(snapshot);
    assert_eq!(reader.verify().await.unwrap(), ledger.verify().await.unwrap());
    assert!(reader.pay(at(8), &cash("more", 1)).await.is_err(), "who only reads can't write");
    reader.close().await;
}

pub async fn who_only_reads_makes_no_tables(url: &str) {
    let none = Ledger::open_to_read(url).await.unwrap_err();
    assert!(matches!(none, Error::Connect(_) | Error::Read { .. }), "{none}");
    open(url).await.close().await;
    sql(url, "DELETE FROM migrations WHERE version > 1").await.unwrap();
    let older = Ledger::open_to_read(url).await.unwrap_err();
    assert!(matches!(older, Error::Older { found: 1, .. }), "{older}");
}
