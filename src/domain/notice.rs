//! What owners are told outside of the cluster: a closed list, with an id for each, and its words. Who is told, and how it gets
//! there, is in `controllers/notify` and `notify`.

use jiff::Timestamp;

/// Something that an owner is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Who is told.
    pub account: String,
    /// Of what.
    pub about: About,
    /// What has happened, or will.
    pub what: What,
}

/// What a notice is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Which one, for ever: the contract's id in the ledger, or `account/` and the account's UID.
    pub id: String,
    /// `ResidentPool/team-a/chat`, or `Account/acme`.
    pub object: String,
}

/// What has happened, or will. A new kind is a line here and in each function below; what receivers see of it is in
/// `controllers/notify/content.rs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A contract expires soon.
    Expiring {
        /// Within so many days.
        days: u32,
        /// When.
        at: Timestamp,
    },
    /// A contract has expired, and can be brought back.
    Expired {
        /// When.
        at: Timestamp,
        /// Until when it can be brought back.
        releases_at: Timestamp,
    },
    /// A contract that has expired is released for good soon.
    Releasing {
        /// Within so many days.
        days: u32,
        /// When.
        at: Timestamp,
    },
    /// A contract is released for good.
    Released {
        /// When.
        at: Timestamp,
    },
    /// The money for an auto-renewal is missing; it is tried until expiry.
    RenewalUnpaid {
        /// When the contract expires.
        expires_at: Timestamp,
        /// Which sum is missing, in words.
        why: String,
    },
    /// An order waits for money.
    WaitsForMoney {
        /// Which one: `initial`, `renewal/manual/3`.
        order: String,
        /// By which version of what is asked for: another one is another purchase.
        version: String,
        /// Which sum is missing, in words.
        why: String,
    },
    /// A contract was left, and what was not used came back.
    Refunded {
        /// How much, as a decimal number.
        amount: String,
        /// In which currency.
        currency: String,
    },
    /// The account owes more than it may.
    ArrearsBegan {
        /// Since when, as it was seen, ms since 1970.
        since_ms: i64,
        /// What it has, as a decimal number.
        balance: String,
        /// In which currency.
        currency: String,
    },
    /// The account owes no more than it may.
    ArrearsEnded {
        /// When these arrears had begun, ms since 1970.
        since_ms: i64,
    },
}

/// How the kind of a notice that arrears began is called: such notices are looked for by it.
pub const ARREARS_BEGAN: &str = "arrears-began";
/// The same of their end.
pub const ARREARS_ENDED: &str = "arrears-ended";

impl What {
    /// Its kind as one word; receivers know it by this.
    pub fn kind(&self) -> &'static str {
        match self {
            What::Expiring { .. } => "expiring",
            What::Expired { .. } => "expired",
            What::Releasing { .. } => "releasing",
            What::Released { .. } => "released",
            What::RenewalUnpaid { .. } => "renewal-unpaid",
            What::WaitsForMoney { .. } => "waits-for-money",
            What::Refunded { .. } => "refunded",
            What::ArrearsBegan { .. } => ARREARS_BEGAN,
            What::ArrearsEnded { .. } => ARREARS_ENDED,
        }
    }

    /// Which of its kind: the same fact seen again has the same occasion. Without full stops, and without blanks.
    fn occasion(&self, account: &str) -> String {
        // A lease changes in whole seconds.
        let second = |it: &Timestamp| it.as_second().to_string();
        match self {
            What::Expiring { days, at } | What::Releasing { days, at } => format!("{}/{days}", second(at)),
            What::Expired { at, .. } | What::Released { at } => second(at),
            What::RenewalUnpaid { expires_at, .. } => second(expires_at),
            What::WaitsForMoney { order, version, .. } => format!("{}/{version}", order.replace(' ', "-")),
            // A contract is left once, and pays back to everybody who has paid for it.
            What::Refunded { .. } => account.replace('.', "_"),
            What::ArrearsBegan { since_ms, .. } | What::ArrearsEnded { since_ms } => since_ms.to_string(),
        }
    }
}

impl Notice {
    /// Its id: a function of what it tells, so that it is told once, whoever sees the fact how often.
    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.about.id, self.what.kind(), self.what.occasion(&self.account))
    }

    /// In a few words: the subject of an email.
    pub fn title(&self) -> String {
        let object = self.object();
        match &self.what {
            What::Expiring { days, .. } => format!("{object} expires within {}", in_days(*days)),
            What::Expired { .. } => format!("{object} has expired"),
            What::Releasing { days, .. } => {
                format!("{object} is released for good within {}", in_days(*days))
            }
            What::Released { .. } => format!("{object} is released for good"),
            What::RenewalUnpaid { .. } => format!("The renewal of {object} is not paid"),
            What::WaitsForMoney { .. } => format!("{object} waits for money"),
            What::Refunded { .. } => format!("{object} was left and refunded"),
            What::ArrearsBegan { .. } => format!("{object} is in arrears"),
            What::ArrearsEnded { .. } => format!("{object} is no longer in arrears"),
        }
    }

    /// What it means, and what to do.
    pub fn text(&self) -> String {
        let object = self.object();
        match &self.what {
            What::Expiring { at, .. } => format!(
                "{object} expires at {at}. Renew it in time to keep its cards: append to spec.renewals, such as {{months: 1}}."
            ),
            What::Expired { at, releases_at } => format!(
                "{object} has expired at {at}. What ran in it has ended. Append to spec.renewals to bring it back; at {releases_at} it is released for good."
            ),
            What::Releasing { at, .. } => format!(
                "{object} has expired, and is released for good at {at}. Append to spec.renewals before that to bring it back."
            ),
            What::Released { at } => {
                format!("{object} was not renewed by {at}, and nothing brings it back. Delete it.")
            }
            What::RenewalUnpaid { expires_at, why } => format!(
                "{object} expires at {expires_at}, and its renewal by itself is not paid: {why}. It is tried every hour until then."
            ),
            What::WaitsForMoney { why, .. } => {
                format!("An order of {object} waits: {why}. It goes on by itself.")
            }
            What::Refunded { amount, currency } => format!(
                "{object} was left. {amount} {currency} came back to the account: what was paid in cash and is not used."
            ),
            What::ArrearsBegan { balance, currency, .. } => format!(
                "{object} has {balance} {currency}, which is less than its credit limit allows. Nothing more can be bought until it is paid: add a Payment."
            ),
            What::ArrearsEnded { .. } => {
                format!("{object} has paid what it owed. What waited goes on by itself.")
            }
        }
    }

    /// `ResidentPool team-a/chat`: as people say it.
    fn object(&self) -> String {
        self.about.object.replacen('/', " ", 1)
    }
}

fn in_days(days: u32) -> String {
    if days == 1 { "a day".to_owned() } else { format!("{days} days") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn notice(what: What) -> Notice {
        let about = About { id: "contract/u".to_owned(), object: "ResidentPool/team-a/chat".to_owned() };
        Notice { account: "acme".to_owned(), about, what }
    }

    fn waits(order: &str, version: &str, why: &str) -> What {
        What::WaitsForMoney { order: order.to_owned(), version: version.to_owned(), why: why.to_owned() }
    }

    #[test]
    fn the_id_says_which_fact_it_is_and_nothing_else() {
        let text = |it: &str| it.to_owned();
        for (what, id) in [
            (What::Expiring { days: 7, at: at(10) }, "contract/u/expiring/10/7"),
            (What::Expired { at: at(10), releases_at: at(20) }, "contract/u/expired/10"),
            (What::Expired { at: at(10), releases_at: at(30) }, "contract/u/expired/10"),
            (What::Releasing { days: 30, at: at(20) }, "contract/u/releasing/20/30"),
            (What::Released { at: at(20) }, "contract/u/released/20"),
            (
                What::RenewalUnpaid { expires_at: at(10), why: text("5.00 EUR are missing") },
                "contract/u/renewal-unpaid/10",
            ),
            (
                waits("expand/8 cards/40 GB", "3", "5.00 EUR are missing"),
                "contract/u/waits-for-money/expand/8-cards/40-GB/3",
            ),
            (waits("initial", "1", "4.00 EUR are missing"), "contract/u/waits-for-money/initial/1"),
            (What::Refunded { amount: text("25696.80"), currency: text("CNY") }, "contract/u/refunded/acme"),
            (
                What::ArrearsBegan { since_ms: 1234, balance: text("-1.00"), currency: text("CNY") },
                "contract/u/arrears-began/1234",
            ),
            (What::ArrearsEnded { since_ms: 1234 }, "contract/u/arrears-ended/1234"),
        ] {
            let notice = notice(what);
            assert_eq!(notice.id(), id);
            // A signature joins id, time and body with full stops.
            assert!(!notice.id().contains(['.', ' ']), "{id}");
        }
    }

    #[test]
    fn each_reminder_is_another_one_and_so_is_each_term() {
        let mut ids = BTreeSet::new();
        for days in [7, 3, 1] {
            for expiry in [10, 20] {
                assert!(ids.insert(notice(What::Expiring { days, at: at(expiry) }).id()), "{days} {expiry}");
            }
        }
        for version in ["1", "2"] {
            for order in ["initial", "renewal/manual/0"] {
                assert!(ids.insert(notice(waits(order, version, "")).id()), "{order} {version}");
            }
        }
    }

    #[test]
    fn people_read_what_it_means_and_what_to_do() {
        let soon = notice(What::Expiring { days: 1, at: at(0) });
        assert_eq!(soon.title(), "ResidentPool team-a/chat expires within a day");
        assert_eq!(
            soon.text(),
            "ResidentPool team-a/chat expires at 1970-01-01T00:00:00Z. Renew it in time to keep its cards: append to spec.renewals, such as {months: 1}."
        );
        let refunded = What::Refunded { amount: "25696.80".to_owned(), currency: "CNY".to_owned() };
        assert_eq!(
            notice(refunded).text(),
            "ResidentPool team-a/chat was left. 25696.80 CNY came back to the account: what was paid in cash and is not used."
        );
    }
}
