//! A pool's budget: which of the endpoints bound to it have room, and how much is left.

/// What a pool offers its endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Locked cards.
    pub cards: u32,
    /// Disk of all cards together, GB.
    pub disk_gb: u32,
}

/// What an endpoint asks of its pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The endpoint's name.
    pub endpoint: String,
    /// When it was created, seconds since 1970: the older is served first, ties by name.
    pub created_seconds: i64,
    /// Instances that it wants.
    pub instances: u32,
    /// Cards of one instance.
    pub cards_each: u32,
    /// Disk of one instance, GB.
    pub disk_gb_each: u32,
}

/// What an endpoint gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The endpoint's name.
    pub endpoint: String,
    /// Instances that fit; fewer than wanted when the pool has no room.
    pub instances: u32,
    /// Instances that it wants.
    pub wanted: u32,
    /// Their cards.
    pub cards: u32,
    /// Their disk, GB.
    pub disk_gb: u32,
}

/// Admits instances, the older endpoint first, as many as cards and disk allow. Returns them and what is left.
pub fn admit(budget: Budget, bound: &[Bound]) -> (Vec<Admitted>, Budget) {
    let mut left = budget;
    let mut order: Vec<&Bound> = bound.iter().collect();
    order.sort_by(|a, b| (a.created_seconds, &a.endpoint).cmp(&(b.created_seconds, &b.endpoint)));
    let admitted = order
        .into_iter()
        .map(|it| {
            let by_cards = left.cards.checked_div(it.cards_each).unwrap_or(it.instances);
            let by_disk = left.disk_gb.checked_div(it.disk_gb_each).unwrap_or(it.instances);
            let instances = it.instances.min(by_cards).min(by_disk);
            let (cards, disk_gb) = (instances * it.cards_each, instances * it.disk_gb_each);
            left = Budget { cards: left.cards - cards, disk_gb: left.disk_gb - disk_gb };
            Admitted { endpoint: it.endpoint.clone(), instances, wanted: it.instances, cards, disk_gb }
        })
        .collect();
    (admitted, left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(
        endpoint: &str,
        created_seconds: i64,
        instances: u32,
        cards_each: u32,
        disk_gb_each: u32,
    ) -> Bound {
        Bound { endpoint: endpoint.to_owned(), created_seconds, instances, cards_each, disk_gb_each }
    }

    #[test]
    fn the_worked_example_fills_six_cards_and_240_gb() {
        let (admitted, left) =
            admit(Budget { cards: 6, disk_gb: 240 }, &[bound("a", 1, 4, 1, 30), bound("b", 2, 2, 1, 60)]);
        assert_eq!(admitted.iter().map(|it| it.instances).collect::<Vec<_>>(), [4, 2]);
        assert_eq!(left, Budget { cards: 0, disk_gb: 0 });
    }

    #[test]
    fn the_older_endpoint_is_served_first_and_the_rest_gets_what_is_left() {
        for (bounds, expected, left) in [
            (
                vec![bound("young", 9, 4, 1, 0), bound("old", 1, 4, 1, 0)],
                vec![("old", 4), ("young", 2)],
                (0, 240),
            ),
            (vec![bound("a", 1, 3, 4, 0)], vec![("a", 1)], (2, 240)),
            (vec![bound("a", 1, 5, 1, 60)], vec![("a", 4)], (2, 0)),
            (vec![bound("b", 1, 1, 1, 10), bound("a", 1, 6, 1, 10)], vec![("a", 6), ("b", 0)], (0, 180)),
            (vec![bound("none", 1, 0, 1, 10)], vec![("none", 0)], (6, 240)),
        ] {
            let (admitted, rest) = admit(Budget { cards: 6, disk_gb: 240 }, &bounds);
            let got: Vec<(&str, u32)> =
                admitted.iter().map(|it| (it.endpoint.as_str(), it.instances)).collect();
            assert_eq!(got, expected, "{bounds:?}");
            assert_eq!((rest.cards, rest.disk_gb), left, "{bounds:?}");
        }
    }
}
