//! What receivers read of a notice: the `data` of an event, and the words of an email. `docs/notice-v1.schema.json` is made of
//! this; fields are added, never changed.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::domain::notice::{Notice, What};
use crate::ledger::{NoticeIn, NoticeRow};
use crate::notify::Letter;

/// A notice as the ledger keeps it.
#[derive(Serialize, Deserialize)]
struct Detail {
    about: String,
    title: String,
    data: Data,
}

/// The `data` of an event of type `dev.tenure.notice.KIND.v1`. Which fields beside the first three it has depends on the kind.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Data {
    /// Who is told.
    pub account: String,
    /// What it is about.
    pub object: Object,
    /// What it means and what to do, for people. The words may change.
    pub message: String,
    /// `expiring`, `releasing`: within so many days; 7, 3, 1, or 30, 7, 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
    /// `expiring`, `expired`, `renewal-unpaid`: when the contract expires, or has expired. RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// `expired`, `releasing`, `released`: when it is, or was, released for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub releases_at: Option<String>,
    /// `waits-for-money`: which order waits, such as `initial` or `renewal/manual/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// `refunded`: what came back, a decimal number. `arrears-began`: the balance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// The currency of the amount, ISO 4217.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// `arrears-began`, `arrears-ended`: when these arrears began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// An object of the cluster.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
pub struct Object {
    /// `ResidentPool`, `Account`.
    pub kind: String,
    /// Empty for an Account.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Object {
    /// From `Kind/namespace/name` or `Kind/name`.
    fn parse(text: &str) -> Object {
        let words: Vec<&str> = text.splitn(3, '/').collect();
        let (kind, namespace, name) = match words[..] {
            [kind, namespace, name] => (kind, namespace, name),
            [kind, name] => (kind, "", name),
            _ => ("", "", text),
        };
        Object { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// What the ledger keeps of a notice.
pub(in crate::controllers) fn row(notice: &Notice) -> NoticeIn {
    let detail = Detail { about: notice.about.object.clone(), title: notice.title(), data: data(notice) };
    NoticeIn {
        id: notice.id(),
        account: notice.account.clone(),
        kind: notice.what.kind().to_owned(),
        detail: serde_json::to_string(&detail).unwrap_or_default(),
    }
}

/// What is sent of a notice that the ledger has kept; `None` when another version wrote it in another way.
pub(super) fn letter(row: &NoticeRow) -> Option<Letter> {
    let NoticeRow { notice: NoticeIn { id, account, kind, detail }, at_ms } = row;
    let detail: Detail = serde_json::from_str(detail).ok()?;
    Some(Letter {
        id: id.clone(),
        account: account.clone(),
        kind: kind.clone(),
        about: detail.about,
        title: detail.title,
        text: detail.data.message.clone(),
        at: Timestamp::from_millisecond(*at_ms).ok()?,
        data: serde_json::to_value(detail.data).ok()?,
    })
}

fn data(notice: &Notice) -> Data {
    let base = Data {
        account: notice.account.clone(),
        object: Object::parse(&notice.about.object),
        message: notice.text(),
        ..Data::default()
    };
    let time = |it: &Timestamp| Some(it.to_string());
    let since = |ms: i64| Timestamp::from_millisecond(ms).ok().map(|it| it.to_string());
    match &notice.what {
        What::Expiring { days, at } => Data { days: Some(*days), expires_at: time(at), ..base },
        What::Expired { at, releases_at } => {
            Data { expires_at: time(at), releases_at: time(releases_at), ..base }
        }
        What::Releasing { days, at } => Data { days: Some(*days), releases_at: time(at), ..base },
        What::Released { at } => Data { releases_at: time(at), ..base },
        What::RenewalUnpaid { expires_at, why: _ } => Data { expires_at: time(expires_at), ..base },
        What::WaitsForMoney { order, version: _, why: _ } => Data { order: Some(order.clone()), ..base },
        What::Refunded { amount, currency } => {
            Data { amount: Some(amount.clone()), currency: Some(currency.clone()), ..base }
        }
        What::ArrearsBegan { since_ms, balance, currency } => Data {
            since: since(*since_ms),
            amount: Some(balance.clone()),
            currency: Some(currency.clone()),
            ..base
        },
        What::ArrearsEnded { since_ms } => Data { since: since(*since_ms), ..base },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::notice::About;
    use serde_json::json;

    #[test]
    fn a_notice_is_kept_and_sent_as_it_was_told() {
        let at = Timestamp::from_second(0).unwrap();
        let notice = Notice {
            account: "acme".to_owned(),
            about: About { id: "contract/u".to_owned(), object: "ResidentPool/team-a/chat".to_owned() },
            what: What::Expiring { days: 7, at },
        };
        let letter = letter(&NoticeRow { notice: row(&notice), at_ms: 1_500 }).unwrap();
        assert_eq!((letter.id.as_str(), letter.kind.as_str()), ("contract/u/expiring/0/7", "expiring"));
        assert_eq!(letter.title, "ResidentPool team-a/chat expires within 7 days");
        assert_eq!(letter.at.to_string(), "1970-01-01T00:00:01.5Z");
        assert_eq!(
            letter.data,
            json!({
                "account": "acme",
                "object": {"kind": "ResidentPool", "namespace": "team-a", "name": "chat"},
                "message": notice.text(),
                "days": 7,
                "expiresAt": "1970-01-01T00:00:00Z",
            })
        );
        assert_eq!(
            Object::parse("Account/acme"),
            Object { kind: "Account".to_owned(), namespace: String::new(), name: "acme".to_owned() }
        );
    }

    #[test]
    fn the_committed_schema_is_that_of_the_types() {
        let schema = serde_json::to_string_pretty(&schemars::schema_for!(Data)).unwrap() + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/notice-v1.schema.json");
        if std::env::var_os("TENURE_WRITE_SCHEMA").is_some() {
            std::fs::write(path, &schema).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == schema,
            "docs/notice-v1.schema.json is not what the types say: run this test with TENURE_WRITE_SCHEMA=1"
        );
    }
}
