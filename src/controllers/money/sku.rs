//! What a price is for, as the ledger writes it.

use crate::domain::money::usage::Per;

/// Something with a price of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::controllers) enum Sku {
    /// A card of an elastic worker, by the second.
    Worker {
        /// The tariff's region.
        region: String,
        card_type: String,
    },
    /// A card of a spot server, by the hour: the market's price.
    SpotCard {
        /// The market's region; empty when it is for all.
        region: String,
        card_type: String,
    },
    /// A card of a pool: paid in advance, so its price is zero.
    Resident {
        /// UID of the pool.
        pool: String,
    },
    /// A GB of a spot server's disk, by the month.
    SpotDisk {
        /// The tariff's region.
        region: String,
    },
}

const SPOT_CARD: &str = "spot/gpu/";
const SPOT_DISK: &str = "spot/disk/";
const RESIDENT: &str = "resident:";

impl Sku {
    /// `REGION/CARD TYPE`, `spot/gpu/REGION/CARD TYPE`, `spot/disk/REGION`, `resident:POOL`.
    pub(in crate::controllers) fn text(&self) -> String {
        match self {
            Sku::Worker { region, card_type } => format!("{region}/{card_type}"),
            Sku::SpotCard { region, card_type } => format!("{SPOT_CARD}{region}/{card_type}"),
            Sku::SpotDisk { region } => format!("{SPOT_DISK}{region}"),
            Sku::Resident { pool } => format!("{RESIDENT}{pool}"),
        }
    }

    /// What `text` writes; regions and card types have no slash.
    pub(super) fn parse(text: &str) -> Sku {
        let place = |it: &str| {
            let (region, card_type) = it.rsplit_once('/').unwrap_or(("", it));
            (region.to_owned(), card_type.to_owned())
        };
        if let Some(pool) = text.strip_prefix(RESIDENT).filter(|it| !it.contains('/')) {
            Sku::Resident { pool: pool.to_owned() }
        } else if let Some(it) = text.strip_prefix(SPOT_CARD).filter(|it| it.contains('/')) {
            let (region, card_type) = place(it);
            Sku::SpotCard { region, card_type }
        } else if let Some(region) = text.strip_prefix(SPOT_DISK) {
            Sku::SpotDisk { region: region.to_owned() }
        } else {
            let (region, card_type) = place(text);
            Sku::Worker { region, card_type }
        }
    }

    /// What its price is for.
    pub(super) fn per(&self) -> Per {
        match self {
            Sku::Worker { .. } | Sku::Resident { .. } => Per::Second,
            Sku::SpotCard { .. } => Per::Hour,
            Sku::SpotDisk { .. } => Per::CalendarMonth,
        }
    }

    /// What is used, in ids of lines.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Sku::Worker { .. } | Sku::SpotCard { .. } | Sku::Resident { .. } => "gpu",
            Sku::SpotDisk { .. } => "disk",
        }
    }

    pub(super) fn region(&self) -> &str {
        match self {
            Sku::Worker { region, .. } | Sku::SpotCard { region, .. } | Sku::SpotDisk { region } => region,
            Sku::Resident { .. } => "",
        }
    }

    pub(super) fn card_type(&self) -> Option<&str> {
        match self {
            Sku::Worker { card_type, .. } | Sku::SpotCard { card_type, .. } => Some(card_type),
            Sku::SpotDisk { .. } | Sku::Resident { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_read_as_it_was_written() {
        let (region, card_type) = ("cn-hangzhou".to_owned(), "ada".to_owned());
        for (sku, text) in [
            (Sku::Worker { region: region.clone(), card_type: card_type.clone() }, "cn-hangzhou/ada"),
            (
                Sku::SpotCard { region: region.clone(), card_type: card_type.clone() },
                "spot/gpu/cn-hangzhou/ada",
            ),
            (Sku::SpotCard { region: String::new(), card_type: card_type.clone() }, "spot/gpu//ada"),
            (Sku::SpotDisk { region }, "spot/disk/cn-hangzhou"),
            (Sku::Resident { pool: "0b5e".to_owned() }, "resident:0b5e"),
            // Regions may be called so, too.
            (Sku::Worker { region: "spot".to_owned(), card_type: "gpu".to_owned() }, "spot/gpu"),
            (Sku::Worker { region: "disk".to_owned(), card_type }, "disk/ada"),
        ] {
            assert_eq!(sku.text(), text);
            assert_eq!(Sku::parse(text), sku, "{text}");
        }
    }
}
