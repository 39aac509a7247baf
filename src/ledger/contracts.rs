//! Contract ids: minted once, adopted by an object that was restored, closed once.

use std::collections::BTreeSet;

use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::statement::{Statement, Value};
use super::work::{Work, asks, read};
use super::{At, Contract, Error, Ledger, entry};

/// The columns of a contract, in the order of `contract`.
const COLUMNS: &str = "id, object, uid, opened_at_ms, closed_at_ms";

impl Ledger {
    /// Opens a contract. An object (by its uid) that has one gets that one, also if it is closed and whatever id is asked for: two
    /// who mint at once end up with the same.
    pub async fn open_contract(&self, at: At, id: &str, object: &str, uid: &str) -> Result<Contract, Error> {
        check(id, object, uid)?;
        let same_id = BTreeSet::from([id]);
        let questions = [contract_of(uid), contracts_by_id(&same_id)];
        let (mut work, [of_object, of_id]) = Work::begin(self, at, questions).await?;
        if let Some(known) = of_object.first().map(contract).transpose()? {
            if known.object != object {
                return Err(Error::OtherObject { contract: known.id, object: known.object });
            }
            work.commit().await?;
            return Ok(known);
        }
        if !of_id.is_empty() {
            return Err(Error::Taken(id.to_owned()));
        }
        let text = "INSERT INTO contracts (id, object, uid, opened_at_ms) VALUES (?, ?, ?, ?)";
        let values = [Value::Text(id), Value::Text(object), Value::Text(uid), Value::Number(at.ms)];
        work.write("contract", vec![Statement::new(text, values)]).await?;
        work.commit().await?;
        let (id, object, uid) = (id.to_owned(), object.to_owned(), uid.to_owned());
        Ok(Contract { id, object, uid, opened_at_ms: at.ms, closed_at_ms: None })
    }

    /// Gives an open contract to an object of the same kind, namespace and name with another uid: one that was restored from a
    /// backup. That the former object is gone is for the caller to know.
    pub async fn adopt_contract(&self, at: At, id: &str, object: &str, uid: &str) -> Result<Contract, Error> {
        check(id, object, uid)?;
        let same_id = BTreeSet::from([id]);
        let questions = [contracts_by_id(&same_id), contract_of(uid)];
        let (mut work, [of_id, of_object]) = Work::begin(self, at, questions).await?;
        let mut contract = must_be_open(id, &of_id)?;
        if contract.object != object {
            return Err(Error::OtherObject { contract: contract.id, object: contract.object });
        }
        if contract.uid != uid {
            if !of_object.is_empty() {
                return Err(Error::Taken(uid.to_owned()));
            }
            let text = "UPDATE contracts SET uid = ? WHERE id = ?";
            work.write("contract", vec![Statement::new(text, [uid, id])]).await?;
            uid.clone_into(&mut contract.uid);
        }
        work.commit().await?;
        Ok(contract)
    }

    /// Closes a contract without a refund. That it is closed is as good.
    pub async fn close_contract(&self, at: At, id: &str) -> Result<(), Error> {
        entry::check_text("contract", id)?;
        let same_id = BTreeSet::from([id]);
        let (mut work, [known]) = Work::begin(self, at, [contracts_by_id(&same_id)]).await?;
        all_known(&same_id, &known)?;
        work.close_contract(id).await?;
        work.commit().await
    }

    /// The open contracts, by id.
    pub async fn contracts(&self) -> Result<Vec<Contract>, Error> {
        let text = format!("SELECT {COLUMNS} FROM contracts WHERE closed_at_ms IS NULL");
        let rows = sqlx::query(AssertSqlSafe(text)).fetch_all(&self.readers).await;
        let rows = rows.map_err(read("contracts"))?;
        let mut contracts: Vec<Contract> = rows.iter().map(contract).collect::<Result<_, _>>()?;
        contracts.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(contracts)
    }

    /// The contract of the object with this uid, also a closed one.
    pub async fn contract_of(&self, uid: &str) -> Result<Option<Contract>, Error> {
        let text = format!("SELECT {COLUMNS} FROM contracts WHERE uid = $1");
        let row = sqlx::query(AssertSqlSafe(text)).bind(uid).fetch_optional(&self.readers).await;
        row.map_err(read("contracts"))?.as_ref().map(contract).transpose()
    }
}

impl Work<'_> {
    /// Closes a contract, unless it is closed. All that was used by it must be billed.
    pub(super) async fn close_contract(&mut self, id: &str) -> Result<(), Error> {
        let text =
            "SELECT id FROM spans WHERE contract = ? AND (until_ms IS NULL OR billed_ms < until_ms) LIMIT 1";
        if !self.ask("spans", vec![Statement::new(text, [id])]).await?.is_empty() {
            return Err(Error::Unbilled(id.to_owned()));
        }
        let text = "UPDATE contracts SET closed_at_ms = ? WHERE id = ? AND closed_at_ms IS NULL";
        let values = [Value::Number(self.at().ms), Value::Text(id)];
        self.write("contract", vec![Statement::new(text, values)]).await
    }
}

/// Asks for the contracts with these ids.
pub(super) fn contracts_by_id<'a>(ids: &BTreeSet<&'a str>) -> Vec<Statement<'a>> {
    let ids: Vec<&str> = ids.iter().copied().collect();
    asks(&ids, |places| format!("SELECT {COLUMNS} FROM contracts WHERE id IN {places}"))
}

/// Asks for the contract of the object with this uid.
fn contract_of(uid: &str) -> Vec<Statement<'_>> {
    vec![Statement::new(format!("SELECT {COLUMNS} FROM contracts WHERE uid = ?"), [uid])]
}

/// This contract as `contracts_by_id` found it, which must be open.
pub(super) fn must_be_open(id: &str, found: &[AnyRow]) -> Result<Contract, Error> {
    let found = found.first().map(contract).transpose()?;
    let contract = found.ok_or_else(|| Error::NoContract(id.to_owned()))?;
    if contract.closed_at_ms.is_some() { Err(Error::Closed(contract.id)) } else { Ok(contract) }
}

/// All these contracts must be open, by what `contracts_by_id` found.
pub(super) fn all_open(ids: &BTreeSet<&str>, found: &[AnyRow]) -> Result<(), Error> {
    all_known(ids, found)?;
    for it in found {
        let contract = contract(it)?;
        if contract.closed_at_ms.is_some() {
            return Err(Error::Closed(contract.id));
        }
    }
    Ok(())
}

/// All these contracts must be among those that `contracts_by_id` found; they may be closed.
pub(super) fn all_known(ids: &BTreeSet<&str>, found: &[AnyRow]) -> Result<(), Error> {
    let found: BTreeSet<String> =
        found.iter().map(|it| Ok(contract(it)?.id)).collect::<Result<_, Error>>()?;
    match ids.iter().find(|it| !found.contains(**it)) {
        Some(missing) => Err(Error::NoContract((*missing).to_owned())),
        None => Ok(()),
    }
}

fn check(id: &str, object: &str, uid: &str) -> Result<(), Error> {
    entry::check_text("contract", id)?;
    entry::check_text("object", object)?;
    entry::check_text("uid", uid)
}

pub(super) fn contract(from: &AnyRow) -> Result<Contract, Error> {
    let fault = read("contracts");
    Ok(Contract {
        id: from.try_get(0).map_err(&fault)?,
        object: from.try_get(1).map_err(&fault)?,
        uid: from.try_get(2).map_err(&fault)?,
        opened_at_ms: from.try_get(3).map_err(&fault)?,
        closed_at_ms: from.try_get(4).map_err(&fault)?,
    })
}
