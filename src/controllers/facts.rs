//! What a contract needs of other objects: account, tariff, card type, market. Each is found, or there is a reason in words.

use kube::ResourceExt;

use crate::api::condition::Reason;
use crate::api::{Account, CardType, SpotMarket, Tariff, names};
use crate::cluster::read::Caches;
use crate::domain::units::{NotAQuantity, Size, parse_milli, parse_whole};

/// Why a contract can't be served as it is, in the words that its owner reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The word.
    pub reason: Reason,
    /// The sentence.
    pub message: String,
}

impl Problem {
    /// A problem.
    pub fn new(reason: Reason, message: impl Into<String>) -> Problem {
        Problem { reason, message: message.into() }
    }
}

/// Who pays in a namespace.
pub fn account(caches: &Caches, namespace: &str) -> Result<std::sync::Arc<Account>, Problem> {
    let found = caches.namespaces.get("", namespace).and_then(|it| it.labels().get(names::ACCOUNT).cloned());
    let Some(name) = found else {
        let message = format!(
            "namespace {namespace} has no label {}: nobody pays for it; label it with the name of an Account",
            names::ACCOUNT
        );
        return Err(Problem::new(Reason::NoAccount, message));
    };
    caches.accounts.get("", &name).ok_or_else(|| {
        Problem::new(
            Reason::UnknownAccount,
            format!("the Account {name} (label {} of namespace {namespace}) does not exist", names::ACCOUNT),
        )
    })
}

/// The tariff of a region; of no region: the default one. Among several the first by name.
pub fn tariff(caches: &Caches, region: &str) -> Result<std::sync::Arc<Tariff>, Problem> {
    let mut all = caches.tariffs.all();
    all.sort_by_key(|it| it.name_any());
    let found =
        all.into_iter().find(|it| if region.is_empty() { it.spec.default } else { it.spec.region == region });
    found.ok_or_else(|| {
        let what = if region.is_empty() {
            "no Tariff is the default".to_owned()
        } else {
            format!("there is no Tariff for region {region}")
        };
        Problem::new(Reason::NoTariff, what)
    })
}

/// Account and tariff that go together.
pub fn payer(
    caches: &Caches,
    namespace: &str,
    region: &str,
) -> Result<(std::sync::Arc<Account>, std::sync::Arc<Tariff>), Problem> {
    let tariff = tariff(caches, region)?;
    let account = account(caches, namespace)?;
    if account.spec.currency != tariff.spec.currency {
        let message = format!(
            "Account {} pays in {} and Tariff {} asks {}: use an account of that currency or another region",
            account.name_any(),
            account.spec.currency,
            tariff.name_any(),
            tariff.spec.currency
        );
        return Err(Problem::new(Reason::OtherCurrency, message));
    }
    Ok((account, tariff))
}

/// A card type.
pub fn card_type(caches: &Caches, name: &str) -> Result<std::sync::Arc<CardType>, Problem> {
    caches
        .card_types
        .get("", name)
        .ok_or_else(|| Problem::new(Reason::UnknownCardType, format!("the CardType {name} does not exist")))
}

/// What goes with one card.
pub fn per_card(card_type: &CardType) -> Result<Size, NotAQuantity> {
    let part = &card_type.spec.per_card;
    Ok(Size {
        cpu_milli: parse_milli(&part.cpu.0)?,
        memory_bytes: parse_whole(&part.memory.0)?,
        disk_bytes: parse_whole(&part.disk.0)?,
    })
}

/// The market of a card type in a tariff's region; one without a region is for all.
pub fn market(caches: &Caches, card_type: &str, region: &str) -> Result<std::sync::Arc<SpotMarket>, Problem> {
    let mut all = caches.markets.all();
    all.sort_by_key(|it| (it.spec.region.is_empty(), it.name_any()));
    let found = all
        .into_iter()
        .find(|it| it.spec.card_type == card_type && (it.spec.region == region || it.spec.region.is_empty()));
    found.ok_or_else(|| {
        Problem::new(
            Reason::NoMarket,
            format!("there is no SpotMarket for card type {card_type} in region {region}"),
        )
    })
}
