//! Notices that a node goes away: which marks on a node mean that, why, and until when; and what to do with the pods on it.

use jiff::{SignedDuration, Timestamp};

/// Where a mark stands on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A taint's key and value.
    Taint,
    /// A label.
    Label,
    /// An annotation.
    Annotation,
    /// A condition's type and status.
    Condition,
}

/// How the deadline is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// It is not: the node goes some time.
    Unknown,
    /// So many seconds after the mark was made, or first seen if it does not say when.
    After(u32),
    /// So many seconds after the mark's own value, which is a Unix time in seconds.
    AfterUnixValue(u32),
    /// The mark's own value, RFC 3339.
    Value,
    /// The value of this annotation, RFC 3339; unknown while it is absent.
    Annotation(String),
}

/// A mark that means that a node goes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Where it stands.
    pub place: Place,
    /// Key of a taint, label or annotation, or type of a condition.
    pub key: String,
    /// The value that it must have; absent: any.
    pub value: Option<String>,
    /// Until when.
    pub until: Until,
    /// Why, in words for people.
    pub cause: String,
}

/// Something that stands on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    /// Where.
    pub place: Place,
    /// Key or type.
    pub key: String,
    /// Value or status.
    pub value: String,
    /// Since when, if the node says so.
    pub since: Option<Timestamp>,
}

/// A node goes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Why, in words for people.
    pub cause: String,
    /// When at the latest; absent: nobody knows.
    pub deadline: Option<Timestamp>,
}

/// What a mark says that can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The mark's key.
    pub key: String,
    /// What stands there.
    pub value: String,
}

/// The marks of those who take nodes away. Their sources are in `docs/node-notices.md`.
pub fn known_marks() -> Vec<Mark> {
    let mark = |place, key: &str, value: Option<&str>, until, cause: &str| Mark {
        place,
        key: key.to_owned(),
        value: value.map(str::to_owned),
        until,
        cause: cause.to_owned(),
    };
    let taint = |key, until, cause| mark(Place::Taint, key, None, until, cause);
    let condition = |key, until, cause| mark(Place::Condition, key, Some("True"), until, cause);
    vec![
        mark(Place::Annotation, "tenure.dev/reclaim-at", None, Until::Value, "tenure.dev/reclaim-at says so"),
        taint(
            "aws-node-termination-handler/spot-itn",
            Until::After(120),
            "AWS interrupts the spot instance (Node Termination Handler)",
        ),
        taint(
            "aws-node-termination-handler/scheduled-maintenance",
            Until::Unknown,
            "AWS maintains the instance (Node Termination Handler)",
        ),
        taint(
            "aws-node-termination-handler/asg-lifecycle-termination",
            Until::Unknown,
            "the Auto Scaling group terminates the instance (Node Termination Handler)",
        ),
        taint(
            "aws-node-termination-handler/rebalance-recommendation",
            Until::Unknown,
            "AWS recommends to leave the instance (Node Termination Handler)",
        ),
        taint(
            "karpenter.sh/disrupted",
            Until::Annotation("karpenter.sh/nodeclaim-termination-timestamp".to_owned()),
            "Karpenter removes the node",
        ),
        taint(
            "ToBeDeletedByClusterAutoscaler",
            Until::AfterUnixValue(600),
            "the cluster autoscaler removes the node",
        ),
        taint("cloud.google.com/impending-node-termination", Until::After(30), "GKE terminates the node"),
        taint("remediator.kubernetes.azure.com/unschedulable", Until::Unknown, "AKS drains the node"),
        taint(
            "cloudprovider.azure.microsoft.com/draining",
            Until::After(30),
            "Azure evicts the spot machine",
        ),
        condition("PreemptScheduled", Until::After(30), "Azure evicts the spot machine"),
        condition("TerminateScheduled", Until::After(300), "Azure terminates the machine"),
        condition("RedeployScheduled", Until::After(600), "Azure moves the machine"),
        condition("RebootScheduled", Until::After(900), "Azure reboots the machine"),
        condition("InstanceExpired", Until::After(300), "Alibaba Cloud releases the spot instance"),
    ]
}

/// The notice that the signs on a node mean, and those marks whose value can't be read (they mean nothing). Of several the
/// one with the first deadline counts, ties in the order of the marks; one without a deadline is the last.
///
/// `first_seen`: when the node was first seen under notice, for marks that don't say since when they are there.
pub fn read(marks: &[Mark], signs: &[Sign], first_seen: Timestamp) -> (Option<Notice>, Vec<Unreadable>) {
    let mut unreadable = Vec::new();
    let mut notices: Vec<Notice> = Vec::new();
    for mark in marks {
        let is = |it: &&Sign| {
            it.place == mark.place
                && it.key == mark.key
                && mark.value.as_ref().is_none_or(|value| *value == it.value)
        };
        let Some(sign) = signs.iter().find(is) else { continue };
        match deadline(&mark.until, sign, signs, first_seen) {
            Ok(deadline) => notices.push(Notice { cause: mark.cause.clone(), deadline }),
            Err(it) => unreadable.push(it),
        }
    }
    // `min_by_key` keeps the first of equals.
    let first = notices.into_iter().min_by_key(|it| (it.deadline.is_none(), it.deadline));
    (first, unreadable)
}

fn deadline(
    until: &Until,
    sign: &Sign,
    signs: &[Sign],
    first_seen: Timestamp,
) -> Result<Option<Timestamp>, Unreadable> {
    let unreadable = |it: &Sign| Unreadable { key: it.key.clone(), value: it.value.clone() };
    match until {
        Until::Unknown => Ok(None),
        Until::After(seconds) => Ok(Some(later(sign.since.unwrap_or(first_seen), *seconds))),
        Until::AfterUnixValue(seconds) => {
            // Its older versions leave the value out.
            let since = sign.value.parse().ok().and_then(|it| Timestamp::from_second(it).ok());
            Ok(Some(later(since.or(sign.since).unwrap_or(first_seen), *seconds)))
        }
        Until::Value => sign.value.parse().map(Some).map_err(|_| unreadable(sign)),
        Until::Annotation(key) => {
            let found = signs.iter().find(|it| it.place == Place::Annotation && it.key == *key);
            found.map(|it| it.value.parse().map_err(|_| unreadable(it))).transpose()
        }
    }
}

fn later(since: Timestamp, seconds: u32) -> Timestamp {
    since.checked_add(SignedDuration::from_secs(i64::from(seconds))).unwrap_or(Timestamp::MAX)
}

/// A pod on a node that goes away. Pods of DaemonSets, mirror pods and finished ones are not among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaver {
    /// `NAMESPACE/NAME`.
    pub name: String,
    /// Who looks after its leaving.
    pub kind: Leaving,
    /// Its grace, seconds.
    pub grace_seconds: i64,
    /// Is it on its way out?
    pub is_leaving: bool,
}

/// Who looks after a pod's leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// A worker of an endpoint: its endpoint replaces it, closes it at the gateways, and lets it go.
    Replaced,
    /// A workload that has all the time there is: it is deleted when its grace begins.
    Stays,
    /// Any other workload: it is evicted at once, as far as its budgets allow.
    Evicted,
    /// What serves the others (device plugins, exporters): as `Evicted`, when the others are gone.
    Last,
}

/// What to do with a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Ask that it leave, as far as PodDisruptionBudgets allow.
    Evict,
    /// Delete it, whatever budgets say, with so many seconds of grace.
    Delete {
        /// Its own grace, capped to the time that is left; at least 1, since 0 means at once and by force.
        grace_seconds: i64,
    },
}

/// What to do now with the pods of a node that goes away, by place in the list; and when to look again at the latest.
pub fn act(
    pods: &[Leaver],
    deadline: Option<Timestamp>,
    now: Timestamp,
) -> (Vec<(usize, Act)>, Option<Timestamp>) {
    let mut acts = Vec::new();
    let mut again: Option<Timestamp> = None;
    let others_are_gone = pods.iter().all(|it| it.kind == Leaving::Last);
    for (at, pod) in pods.iter().enumerate().filter(|(_, it)| !it.is_leaving) {
        let begins = deadline.map(|it| {
            let grace = SignedDuration::from_secs(pod.grace_seconds.max(0));
            it.checked_sub(grace).unwrap_or(Timestamp::MIN)
        });
        if let (Some(deadline), Some(begins)) = (deadline, begins)
            && begins <= now
        {
            let left = deadline.as_second() - now.as_second();
            acts.push((at, Act::Delete { grace_seconds: pod.grace_seconds.min(left).max(1) }));
            continue;
        }
        let evicts = match pod.kind {
            Leaving::Evicted => true,
            Leaving::Last => others_are_gone,
            // Nobody knows how long it has: it goes while it can go in order.
            Leaving::Stays => deadline.is_none(),
            Leaving::Replaced => false,
        };
        if evicts {
            acts.push((at, Act::Evict));
        }
        again = again.into_iter().chain(begins).min();
    }
    (acts, again)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-11-25T{text}Z").parse().unwrap()
    }

    fn sign(place: Place, key: &str, value: &str, since: Option<&str>) -> Sign {
        Sign { place, key: key.to_owned(), value: value.to_owned(), since: since.map(at) }
    }

    #[test]
    fn each_mark_says_until_when() {
        use Place::{Annotation, Condition, Taint};
        let karpenter =
            sign(Annotation, "karpenter.sh/nodeclaim-termination-timestamp", "2026-11-25T11:00:00Z", None);
        for (signs, expected) in [
            (vec![], None),
            (
                vec![sign(Annotation, "tenure.dev/reclaim-at", "2026-11-25T10:30:00Z", None)],
                Some(Some("10:30:00")),
            ),
            (
                vec![sign(Annotation, "tenure.dev/reclaim-at", "2026-11-25T09:30:00Z", None)],
                Some(Some("09:30:00")),
            ),
            (
                vec![sign(Taint, "aws-node-termination-handler/spot-itn", "i-1", Some("10:00:07"))],
                Some(Some("10:02:07")),
            ),
            (vec![sign(Taint, "aws-node-termination-handler/spot-itn", "i-1", None)], Some(Some("10:02:00"))),
            (vec![sign(Taint, "aws-node-termination-handler/scheduled-maintenance", "", None)], Some(None)),
            (vec![sign(Taint, "karpenter.sh/disrupted", "", None)], Some(None)),
            (vec![sign(Taint, "karpenter.sh/disrupted", "", None), karpenter], Some(Some("11:00:00"))),
            // 1795600680 is 2026-11-25T09:58:00Z.
            (vec![sign(Taint, "ToBeDeletedByClusterAutoscaler", "1795600680", None)], Some(Some("10:08:00"))),
            (vec![sign(Taint, "ToBeDeletedByClusterAutoscaler", "", None)], Some(Some("10:10:00"))),
            (vec![sign(Taint, "DeletionCandidateOfClusterAutoscaler", "1795600680", None)], None),
            (vec![sign(Condition, "PreemptScheduled", "True", Some("10:00:05"))], Some(Some("10:00:35"))),
            (vec![sign(Condition, "PreemptScheduled", "False", Some("10:00:05"))], None),
            (vec![sign(Condition, "InstanceExpired", "True", Some("09:59:00"))], Some(Some("10:04:00"))),
            // The label of that name is no taint.
            (vec![sign(Place::Label, "karpenter.sh/disrupted", "", None)], None),
        ] {
            let (found, unreadable) = read(&known_marks(), &signs, at("10:00:00"));
            let expected = expected.map(|it: Option<&str>| it.map(at));
            assert_eq!(found.map(|it| it.deadline), expected, "{signs:?}");
            assert!(unreadable.is_empty());
        }
    }

    #[test]
    fn the_first_deadline_counts_and_what_cannot_be_read_means_nothing() {
        let early = sign(Place::Annotation, "tenure.dev/reclaim-at", "2026-11-25T10:01:00Z", None);
        let late = sign(Place::Taint, "aws-node-termination-handler/spot-itn", "", None);
        let some = sign(Place::Taint, "remediator.kubernetes.azure.com/unschedulable", "", None);
        let notice = |signs: &[Sign]| read(&known_marks(), signs, at("10:00:00")).0.unwrap();
        assert_eq!(notice(&[some.clone(), late.clone()]).deadline, Some(at("10:02:00")));
        assert_eq!(notice(&[some, late, early]).cause, "tenure.dev/reclaim-at says so");
        let bad = sign(Place::Annotation, "tenure.dev/reclaim-at", "tomorrow", None);
        let key = "tenure.dev/reclaim-at".to_owned();
        let expected = (None, vec![Unreadable { key, value: "tomorrow".to_owned() }]);
        assert_eq!(read(&known_marks(), &[bad], at("10:00:00")), expected);
    }

    fn pod(kind: Leaving, grace_seconds: i64, is_leaving: bool) -> Leaver {
        Leaver { name: String::new(), kind, grace_seconds, is_leaving }
    }

    #[test]
    fn who_goes_when() {
        use Leaving::{Evicted, Last, Replaced, Stays};
        let deadline = Some(at("10:10:00"));
        let delete = |grace_seconds| Act::Delete { grace_seconds };
        for (pods, until, now, expected, again, why) in [
            (vec![pod(Evicted, 30, false)], None, "10:00:00", vec![(0, Act::Evict)], None, "at once"),
            (vec![pod(Evicted, 30, true)], None, "10:00:00", vec![], None, "it goes already"),
            (
                vec![pod(Evicted, 30, false)],
                deadline,
                "10:00:00",
                vec![(0, Act::Evict)],
                Some("10:09:30"),
                "a budget may hold it until then",
            ),
            (
                vec![pod(Evicted, 30, false)],
                deadline,
                "10:09:30",
                vec![(0, delete(30))],
                None,
                "its grace begins, whatever its budget says",
            ),
            (
                vec![pod(Evicted, 30, false)],
                deadline,
                "10:09:50",
                vec![(0, delete(10))],
                None,
                "what is left",
            ),
            (vec![pod(Evicted, 30, false)], deadline, "10:11:00", vec![(0, delete(1))], None, "too late"),
            (vec![pod(Stays, 30, false)], deadline, "10:00:00", vec![], Some("10:09:30"), "all its time"),
            (vec![pod(Stays, 30, false)], None, "10:00:00", vec![(0, Act::Evict)], None, "nobody knows"),
            (
                vec![pod(Replaced, 600, false)],
                deadline,
                "09:59:59",
                vec![],
                Some("10:00:00"),
                "its endpoint's",
            ),
            (
                vec![pod(Replaced, 600, false)],
                deadline,
                "10:00:00",
                vec![(0, delete(600))],
                None,
                "no longer",
            ),
            (vec![pod(Replaced, 600, false)], None, "10:00:00", vec![], None, "its endpoint's"),
            (
                vec![pod(Last, 30, false), pod(Evicted, 30, true)],
                None,
                "10:00:00",
                vec![],
                None,
                "it serves another one still",
            ),
            (vec![pod(Last, 30, false)], None, "10:00:00", vec![(0, Act::Evict)], None, "it serves nobody"),
        ] {
            assert_eq!(act(&pods, until, at(now)), (expected, again.map(at)), "{why}");
        }
    }

    proptest! {
        /// Before the deadline nobody stays beyond its grace, and nobody is cut short who need not be.
        #[test]
        fn everything_ends_by_the_deadline(
            kinds in proptest::collection::vec((0..4_usize, 0..900_i64), 1..9), window in 0..1_000_i64,
        ) {
            let all = [Leaving::Replaced, Leaving::Stays, Leaving::Evicted, Leaving::Last];
            let mut pods: Vec<Leaver> = kinds.iter().map(|(kind, grace)| pod(all[*kind], *grace, false)).collect();
            let begin = at("10:00:00");
            let deadline = begin + SignedDuration::from_secs(window);
            let mut now = begin;
            for _ in 0..=pods.len() {
                // Budgets never allow anything: an eviction changes nothing.
                let (acts, again) = act(&pods, Some(deadline), now);
                for (at, act) in acts {
                    let Act::Delete { grace_seconds } = act else { continue };
                    let grace = pods[at].grace_seconds;
                    prop_assert!(grace_seconds >= 1 && grace_seconds <= grace.max(1));
                    let left = deadline.as_second() - now.as_second();
                    prop_assert!(grace_seconds <= left.max(1));
                    prop_assert!(grace_seconds == grace.max(1) || grace >= left, "cut short without need");
                    pods[at].is_leaving = true;
                }
                match again {
                    Some(then) => { prop_assert!(then > now && then <= deadline); now = then; }
                    None => break,
                }
            }
            prop_assert!(pods.iter().all(|it| it.is_leaving));
        }
    }
}
