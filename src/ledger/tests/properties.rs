//! Any sequence and repetition of calls: nothing is lost or made, and a repeat charges nothing.

use std::collections::BTreeMap;

use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::{collection, proptest};

use super::cases::{at, cash, charge, open, order, refund, voucher};
use super::{Folder, Ledger, OrderIn, OrderState};

#[derive(Debug, Clone)]
enum Call {
    Pay { name: u8, amount: i64, in_voucher: bool },
    Hold { id: u8, price: i64, limited: bool },
    Post { id: u8 },
    Void { id: u8 },
    Charge { from: u8, count: u8, amount: i64 },
    Refund { id: u8, amount: i64 },
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let amount = prop_oneof![0..2_000_i64, Just(i64::MAX)];
    let call = prop_oneof![
        (0..4_u8, 1..2_000_i64, any::<bool>()).prop_map(|(name, amount, in_voucher)| Call::Pay {
            name,
            amount,
            in_voucher
        }),
        (0..4_u8, amount.clone(), any::<bool>()).prop_map(|(id, price, limited)| Call::Hold {
            id,
            price,
            limited
        }),
        (0..4_u8).prop_map(|id| Call::Post { id }),
        (0..4_u8).prop_map(|id| Call::Void { id }),
        (0..8_u8, 0..4_u8, amount).prop_map(|(from, count, amount)| Call::Charge { from, count, amount }),
        (0..3_u8, 0..2_000_i64).prop_map(|(id, amount)| Call::Refund { id, amount }),
    ];
    collection::vec(call, 1..24)
}

/// Makes a call; a refusal is an answer too.
async fn make(ledger: &Ledger, call: &Call, ms: i64) -> bool {
    let now = at(ms);
    match *call {
        Call::Pay { name, amount, in_voucher } => {
            let payment = if in_voucher { voucher } else { cash };
            ledger.pay(now, &payment(&format!("p{name}"), amount)).await.is_ok()
        }
        Call::Hold { id, price, limited } => {
            let wanted = order(&format!("o{id}"), price);
            let least = limited.then_some(0);
            ledger.hold(now, &OrderIn { least, ..wanted }).await.is_ok()
        }
        Call::Post { id } => ledger.post(now, &format!("o{id}")).await.is_ok(),
        Call::Void { id } => ledger.void(now, &format!("o{id}")).await.is_ok(),
        Call::Charge { from, count, amount } => {
            let lines: Vec<_> = (from..from + count).map(|it| charge(&format!("u{it}"), amount)).collect();
            ledger.charge(now, &lines).await.is_ok()
        }
        Call::Refund { id, amount } => {
            ledger.refund(now, &refund(&format!("r{id}"), amount, false)).await.is_ok()
        }
    }
}

async fn live(calls: &[Call], times: usize) -> (String, Folder, Ledger) {
    let folder = Folder::new();
    let ledger = open(&folder.url()).await;
    for (place, call) in calls.iter().enumerate() {
        let ms = 10 + i64::try_from(place).unwrap();
        let first = make(&ledger, call, ms).await;
        for _ in 1..times {
            assert_eq!(make(&ledger, call, ms).await, first, "{call:?}");
        }
    }
    (ledger.dump().await.unwrap(), folder, ledger)
}

async fn holds(calls: Vec<Call>) {
    let (once, _folder, ledger) = live(&calls, 1).await;
    // Replay = balances, and each currency is zero together.
    let report = ledger.verify().await.unwrap();
    // Each order is paid once, and has one open attempt at most.
    let mut standing = BTreeMap::<_, u32>::new();
    let orders = ledger.orders("c1").await.unwrap();
    for it in orders.iter().filter(|it| it.state != OrderState::Voided) {
        *standing.entry(it.id.clone()).or_default() += 1;
    }
    assert!(standing.values().all(|it| *it == 1), "{standing:?}");
    // Open holds are what is held.
    let held = orders.iter().filter(|it| it.state == OrderState::Held);
    let held = held.fold((0_i128, 0_i128), |(cash, voucher), it| {
        (cash + i128::from(it.cash), voucher + i128::from(it.voucher))
    });
    let balance = ledger.balance("acme", "CNY").await.unwrap();
    assert_eq!(held, (i128::from(balance.cash.held), i128::from(balance.voucher.held)));
    assert_eq!(report.open_holds == 0, orders.iter().all(|it| it.state != OrderState::Held));
    // The bill is the balance. Vouchers never go below zero.
    let lines = ledger.lines("acme", 0, i64::MAX).await.unwrap();
    let sums = lines.iter().fold((0_i128, 0_i128), |(cash, voucher), it| {
        (cash + i128::from(it.cash), voucher + i128::from(it.voucher))
    });
    assert_eq!(sums, (i128::from(balance.cash.posted), i128::from(balance.voucher.posted)));
    assert!(balance.voucher.available() >= 0);
    // Whoever says everything three times has said it once.
    let (thrice, _folder, _ledger) = live(&calls, 3).await;
    assert_eq!(once, thrice);
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 24, ..Default::default() })]
    #[test]
    fn nothing_is_lost_or_made(calls in calls()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(holds(calls));
    }
}
