//! Contract ids: minted once, adopted by an object that was restored, closed once.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::work::{IDS_PER_SELECT, Work, places, read};
use super::{At, Contract, Error, Ledger, entry};

/// The columns of a contract, in the order of `contract`.
const COLUMNS: &str = "id, object, uid, opened_at_ms, closed_at_ms";

impl Ledger {
    /// Opens a contract. An object (by its uid) that has one gets that one, also if it is closed and whatever id is asked for: two
    /// who mint at once end up with the same.
    pub async fn open_contract(&self, at: At, id: &str, object: &str, uid: &str) -> Result<Contract, Error> {
        check(id, object, uid)?;
        let mut work = Work::begin(self, at).await?;
        if let Some(known) = work.contract_of(uid).await? {
            if known.object != object {
                return Err(Error::OtherObject { contract: known.id, object: known.object });
            }
            work.commit().await?;
            return Ok(known);
        }
        if work.contracts([id]).await?.contains_key(id) {
            return Err(Error::Taken(id.to_owned()));
        }
        let text = "INSERT INTO contracts (id, object, uid, opened_at_ms) VALUES ($1, $2, $3, $4)";
        work.write("contract", sqlx::query(text).bind(id).bind(object).bind(uid).bind(at.ms)).await?;
        work.commit().await?;
        let (id, object, uid) = (id.to_owned(), object.to_owned(), uid.to_owned());
        Ok(Contract { id, object, uid, opened_at_ms: at.ms, closed_at_ms: None })
    }

    /// Gives an open contract to an object of the same kind, namespace and name with another uid: one that was restored from a
    /// backup. That the former object is gone is for the caller to know.
    pub async fn adopt_contract(&self, at: At, id: &str, object: &str, uid: &str) -> Result<Contract, Error> {
        check(id, object, uid)?;
        let mut work = Work::begin(self, at).await?;
        let mut contract = work.open_contract(id).await?;
        if contract.object != object {
            return Err(Error::OtherObject { contract: contract.id, object: contract.object });
        }
        if contract.uid != uid {
            if work.contract_of(uid).await?.is_some() {
                return Err(Error::Taken(uid.to_owned()));
            }
            let text = "UPDATE contracts SET uid = $1 WHERE id = $2";
            work.write("contract", sqlx::query(text).bind(uid).bind(id)).await?;
            uid.clone_into(&mut contract.uid);
        }
        work.commit().await?;
        Ok(contract)
    }

    /// Closes a contract without a refund. That it is closed is as good.
    pub async fn close_contract(&self, at: At, id: &str) -> Result<(), Error> {
        entry::check_text("contract", id)?;
        let mut work = Work::begin(self, at).await?;
        work.known_contracts([id]).await?;
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
}

impl Work<'_> {
    /// The contracts with these ids, as far as they exist.
    async fn contracts(
        &mut self,
        ids: impl IntoIterator<Item = &str>,
    ) -> Result<BTreeMap<String, Contract>, Error> {
        let mut found = BTreeMap::new();
        for some in
            ids.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().chunks(IDS_PER_SELECT)
        {
            let text = format!("SELECT {COLUMNS} FROM contracts WHERE id IN {}", places(1, some.len()));
            let mut query = sqlx::query(AssertSqlSafe(text));
            for id in some {
                query = query.bind(*id);
            }
            for row in self.ask("contracts", query).await? {
                let contract = contract(&row)?;
                found.insert(contract.id.clone(), contract);
            }
        }
        Ok(found)
    }

    /// The contract of the object with this uid.
    async fn contract_of(&mut self, uid: &str) -> Result<Option<Contract>, Error> {
        let text = format!("SELECT {COLUMNS} FROM contracts WHERE uid = $1");
        let rows = self.ask("contracts", sqlx::query(AssertSqlSafe(text)).bind(uid)).await?;
        rows.first().map(contract).transpose()
    }

    /// This contract, which must be open.
    pub(super) async fn open_contract(&mut self, id: &str) -> Result<Contract, Error> {
        let found = self.contracts([id]).await?.remove(id);
        let contract = found.ok_or_else(|| Error::NoContract(id.to_owned()))?;
        if contract.closed_at_ms.is_some() { Err(Error::Closed(contract.id)) } else { Ok(contract) }
    }

    /// All these contracts must exist; they may be closed.
    pub(super) async fn known_contracts<'a>(
        &mut self,
        ids: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Error> {
        let ids: BTreeSet<&str> = ids.into_iter().collect();
        let found = self.contracts(ids.iter().copied()).await?;
        match ids.into_iter().find(|it| !found.contains_key(*it)) {
            Some(missing) => Err(Error::NoContract(missing.to_owned())),
            None => Ok(()),
        }
    }

    /// All these contracts must be open.
    pub(super) async fn open_contracts<'a>(
        &mut self,
        ids: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Error> {
        let ids: BTreeSet<&str> = ids.into_iter().collect();
        let found = self.contracts(ids.iter().copied()).await?;
        for id in ids {
            match found.get(id) {
                None => return Err(Error::NoContract(id.to_owned())),
                Some(it) if it.closed_at_ms.is_some() => return Err(Error::Closed(id.to_owned())),
                Some(_) => (),
            }
        }
        Ok(())
    }

    /// Closes a contract, unless it is closed. All that was used by it must be billed.
    pub(super) async fn close_contract(&mut self, id: &str) -> Result<(), Error> {
        let text =
            "SELECT id FROM spans WHERE contract = $1 AND (until_ms IS NULL OR billed_ms < until_ms) LIMIT 1";
        if !self.ask("spans", sqlx::query(text).bind(id)).await?.is_empty() {
            return Err(Error::Unbilled(id.to_owned()));
        }
        let text = "UPDATE contracts SET closed_at_ms = $1 WHERE id = $2 AND closed_at_ms IS NULL";
        let at = self.at().ms;
        self.write("contract", sqlx::query(text).bind(at).bind(id)).await
    }
}

fn check(id: &str, object: &str, uid: &str) -> Result<(), Error> {
    entry::check_text("contract", id)?;
    entry::check_text("object", object)?;
    entry::check_text("uid", uid)
}

fn contract(from: &AnyRow) -> Result<Contract, Error> {
    let fault = read("contracts");
    Ok(Contract {
        id: from.try_get(0).map_err(&fault)?,
        object: from.try_get(1).map_err(&fault)?,
        uid: from.try_get(2).map_err(&fault)?,
        opened_at_ms: from.try_get(3).map_err(&fault)?,
        closed_at_ms: from.try_get(4).map_err(&fault)?,
    })
}
