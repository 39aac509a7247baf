//! The outbox: what owners are told, and how it got there. It is no money, but it stands beside it, so that the same term of
//! leadership writes both and a restart forgets neither.

use std::collections::BTreeSet;

use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::statement::{Statement, Value, places};
use super::work::{Work, read};
use super::{At, Error, Ledger, entry};

/// Rows in one INSERT.
const ROWS_PER_INSERT: usize = 100;

/// A fact that somebody is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeIn {
    /// Which fact: the same one has the same id.
    pub id: String,
    /// Who is told.
    pub account: String,
    /// Which kind of fact.
    pub kind: String,
    /// What is told, as who sends it reads it.
    pub detail: String,
}

/// A notice as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeRow {
    /// What was written.
    pub notice: NoticeIn,
    /// When it was written, ms since 1970.
    pub at_ms: i64,
}

/// How a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeliveryState {
    /// It will be tried (again).
    Waiting,
    /// It is there.
    Sent,
    /// It was given up.
    Failed,
    /// Nobody wants it there any more.
    Dropped,
}

impl DeliveryState {
    const ALL: [DeliveryState; 4] =
        [DeliveryState::Waiting, DeliveryState::Sent, DeliveryState::Failed, DeliveryState::Dropped];

    fn word(self) -> &'static str {
        match self {
            DeliveryState::Waiting => "waiting",
            DeliveryState::Sent => "sent",
            DeliveryState::Failed => "failed",
            DeliveryState::Dropped => "dropped",
        }
    }
}

/// A notice on its way to one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The notice's id.
    pub notice: String,
    /// Whose it is.
    pub account: String,
    /// Where it goes.
    pub target: String,
    /// How it stands.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: u32,
    /// How the last try failed.
    pub error: Option<String>,
    /// When that was, or when it was addressed, ms since 1970.
    pub at_ms: i64,
}

impl Ledger {
    /// Writes facts down. One that is there already stays as it is.
    pub async fn note(&self, at: At, notices: &[NoticeIn]) -> Result<(), Error> {
        for it in notices {
            entry::check_text("notice", &it.id)?;
            entry::check_account(&it.account)?;
            entry::check_text("kind", &it.kind)?;
        }
        let (mut work, []) = Work::begin(self, at, []).await?;
        let statements = notices.chunks(ROWS_PER_INSERT).map(|some| {
            let text = format!(
                "INSERT INTO notices (id, account, kind, detail, at_ms, addressed) VALUES {} ON CONFLICT (id) DO NOTHING",
                places(some.len(), 6)
            );
            let values = some.iter().flat_map(|it| -> [Value<'_>; 6] {
                let NoticeIn { id, account, kind, detail } = it;
                let texts = [id, account, kind, detail].map(|it| Value::Text(it));
                let [id, account, kind, detail] = texts;
                [id, account, kind, detail, at.ms.into(), 0.into()]
            });
            Statement::new(text, values)
        });
        work.write("notices", statements.collect()).await?;
        work.commit().await
    }

    /// Says where notices go; with no target that is the end of it. One that has been addressed stays so.
    pub async fn address(&self, at: At, notices: &[(String, BTreeSet<String>)]) -> Result<(), Error> {
        let (mut work, []) = Work::begin(self, at, []).await?;
        let mut statements = Vec::new();
        for (notice, targets) in notices {
            for target in targets {
                let text = "INSERT INTO deliveries (notice, target, state, attempts, error, at_ms) VALUES (?, ?, ?, ?, ?, ?) \
                            ON CONFLICT (notice, target) DO NOTHING";
                let state = DeliveryState::Waiting.word();
                let values: [Value<'_>; 6] = [
                    notice.as_str().into(),
                    target.as_str().into(),
                    state.into(),
                    0.into(),
                    Value::Nothing,
                    at.ms.into(),
                ];
                statements.push(Statement::new(text, values));
            }
            let text = "UPDATE notices SET addressed = 1 WHERE id = ? AND addressed = 0";
            statements.push(Statement::new(text, [notice.as_str()]));
        }
        work.write("deliveries", statements).await?;
        work.commit().await
    }

    /// Writes down how a delivery stands now. One that has ended stays as it ended.
    pub async fn mark(&self, at: At, delivery: &Delivery) -> Result<(), Error> {
        let (mut work, []) = Work::begin(self, at, []).await?;
        let text = "UPDATE deliveries SET state = ?, attempts = ?, error = ?, at_ms = ? \
                    WHERE notice = ? AND target = ? AND state = 'waiting'";
        let Delivery { notice, account: _, target, state, attempts, error, at_ms: _ } = delivery;
        let values: [Value<'_>; 6] = [
            state.word().into(),
            i64::from(*attempts).into(),
            error.as_deref().into(),
            at.ms.into(),
            notice.as_str().into(),
            target.as_str().into(),
        ];
        work.write("deliveries", vec![Statement::new(text, values)]).await?;
        work.commit().await
    }

    /// Forgets notices that were written before then, but not those of two kinds: they are looked for later.
    pub async fn forget_notices(&self, at: At, before_ms: i64, kept: [&str; 2]) -> Result<(), Error> {
        let (mut work, []) = Work::begin(self, at, []).await?;
        let statements = [
            "DELETE FROM deliveries WHERE notice IN (SELECT id FROM notices WHERE at_ms < ? AND kind NOT IN (?, ?))",
            "DELETE FROM notices WHERE at_ms < ? AND kind NOT IN (?, ?)",
        ];
        let values = || [Value::Number(before_ms), Value::Text(kept[0]), Value::Text(kept[1])];
        work.write("notices", statements.map(|it| Statement::new(it, values())).into()).await?;
        work.commit().await
    }

    /// The ids of all notices that are kept, with their kinds.
    pub async fn notice_ids(&self) -> Result<Vec<(String, String)>, Error> {
        let fault = read("notices");
        let rows = sqlx::query("SELECT id, kind FROM notices").fetch_all(&self.readers).await;
        rows.map_err(&fault)?
            .iter()
            .map(|it| Ok((it.try_get(0)?, it.try_get(1)?)))
            .collect::<Result<_, _>>()
            .map_err(&fault)
    }

    /// Notices of which it is not said yet where they go, oldest first.
    pub async fn unaddressed(&self) -> Result<Vec<NoticeRow>, Error> {
        let text = "SELECT id, account, kind, detail, at_ms FROM notices WHERE addressed = 0";
        let rows = sqlx::query(text).fetch_all(&self.readers).await.map_err(read("notices"))?;
        let mut notices: Vec<NoticeRow> =
            rows.iter().map(notice).collect::<Result<_, _>>().map_err(read("notices"))?;
        notices.sort_by(|a, b| (a.at_ms, &a.notice.id).cmp(&(b.at_ms, &b.notice.id)));
        Ok(notices)
    }

    /// One notice.
    pub async fn notice(&self, id: &str) -> Result<Option<NoticeRow>, Error> {
        let text = "SELECT id, account, kind, detail, at_ms FROM notices WHERE id = $1";
        let row = sqlx::query(text).bind(id).fetch_optional(&self.readers).await.map_err(read("notices"))?;
        row.as_ref().map(notice).transpose().map_err(read("notices"))
    }

    /// All deliveries that are kept, in the order in which they last changed.
    pub async fn deliveries(&self) -> Result<Vec<Delivery>, Error> {
        let text = "SELECT d.notice, n.account, d.target, d.state, d.attempts, d.error, d.at_ms \
                    FROM deliveries d JOIN notices n ON n.id = d.notice";
        let rows =
            sqlx::query(AssertSqlSafe(text)).fetch_all(&self.readers).await.map_err(read("deliveries"))?;
        let mut all: Vec<Delivery> =
            rows.iter().map(delivery).collect::<Result<_, _>>().map_err(read("deliveries"))?;
        all.sort_by(|a, b| (a.at_ms, &a.notice, &a.target).cmp(&(b.at_ms, &b.notice, &b.target)));
        Ok(all)
    }
}

fn notice(from: &AnyRow) -> Result<NoticeRow, sqlx::Error> {
    let (id, account) = (from.try_get(0)?, from.try_get(1)?);
    let (kind, detail) = (from.try_get(2)?, from.try_get(3)?);
    Ok(NoticeRow { notice: NoticeIn { id, account, kind, detail }, at_ms: from.try_get(4)? })
}

fn delivery(from: &AnyRow) -> Result<Delivery, sqlx::Error> {
    let word: String = from.try_get(3)?;
    let state = DeliveryState::ALL.into_iter().find(|it| it.word() == word);
    Ok(Delivery {
        notice: from.try_get(0)?,
        account: from.try_get(1)?,
        target: from.try_get(2)?,
        state: state.ok_or_else(|| sqlx::Error::Protocol(format!("a delivery is `{word}`")))?,
        attempts: u32::try_from(from.try_get::<i64, _>(4)?).unwrap_or(0),
        error: from.try_get(5)?,
        at_ms: from.try_get(6)?,
    })
}
