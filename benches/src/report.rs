//! The table for people and the lines for machines.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::json;

use crate::machine::Placement;
use crate::stats::Spread;
use crate::work::{self, Unit, WORKS, Yardstick};

/// One figure of one round, or the statement that a peer does not offer the work.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Which round, from 1.
    pub round: usize,
    /// Name of the work.
    pub work: &'static str,
    /// Name of the runtime.
    pub runtime: &'static str,
    /// Name of the way of using it.
    pub variant: &'static str,
    /// The figure; `None` when not offered.
    pub figure: Option<work::Figure>,
    /// What the figure is divided by, measured just before it in the same process.
    pub floor_ns: f64,
    /// Where the CPUs were and whether others used them.
    pub placement: Placement,
}

impl Row {
    /// The figure as a multiple of the floor of the same round; `None` where it is no time.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        let time = self.figure.filter(|figure| figure.unit == Unit::Nanoseconds);
        time.map(|figure| figure.value / self.floor_ns)
    }

    /// One line of JSON; `metric`, `value` and `ratio` are null where the work is not offered.
    #[must_use]
    pub fn to_json(&self) -> String {
        json!({
            "work": self.work,
            "runtime": self.runtime,
            "variant": self.variant,
            "metric": self.figure.map(|figure| figure.metric),
            "value": self.figure.map(|figure| figure.value),
            "unit": self.figure.map_or(Unit::Nanoseconds, |figure| figure.unit).name(),
            "floor_ns": self.floor_ns,
            "ratio": self.ratio(),
            "round": self.round,
            "placement": self.placement.to_string(),
        })
        .to_string()
    }
}

const COLUMNS: usize = 10;

const HEADINGS: [&str; COLUMNS] =
    ["work", "figure", "runtime", "CPUs", "median ns", "min–max ns", "cycles", "× floor", "budget", "clean"];

/// The table over all rounds: one line per figure, variant and placement.
///
/// Rounds that others disturbed count only where there is no clean one; the line then ends in `!`. Medians are told in cycles, too, if it is known how many a nanosecond has.
#[must_use]
pub fn table(rows: &[Row], cycles_per_ns: Option<f64>) -> String {
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    for work in WORKS {
        for group in groups(rows, work.name) {
            lines.push(line(work, &group, cycles_per_ns));
        }
    }
    aligned(&lines)
}

/// Rows of one figure of one variant at one distance, in the order they first appeared.
fn groups<'a>(rows: &'a [Row], work: &str) -> Vec<Vec<&'a Row>> {
    let mut metrics = Vec::new();
    let mut variants = Vec::new();
    let mut groups = BTreeMap::new();
    for row in rows.iter().filter(|row| row.work == work) {
        let metric = index_of(&mut metrics, row.figure.map(|figure| figure.metric));
        let variant = index_of(&mut variants, (row.runtime, row.variant));
        // A work that is not offered is no nearer or farther.
        let far = row.figure.is_some() && row.placement.far;
        groups.entry((metric, far, variant)).or_insert_with(Vec::new).push(row);
    }
    let (offered, refused): (Vec<_>, Vec<_>) = groups.into_values().partition(|group| group[0].figure.is_some());
    offered.into_iter().chain(refused).collect()
}

fn index_of<T: PartialEq>(seen: &mut Vec<T>, value: T) -> usize {
    seen.iter().position(|known| *known == value).unwrap_or_else(|| {
        seen.push(value);
        seen.len() - 1
    })
}

fn line(work: &work::Work, group: &[&Row], cycles_per_ns: Option<f64>) -> [String; COLUMNS] {
    let first = group[0];
    let runtime = format!("{} {}", first.runtime, first.variant);
    let Some(figure) = first.figure else {
        let absent = || "–".to_owned();
        return [
            work.name.to_owned(),
            absent(),
            runtime,
            absent(),
            "not offered".to_owned(),
            absent(),
            absent(),
            absent(),
            absent(),
            absent(),
        ];
    };
    let clean: Vec<&Row> = group.iter().copied().filter(|row| !row.placement.disturbed).collect();
    let counted = if clean.is_empty() { group } else { &clean };
    let values = counted.iter().filter_map(|row| row.figure).map(|figure| figure.value);
    let value = Spread::of(values).expect("a group has rows");
    let ratio = Spread::of(counted.iter().filter_map(|row| row.ratio())).map(|ratio| ratio.median);
    let cycles = cycles_per_ns.filter(|_| figure.unit == Unit::Nanoseconds).map(|per_ns| value.median * per_ns);
    let floor = match work.yardstick {
        Yardstick::Line => "",
        Yardstick::Futex => " futex",
    };
    [
        work.name.to_owned(),
        figure.metric.to_owned(),
        runtime,
        first.placement.distance().to_owned(),
        number(value.median),
        format!("{}–{}", number(value.min), number(value.max)),
        cycles.map_or_else(|| "–".to_owned(), number),
        ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{}{floor}", number(ratio))),
        ratio.map_or_else(String::new, |ratio| budget(work, first, clean.is_empty(), ratio)),
        format!("{}/{}{}", clean.len(), group.len(), if clean.is_empty() { " !" } else { "" }),
    ]
}

/// The budget beside every runtime; the verdict beside ipiq alone, and only on undisturbed near figures.
fn budget(work: &work::Work, row: &Row, disturbed: bool, ratio: f64) -> String {
    let Some(at_most) = row.figure.and_then(|figure| work.budget(figure.metric)) else {
        return String::new();
    };
    let verdict = if row.runtime != "ipiq" || row.placement.far || disturbed {
        ""
    } else if ratio <= at_most {
        " met"
    } else {
        " over"
    };
    format!("≤ {at_most}{verdict}")
}

/// Three significant digits, which is more than rounds agree on.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn aligned(lines: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (width, cell) in widths.iter().zip(line) {
            write!(row, "{cell:<width$}  ").expect("a string takes any text");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Figure;

    fn row(runtime: &'static str, value_ns: Option<f64>, floor_ns: f64, others: f64) -> Row {
        Row {
            round: 1,
            work: "call_rtt",
            runtime,
            variant: "one",
            figure: value_ns.map(|value_ns| Figure::new("p50", value_ns)),
            floor_ns,
            placement: Placement::of(floor_ns, others),
        }
    }

    fn line_of<'a>(table: &'a str, runtime: &str) -> Vec<&'a str> {
        let line = table.lines().find(|line| line.contains(runtime)).unwrap();
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
    }

    #[test]
    fn a_line_of_json_has_the_agreed_keys() {
        let line = row("ipiq", Some(100.0), 50.0, 0.0).to_json();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(
            keys,
            ["floor_ns", "metric", "placement", "ratio", "round", "runtime", "unit", "value", "variant", "work",],
        );
        assert_eq!(value["ratio"], 2.0);
        assert_eq!(value["placement"], "near");
    }

    #[test]
    fn what_is_not_offered_is_never_zero() {
        let refused = row("tokio", None, 50.0, 0.0);
        let value: serde_json::Value = serde_json::from_str(&refused.to_json()).unwrap();
        assert!(value["value"].is_null());
        assert!(value["ratio"].is_null());
        let table = table(&[refused], None);
        assert!(line_of(&table, "tokio").contains(&"not offered"), "{table}");
    }

    #[test]
    fn the_ratio_is_the_median_of_each_round_to_its_own_floor() {
        let rows = [
            row("ipiq", Some(100.0), 50.0, 0.0),
            row("ipiq", Some(160.0), 40.0, 0.0),
            row("ipiq", Some(240.0), 80.0, 0.0),
        ];
        let table = table(&rows, Some(2.0));
        let line = line_of(&table, "ipiq");
        assert_eq!(line[4..], ["160", "100–240", "320", "3.00", "≤ 2.5 over", "3/3"], "{table}");
    }

    #[test]
    fn a_disturbed_round_counts_only_without_a_clean_one() {
        let clean = row("ipiq", Some(100.0), 50.0, 0.0);
        let disturbed = row("ipiq", Some(900.0), 50.0, 0.5);
        let mixed = table(&[clean, disturbed.clone()], None);
        assert_eq!(line_of(&mixed, "ipiq")[4..], ["100", "100–100", "–", "2.00", "≤ 2.5 met", "1/2"]);
        let alone = table(&[disturbed], None);
        assert_eq!(line_of(&alone, "ipiq")[8..], ["≤ 2.5", "0/1 !"], "a disturbed figure gets no verdict");
    }

    #[test]
    fn near_and_far_rounds_are_never_mixed() {
        let rows = [row("ipiq", Some(100.0), 50.0, 0.0), row("ipiq", Some(900.0), 380.0, 0.0)];
        let table = table(&rows, Some(2.0));
        assert_eq!(table.lines().count(), 3, "{table}");
        assert!(table.contains("≤ 2.5 met") && table.contains("far"), "{table}");
    }
}
