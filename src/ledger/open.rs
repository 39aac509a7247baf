//! Opens a database: connections as the ledger needs them, tables of the newest version. What is in them is checked in
//! `verify`.

use std::cmp::Ordering;
use std::fmt::Write;
use std::str::FromStr;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions, install_default_drivers};
use sqlx::{AnyConnection, AnyPool, ConnectOptions as _, Connection as _, Row as _};

use super::work::read;
use super::{Engine, Error, Ledger};

/// How many reads may run at once. Bills and lists wait for each other before they use up the database's connections.
const READERS: u32 = 4;
/// The same for who only reads: a check of the whole ledger takes two.
const ONLY_READERS: u32 = 6;

/// How long a call waits for a connection: the writes before it take their time, a database that is away does not come back
/// for waiting, and who calls repeats.
const PATIENCE: Duration = Duration::from_secs(10);

/// Every version of the tables, oldest first. A released one is never changed: it has a successor.
const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        sqlite: include_str!("migrations/1.sqlite.sql"),
        postgres: include_str!("migrations/1.postgres.sql"),
    },
    Migration {
        version: 2,
        sqlite: include_str!("migrations/2.sqlite.sql"),
        postgres: include_str!("migrations/2.postgres.sql"),
    },
    Migration {
        version: 3,
        sqlite: include_str!("migrations/3.sqlite.sql"),
        postgres: include_str!("migrations/3.postgres.sql"),
    },
    Migration {
        version: 4,
        sqlite: include_str!("migrations/4.sqlite.sql"),
        postgres: include_str!("migrations/4.postgres.sql"),
    },
    Migration {
        version: 5,
        sqlite: include_str!("migrations/5.sqlite.sql"),
        postgres: include_str!("migrations/5.postgres.sql"),
    },
];

struct Migration {
    version: i64,
    sqlite: &'static str,
    postgres: &'static str,
}

/// SQLite: a commit is on the disk when it returns, and readers don't wait for the writer. Five seconds are patience with a
/// second process, which the fence will end.
const SQLITE: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
                      PRAGMA busy_timeout = 5000";

/// PostgreSQL: a commit is on the disk whatever the server's default, and a leader that froze in mid-transaction does not hold
/// the fence for ever.
const POSTGRES: &str = "SET synchronous_commit = on; SET lock_timeout = '10s'; \
                        SET idle_in_transaction_session_timeout = '30s'";

/// For who only reads. The file's journal is as its writer has made it.
const SQLITE_READ: &str = "PRAGMA query_only = ON; PRAGMA busy_timeout = 5000";

/// For who only reads.
const POSTGRES_READ: &str = "SET default_transaction_read_only = on; SET lock_timeout = '10s'; \
                             SET idle_in_transaction_session_timeout = '60s'";

/// What connections are for.
#[derive(Debug, Clone, Copy)]
enum Use {
    Write,
    Read,
}

impl Ledger {
    /// Opens `sqlite:PATH` (made if it is missing) or `postgres://...`, brings its tables up to date, and checks all that is in
    /// it. Refuses a ledger that does not add up, and says what differs.
    pub async fn open(url: &str) -> Result<Ledger, Error> {
        let (engine, address) = engine_of(url, "rwc")?;
        let options = AnyConnectOptions::from_str(&address).map_err(Error::Connect)?;
        // A pool repeats what fails for a long time; this says at once what is wrong with the address.
        let mut first = options.connect().await.map_err(Error::Connect)?;
        set_up(engine, Use::Write, &mut first).await.map_err(Error::Connect)?;
        first.close().await.map_err(Error::Connect)?;
        let ledger = Ledger {
            engine,
            writer: pool(engine, Use::Write, 1, &options).await?,
            readers: pool(engine, Use::Write, READERS, &options).await?,
            #[cfg(test)]
            failpoint: super::tests::Failpoint::default(),
        };
        ledger.migrate().await?;
        ledger.verify().await?;
        Ok(ledger)
    }

    /// Opens a ledger that is there, for who only reads it, beside whoever writes: with connections of its own, so that nobody who writes
    /// waits for a long read. Nothing is made, brought up to date or checked, and every write of it fails.
    pub async fn open_to_read(url: &str) -> Result<Ledger, Error> {
        let (engine, address) = engine_of(url, "rw")?;
        let options = AnyConnectOptions::from_str(&address).map_err(Error::Connect)?;
        let mut first = options.connect().await.map_err(Error::Connect)?;
        set_up(engine, Use::Read, &mut first).await.map_err(Error::Connect)?;
        let found = sqlx::query("SELECT max(version) FROM migrations").fetch_one(&mut first).await;
        let found: i64 = found.and_then(|it| it.try_get(0)).map_err(read("migrations"))?;
        first.close().await.map_err(Error::Connect)?;
        let known = newest();
        match found.cmp(&known) {
            Ordering::Less => return Err(Error::Older { found, known }),
            Ordering::Greater => return Err(Error::Newer { found, known }),
            Ordering::Equal => (),
        }
        let readers = pool(engine, Use::Read, ONLY_READERS, &options).await?;
        Ok(Ledger {
            engine,
            writer: readers.clone(),
            readers,
            #[cfg(test)]
            failpoint: super::tests::Failpoint::default(),
        })
    }

    /// Brings the tables to the newest version, each step with its record in one transaction.
    async fn migrate(&self) -> Result<(), Error> {
        let known = newest();
        let fault = |version| move |source| Error::Migrate { version, source };
        let mut work = match self.engine {
            Engine::Sqlite => self.writer.begin_with("BEGIN IMMEDIATE").await,
            Engine::Postgres => self.writer.begin().await,
        }
        .map_err(fault(0))?;
        if self.engine == Engine::Postgres {
            // Two operators may start at once, and CREATE TABLE IF NOT EXISTS alone does not make them wait.
            sqlx::raw_sql("SELECT pg_advisory_xact_lock(7233951)")
                .execute(&mut *work)
                .await
                .map_err(fault(0))?;
        }
        sqlx::raw_sql("CREATE TABLE IF NOT EXISTS migrations (version BIGINT NOT NULL PRIMARY KEY)")
            .execute(&mut *work)
            .await
            .map_err(fault(0))?;
        let found: i64 = sqlx::query("SELECT coalesce(max(version), 0) FROM migrations")
            .fetch_one(&mut *work)
            .await
            .and_then(|it| it.try_get(0))
            .map_err(fault(0))?;
        if found > known {
            return Err(Error::Newer { found, known });
        }
        for step in MIGRATIONS.iter().filter(|it| it.version > found) {
            let text = match self.engine {
                Engine::Sqlite => step.sqlite,
                Engine::Postgres => step.postgres,
            };
            sqlx::raw_sql(text).execute(&mut *work).await.map_err(fault(step.version))?;
            sqlx::query("INSERT INTO migrations (version) VALUES ($1)")
                .bind(step.version)
                .execute(&mut *work)
                .await
                .map_err(fault(step.version))?;
        }
        work.commit().await.map_err(fault(known))
    }
}

/// The newest version of the tables.
fn newest() -> i64 {
    MIGRATIONS.iter().map(|it| it.version).max().unwrap_or_default()
}

/// Which database an address is of, and the address as its driver wants it; `mode`: how SQLite opens the file.
fn engine_of(url: &str, mode: &str) -> Result<(Engine, String), Error> {
    install_default_drivers();
    if let Some(path) = url.strip_prefix("sqlite:") {
        Ok((Engine::Sqlite, sqlite_address(path, mode)))
    } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        Ok((Engine::Postgres, url.to_owned()))
    } else {
        Err(Error::Address(url.split_once("://").map_or(url, |it| it.0).to_owned()))
    }
}

/// The driver reads a path as part of a URL.
fn sqlite_address(path: &str, mode: &str) -> String {
    let mut address = "sqlite:".to_owned();
    for byte in path.strip_prefix("//").unwrap_or(path).bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            address.push(char::from(byte));
        } else {
            write!(address, "%{byte:02X}").expect("a String takes all that is written to it");
        }
    }
    address + "?mode=" + mode
}

async fn pool(
    engine: Engine,
    how: Use,
    connections: u32,
    options: &AnyConnectOptions,
) -> Result<AnyPool, Error> {
    AnyPoolOptions::new()
        .max_connections(connections)
        // A file does not go away between two transactions; a server may have been restarted.
        .test_before_acquire(engine == Engine::Postgres)
        .acquire_timeout(PATIENCE)
        .after_connect(move |connection, _| Box::pin(set_up(engine, how, connection)))
        .connect_with(options.clone())
        .await
        .map_err(Error::Connect)
}

async fn set_up(engine: Engine, how: Use, connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let settings = match (engine, how) {
        (Engine::Sqlite, Use::Write) => SQLITE,
        (Engine::Postgres, Use::Write) => POSTGRES,
        (Engine::Sqlite, Use::Read) => SQLITE_READ,
        (Engine::Postgres, Use::Read) => POSTGRES_READ,
    };
    sqlx::raw_sql(settings).execute(connection).await.map(|_| ())
}
