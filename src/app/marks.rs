//! Reads `--node-marks`: marks on nodes that mean that they go away, beside those that are known.

use std::path::Path;

use serde::Deserialize;

use crate::domain::node_notice::{Mark, Place, Until, known_marks};

/// One entry of the file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    taint: Option<String>,
    label: Option<String>,
    annotation: Option<String>,
    condition: Option<String>,
    /// The value it must have; absent: any, and for a condition True.
    value: Option<String>,
    /// Why, in words for people.
    cause: String,
    /// At most one of these three.
    after_seconds: Option<u32>,
    #[serde(default)]
    until_value: bool,
    until_annotation: Option<String>,
}

/// The known marks, and those of the file; one of the file replaces a known one of the same place and key.
pub(super) fn read(file: Option<&Path>) -> Result<Vec<Mark>, String> {
    let Some(file) = file else { return Ok(known_marks()) };
    let text = std::fs::read_to_string(file).map_err(|it| it.to_string());
    text.and_then(|it| all(&it)).map_err(|it| format!("{}: {it}", file.display()))
}

fn all(text: &str) -> Result<Vec<Mark>, String> {
    let entries: Vec<Entry> = serde_saphyr::from_str(text).map_err(|it| it.to_string())?;
    let own: Vec<Mark> = entries.into_iter().map(mark).collect::<Result<_, _>>()?;
    let mut all = known_marks();
    all.retain(|known| !own.iter().any(|it| it.place == known.place && it.key == known.key));
    all.extend(own);
    Ok(all)
}

fn mark(entry: Entry) -> Result<Mark, String> {
    let places = [
        (Place::Taint, entry.taint),
        (Place::Label, entry.label),
        (Place::Annotation, entry.annotation),
        (Place::Condition, entry.condition),
    ];
    let mut found = places.into_iter().filter_map(|(place, key)| Some((place, key?)));
    let one = || "write exactly one of taint, label, annotation and condition".to_owned();
    let (place, key) = found.next().ok_or_else(one)?;
    if found.next().is_some() {
        return Err(one());
    }
    let until = match (entry.after_seconds, entry.until_value, entry.until_annotation) {
        (None, false, None) => Until::Unknown,
        (Some(seconds), false, None) => Until::After(seconds),
        (None, true, None) => Until::Value,
        (None, false, Some(annotation)) => Until::Annotation(annotation),
        _ => return Err(format!("{key}: write at most one of afterSeconds, untilValue and untilAnnotation")),
    };
    let value = entry.value.or_else(|| (place == Place::Condition).then(|| "True".to_owned()));
    Ok(Mark { place, key, value, until, cause: entry.cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_a_file_come_beside_those_that_are_known() {
        let text = "
- {condition: HypervisorLeaves, cause: the hypervisor is emptied, afterSeconds: 600}
- {taint: karpenter.sh/disrupted, value: 'yes', cause: ours, untilAnnotation: example.com/at}
- {label: example.com/leaves, cause: some day}
";
        let marks = all(text).unwrap();
        assert_eq!(marks.len(), known_marks().len() + 2, "one replaces a known one");
        let find = |key: &str| marks.iter().find(|it| it.key == key).unwrap();
        assert_eq!(find("HypervisorLeaves").value.as_deref(), Some("True"));
        assert_eq!(find("HypervisorLeaves").until, Until::After(600));
        assert_eq!(find("karpenter.sh/disrupted").until, Until::Annotation("example.com/at".to_owned()));
        assert_eq!(
            (find("example.com/leaves").value.as_deref(), &find("example.com/leaves").until),
            (None, &Until::Unknown)
        );
    }

    #[test]
    fn a_mark_that_makes_no_sense_is_refused() {
        for (text, says) in [
            ("- {cause: nothing}", "exactly one of taint"),
            ("- {taint: a, label: b, cause: both}", "exactly one of taint"),
            (
                "- {taint: a, cause: c, afterSeconds: 1, untilValue: true}",
                "a: write at most one of afterSeconds",
            ),
            ("- {taint: a, cause: c, afterMinutes: 1}", "afterMinutes"),
            ("- {taint: a}", "cause"),
        ] {
            let error = all(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
