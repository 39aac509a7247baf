//! Statements of a write transaction: a text for both engines, its values, and how several go to the engine at once.

use std::fmt::Write;

use futures::TryStreamExt;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Either, Executor as _};

use super::Engine;

/// A statement whose values have not been sent. In its text each value is a `?`.
///
/// Why not `$1`: SQLite looks a numbered place up among all places of the statement, for each value anew, so that a hundred rows
/// in one INSERT took three times as long as need be. PostgreSQL knows only numbers; it gets them in `message`.
#[derive(Debug, Clone)]
pub(super) struct Statement<'a> {
    text: String,
    values: Vec<Value<'a>>,
}

/// A value that goes with a statement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Number(i64),
    Text(&'a str),
    /// A text that is not there.
    Nothing,
}

impl From<i64> for Value<'_> {
    fn from(it: i64) -> Self {
        Value::Number(it)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(it: &'a str) -> Self {
        Value::Text(it)
    }
}

impl<'a> From<Option<&'a str>> for Value<'a> {
    fn from(it: Option<&'a str>) -> Self {
        it.map_or(Value::Nothing, Value::Text)
    }
}

impl<'a> Statement<'a> {
    pub(super) fn new(
        text: impl Into<String>,
        values: impl IntoIterator<Item = impl Into<Value<'a>>>,
    ) -> Statement<'a> {
        Statement { text: text.into(), values: values.into_iter().map(Into::into).collect() }
    }
}

/// `(?, ?), (?, ?)` for two rows of two columns.
pub(super) fn places(rows: usize, columns: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(", "));
    vec![row.as_str(); rows].join(", ")
}

/// How many values go in one message: a hundred rows of the book. PostgreSQL takes 65,535, SQLite 32,766.
const VALUES_PER_MESSAGE: usize = 1_400;

/// How many statements go in one message: as many as the first one of an order has. SQLite keeps messages prepared by their text,
/// so there should not be many that differ only in how often something is said.
const STATEMENTS_PER_MESSAGE: usize = 8;

/// Statements as they go to the engine. SQLite takes several in one text: its connection is a thread of its own, and to send it
/// something and wait for the answer costs more than most statements. PostgreSQL takes one at a time, and so does whoever does not
/// want them together.
pub(super) fn messages(engine: Engine, together: bool, statements: Vec<Statement<'_>>) -> Vec<Message<'_>> {
    let together = together && engine == Engine::Sqlite;
    let mut messages: Vec<Message<'_>> = Vec::new();
    for Statement { text, values } in statements {
        match messages.last_mut() {
            Some(last) if together && last.takes(values.len()) => {
                last.text.push_str("; ");
                last.text.push_str(&text);
                last.values.extend(values);
                last.statements += 1;
            }
            Some(_) | None => {
                let text = match engine {
                    Engine::Sqlite => text,
                    Engine::Postgres => numbered(&text),
                };
                messages.push(Message { text, values, statements: 1 });
            }
        }
    }
    messages
}

/// `$1, $2` instead of `?, ?`.
fn numbered(text: &str) -> String {
    let mut parts = text.split('?');
    let mut numbered = parts.next().unwrap_or_default().to_owned();
    for (place, part) in parts.enumerate() {
        write!(numbered, "${}{part}", place + 1).expect("a String takes all that is written to it");
    }
    numbered
}

/// What goes to the engine at once.
pub(super) struct Message<'a> {
    text: String,
    values: Vec<Value<'a>>,
    statements: usize,
}

impl Message<'_> {
    /// Is there room for another statement with so many values?
    fn takes(&self, values: usize) -> bool {
        self.statements < STATEMENTS_PER_MESSAGE && self.values.len() + values <= VALUES_PER_MESSAGE
    }

    /// Sends it, and adds the rows of each of its statements to the answers.
    pub(super) async fn send(
        self,
        connection: &mut AnyConnection,
        answers: &mut Vec<Vec<AnyRow>>,
    ) -> Result<(), sqlx::Error> {
        let mut query = sqlx::query(AssertSqlSafe(self.text));
        for value in self.values {
            query = match value {
                Value::Number(it) => query.bind(it),
                Value::Text(it) => query.bind(it),
                Value::Nothing => query.bind(None::<&str>),
            };
        }
        let expected = answers.len() + self.statements;
        let mut rows = Vec::new();
        let mut found = connection.fetch_many(query);
        while let Some(it) = found.try_next().await? {
            match it {
                Either::Right(row) => rows.push(row),
                // The end of a statement.
                Either::Left(_) => answers.push(std::mem::take(&mut rows)),
            }
        }
        if answers.len() == expected {
            return Ok(());
        }
        Err(sqlx::Error::Protocol(format!("{} answers instead of {expected}", answers.len())))
    }
}
