//! The transfers, read again in long pieces and replayed. What else a check looks at is in `verify`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use sqlx::any::Any;
use sqlx::{AssertSqlSafe, Row as _, Transaction};

use super::Error;
use super::book::{Book, Kind, Row};
use super::verify::{Differences, TOLD};
use super::work::read;

/// How many rows are read at once. A row as such costs ten times what is in it: the driver copies each of its values twice and
/// hands it from thread to thread. So the database puts a piece of the book together as one text.
const ROWS_PER_PIECE: i64 = 500;
/// Stands between two rows of a piece. No row has it in a text: ids have no control characters, and details are JSON.
const ROW_END: char = '\u{1e}';
/// Stands between two columns.
const COLUMN_END: char = '\u{1f}';
/// What a row is in a piece, in the order of `parse`. A column that may be NULL begins with `=` if it is not.
const COLUMNS: &str = "seq, id, kind, coalesce('=' || of, '-'), order_id, coalesce('=' || contract, '-'), \
                       debit, credit, amount, currency, at_ms, epoch, detail, chain";

/// What a hold holds: debit, credit, currency, amount.
pub(super) type Held = (String, String, String, i64);

/// The state of a replay.
#[derive(Default)]
pub(super) struct Replay {
    pub book: Book,
    pub seq: i64,
    pub chain: String,
    /// Holds that have not ended, by id.
    pub holds: BTreeMap<String, Held>,
    pub differences: Differences,
}

/// Some rows of the book as one text.
struct Piece {
    /// How many they are, as the database counts them.
    rows: i64,
    /// The last one's place.
    last: i64,
    text: String,
}

impl Piece {
    /// The rows after this one.
    async fn read(work: &mut Transaction<'static, Any>, after: i64) -> Result<Piece, Error> {
        let text = format!(
            "SELECT count(*), coalesce(max(seq), 0), coalesce(string_agg(line, $1), '') FROM \
             (SELECT seq, concat_ws($2, {COLUMNS}) AS line FROM transfers WHERE seq > $3 ORDER BY seq LIMIT $4) AS piece"
        );
        let query = sqlx::query(AssertSqlSafe(text)).bind(ROW_END.to_string()).bind(COLUMN_END.to_string());
        let row = query.bind(after).bind(ROWS_PER_PIECE).fetch_one(&mut **work).await;
        let fault = read("transfers");
        let row = row.map_err(&fault)?;
        Ok(Piece {
            rows: row.try_get(0).map_err(&fault)?,
            last: row.try_get(1).map_err(&fault)?,
            text: row.try_get(2).map_err(&fault)?,
        })
    }
}

impl Replay {
    /// Replays all that is there. One thread computes while the database puts the next piece together.
    pub(super) async fn of(work: &mut Transaction<'static, Any>) -> Result<Replay, Error> {
        let mut replay = Replay::default();
        let mut piece = Piece::read(work, i64::MIN).await?;
        while piece.rows > 0 {
            let last = piece.last;
            let computed = tokio::task::spawn_blocking(move || {
                replay.piece(&piece);
                replay
            });
            let next = Piece::read(work, last).await;
            let gone = |_| Error::Read { what: "transfers", source: sqlx::Error::WorkerCrashed };
            replay = computed.await.map_err(gone)?;
            piece = next?;
        }
        Ok(replay)
    }

    fn piece(&mut self, piece: &Piece) {
        let rows: Option<Vec<_>> = piece.text.split(ROW_END).map(parse).collect();
        // As many rows as there are, each with as many columns as there are: so no text has what stands between them.
        let Some(mut rows) = rows.filter(|it| i64::try_from(it.len()) == Ok(piece.rows)) else {
            let (first, last) = (self.seq.saturating_add(1), piece.last);
            self.differences.say(format!("transfers {first} to {last}: a text has control characters"));
            self.seq = last;
            return;
        };
        // As a rule they are in order, but no database promises it.
        rows.sort_by_key(|(it, _, _)| it.seq);
        for (row, kind, chain) in rows {
            if row.kind.word() == kind {
                self.transfer(&row, chain);
            } else {
                self.differences.say(format!("transfer {} has the kind `{kind}`", row.seq));
            }
        }
    }

    fn transfer(&mut self, row: &Row<'_>, chain: &str) {
        // As many as are told, and one for `and more`.
        for missing in (self.seq + 1..row.seq).take(TOLD + 1) {
            self.differences.say(format!("transfer {missing} is missing"));
        }
        let name = || format!("transfer {} ({})", row.seq, row.id);
        if row.chain(&self.chain) != chain {
            self.differences.say(format!("{} is not what was written: its chain differs", name()));
        }
        if self.book.apply(row).is_err() {
            self.differences.say(format!("{} overflows", name()));
        }
        self.seq = row.seq;
        chain.clone_into(&mut self.chain);
        let what = || (row.debit.to_string(), row.credit.to_string(), row.currency.to_string(), row.amount);
        match row.kind {
            Kind::Transfer => {}
            Kind::Hold => {
                self.holds.insert(row.id.to_string(), what());
            }
            Kind::Post | Kind::Void => {
                if self.holds.remove(row.of.as_deref().unwrap_or_default()) != Some(what()) {
                    self.differences.say(format!("{} ends no open hold that is like it", name()));
                }
            }
        }
    }
}

/// A row, what it says is its kind, and its chain.
fn parse(text: &str) -> Option<(Row<'_>, &str, &str)> {
    let mut columns = text.split(COLUMN_END);
    let seq = columns.next()?.parse().ok()?;
    let id = columns.next()?.into();
    let word = columns.next()?;
    let row = Row {
        seq,
        id,
        // Whoever uses the row compares the words.
        kind: Kind::ALL.into_iter().find(|it| it.word() == word).unwrap_or(Kind::Transfer),
        of: optional(columns.next()?).ok()?,
        order_id: columns.next()?.into(),
        contract: optional(columns.next()?).ok()?,
        debit: columns.next()?.into(),
        credit: columns.next()?.into(),
        amount: columns.next()?.parse().ok()?,
        currency: columns.next()?.into(),
        at_ms: columns.next()?.parse().ok()?,
        epoch: columns.next()?.parse().ok()?,
        detail: columns.next()?.into(),
    };
    let chain = columns.next()?;
    columns.next().is_none().then_some((row, word, chain))
}

/// A column that may be NULL; an error if it says neither.
fn optional(text: &str) -> Result<Option<Cow<'_, str>>, ()> {
    match text.strip_prefix('=') {
        Some(it) => Ok(Some(it.into())),
        None if text == "-" => Ok(None),
        None => Err(()),
    }
}
