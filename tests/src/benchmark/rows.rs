//! The lines that benchmarks give to the table of all work that has a peer (`cargo benchmark table`), and how it is printed.

use std::env;
use std::fmt::{self, Display};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::median;

/// Names the file that a benchmark adds its lines to; set by the benchmark `table`.
pub const ROWS: &str = "RADIALOG_BENCH_ROWS";

/// What was measured of one work, ours and the best peer's by turns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What is computed, e.g. `encoder 8 x 448, f32`.
    pub work: String,
    /// What is counted, e.g. `images/s`.
    pub unit: String,
    /// Our figures.
    pub ours: Figures,
    /// The fastest of those that computed the same, where there is one.
    pub peer: Option<Peer>,
    /// How near ours come to what the machine allows, where that is known.
    pub share: Option<Share>,
}

/// Somebody else's figures of the same work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// What it is called.
    pub name: String,
    /// What it reached.
    pub figures: Figures,
}

/// The middle one of some figures, and their range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

/// A part of what the machine allows, both measured in the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// From 0 to about 1.
    pub part: f64,
    /// Of what, e.g. `35.1 GB/s read`.
    pub of: String,
}

/// What a work is meant to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// So many times the best peer's figure.
    Times(f64),
    /// No more than this in the work's unit, and than the peer has, where there is one.
    AtMost(f64),
}

impl Figures {
    /// Those of some values; all of them not a number where there is none.
    pub fn of(values: &[f64]) -> Self {
        Self {
            median: median(values),
            least: values.iter().copied().fold(f64::NAN, f64::min),
            most: values.iter().copied().fold(f64::NAN, f64::max),
        }
    }
}

impl Display for Figures {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, least, most] = [self.median, self.least, self.most].map(digits);
        match least == most {
            true => write!(to, "{median}"),
            false => write!(to, "{median} ({least} to {most})"),
        }
    }
}

impl Row {
    /// Adds it to the table, where a table is being made.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn note(&self) -> Result<()> {
        match env::var_os(ROWS) {
            Some(file) => self.note_in(file.as_ref()),
            None => Ok(()),
        }
    }

    fn note_in(&self, file: &Path) -> Result<()> {
        let mut open = OpenOptions::new();
        let opened = open.create(true).append(true).open(file);
        let mut opened = opened.with_context(|| format!("cannot add to {}", file.display()))?;
        writeln!(opened, "{}", serde_json::to_string(self)?)?;
        Ok(())
    }

    /// Our figure over the best peer's.
    pub fn ratio(&self) -> Option<f64> {
        let peer = self.peer.as_ref()?;
        Some(self.ours.median / peer.figures.median)
    }

    fn reaches(&self, goal: Goal) -> bool {
        match (goal, self.ratio()) {
            (Goal::Times(times), ratio) => ratio.is_some_and(|ratio| ratio >= times),
            (Goal::AtMost(most), ratio) => {
                self.ours.median <= most && ratio.is_none_or(|ratio| ratio < 1.0)
            }
        }
    }
}

/// The lines of a file that benchmarks have added to; none where there is no such file yet.
///
/// # Errors
/// A file that cannot be read, or has something else.
pub fn read(file: &Path) -> Result<Vec<Row>> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(file)?;
    let rows = text.lines().map(serde_json::from_str);
    rows.collect::<Result<_, _>>()
        .with_context(|| format!("'{}'", file.display()))
}

/// The goal of a work: the first of these whose name the work's begins or ends with.
pub fn goal(goals: &[(&str, Goal)], work: &str) -> Option<Goal> {
    let fits = |name: &str| work.starts_with(name) || work.ends_with(name);
    let mut goals = goals.iter().copied();
    goals.find_map(|(name, goal)| fits(name).then_some(goal))
}

/// The table in Markdown, each line with its goal.
pub fn table(rows: &[(Row, Option<Goal>)]) -> String {
    let head = "| work | best peer: median (range) | ours: median (range) | ours / peer | share of the machine's limit | goal |\n\
                | --- | --- | --- | --- | --- | --- |\n";
    let none = || "-".to_owned();
    let line = |(row, goal): &(Row, Option<Goal>)| {
        let peer = row.peer.as_ref();
        let peer = peer.map(|peer| format!("{} {}", peer.name, peer.figures));
        let share = row.share.as_ref();
        let share = share.map(|share| format!("{:.2} of {}", share.part, share.of));
        let goal = goal.map(|goal| {
            let is_short = if row.reaches(goal) { "" } else { ", short" };
            match goal {
                Goal::Times(times) => format!("{times}{is_short}"),
                Goal::AtMost(most) => format!("at most {most:.2} {}{is_short}", row.unit),
            }
        });
        format!(
            "| {}, {} | {} | {} | {} | {} | {} |\n",
            row.work,
            row.unit,
            peer.unwrap_or_else(none),
            row.ours,
            row.ratio().map_or_else(none, |ratio| format!("{ratio:.2}")),
            share.unwrap_or_else(none),
            goal.unwrap_or_else(none),
        )
    };
    std::iter::once(head.to_owned())
        .chain(rows.iter().map(line))
        .collect()
}

/// As many digits as mean something.
fn digits(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        1.0..10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: &[f64], theirs: Option<&[f64]>) -> Row {
        Row {
            work: "decode-1".into(),
            unit: "tokens/s".into(),
            ours: Figures::of(ours),
            peer: theirs.map(|theirs| Peer {
                name: "llama.cpp".into(),
                figures: Figures::of(theirs),
            }),
            share: Some(Share {
                part: 0.789,
                of: "35.1 GB/s read".into(),
            }),
        }
    }

    #[test]
    fn a_line_has_medians_ranges_ratio_share_and_goal_and_says_where_it_is_short() {
        let row = row(&[6.8, 5.5, 7.3], Some(&[8.6, 7.1, 9.3]));
        let of = |goal| table(&[(row.clone(), goal)]);
        let begin = "| decode-1, tokens/s | llama.cpp 8.60 (7.10 to 9.30) | 6.80 (5.50 to 7.30) | 0.79 | \
                     0.79 of 35.1 GB/s read | ";
        for (goal, end) in [
            (Some(Goal::Times(1.0)), "1, short |\n"),
            (Some(Goal::Times(0.5)), "0.5 |\n"),
            (Some(Goal::AtMost(7.0)), "at most 7.00 tokens/s |\n"),
            (Some(Goal::AtMost(6.0)), "at most 6.00 tokens/s, short |\n"),
            (None, "- |\n"),
        ] {
            let table = of(goal);
            assert!(table.ends_with(&format!("{begin}{end}")), "{table}");
        }
    }

    #[test]
    fn a_goal_is_of_the_works_that_its_name_begins_or_ends() {
        let goals = [
            ("decode-1", Goal::Times(1.0)),
            ("7B q8_0", Goal::AtMost(12.0)),
        ];
        let of = |work| goal(&goals, work);
        assert_eq!(of("7b-32-q4_k_m, decode-1"), Some(Goal::Times(1.0)));
        assert_eq!(of("7b-32-q4_k_m, decode-16"), None);
        assert_eq!(of("7B q8_0, most memory"), Some(Goal::AtMost(12.0)));
        let all = [("", Goal::Times(3.0))];
        assert_eq!(goal(&all, "end to end"), Some(Goal::Times(3.0)));
    }

    #[test]
    fn what_has_no_peer_has_no_ratio_and_reaches_no_multiple_of_one() {
        let row = row(&[120.0], None);
        assert_eq!(row.ratio(), None);
        assert!(!row.reaches(Goal::Times(0.1)));
        assert!(row.reaches(Goal::AtMost(120.0)));
        assert!(table(&[(row, None)]).contains("| - | 120 | - |"));
    }

    #[test]
    fn lines_that_benchmarks_add_are_read_again_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rows");
        assert_eq!(read(&file).unwrap(), []);
        let rows = [row(&[1.0], None), row(&[2.0], Some(&[4.0]))];
        for row in &rows {
            row.note_in(&file).unwrap();
        }
        assert_eq!(read(&file).unwrap(), rows);
    }
}
