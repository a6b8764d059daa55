//! An evaluation that asks on after reports, as one HTML page: two sides beside each other, what the second is better by, and of each
//! finding a drawing.

use std::fmt::Write as _;
use std::path::Path;

use radialog_files::durable;
use radialog_schemas::Finding;

use super::charts::{self, Mark, MarkRow};
use super::{END, begin, escaped, scores};
use crate::error::TrainingError;
use crate::evaluation::bootstrap::{Estimate, four_digits};
use crate::evaluation::follow_ups::{FindingScores, PairedEstimate};
use crate::evaluation::report_scores::MetricGroup;

/// What the page of an evaluation shows whose scores have two sides.
pub struct FollowUpPage<'a> {
    /// What was evaluated.
    pub title: &'a str,
    /// What to know of the scores: how they were made, what was scored, and what was not.
    pub facts: &'a [String],
    /// What the sides are called.
    pub sides: [&'a str; 2],
    /// The scores of both sides.
    pub scores: &'a [PairedEstimate],
    /// How many studies have each finding of which anything is known.
    pub positives: &'a [(Finding, u64)],
}

impl FollowUpPage<'_> {
    /// Writes the page.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), TrainingError> {
        let page = self.page();
        durable::replace(path, page.as_bytes()).map_err(TrainingError::io("write", path))
    }

    fn page(&self) -> String {
        let mut page = begin(self.title);
        page += "<ul class=\"muted\">\n";
        for fact in self.facts {
            let _ = writeln!(page, "<li>{}</li>", escaped(fact));
        }
        page += "</ul>\n";
        let is_of_findings = |of: &&PairedEstimate| FindingScores::NAMES.contains(&&*of.name);
        let whole = || self.scores.iter().filter(|of| of.finding.is_none());
        let (findings, texts): (Vec<_>, Vec<_>) = whole().partition(is_of_findings);
        self.table(&mut page, MetricGroup::Text.title(), &texts);
        self.table(&mut page, "Findings", &findings);
        self.drawing(&mut page);
        self.each_finding(&mut page);
        page + END
    }

    /// The columns of both sides and of their difference.
    fn columns(&self, page: &mut String) {
        for name in self.sides.into_iter().chain(["difference"]) {
            let _ = write!(page, "<th class=\"number\">{}</th>", escaped(name));
        }
        *page += "</tr>\n";
    }

    fn table(&self, page: &mut String, title: &str, rows: &[&PairedEstimate]) {
        if rows.is_empty() {
            return;
        }
        let _ = write!(
            page,
            "<h2>{title}</h2>\n<div class=\"wide\" tabindex=\"0\"><table>\n<tr><th>score</th>"
        );
        self.columns(page);
        for of in rows {
            let name = format!("{} {}", escaped(&of.name), scores::way(of.better));
            row(page, &name, of);
        }
        *page += "</table></div>\n";
    }

    /// F1 of each finding on both sides.
    fn drawing(&self, page: &mut String) {
        let f1 = |finding| {
            let mut scores = self.scores.iter();
            scores.find(|of| of.finding == Some(finding) && of.name == "F1")
        };
        let marks = |finding| {
            let of = f1(finding)?;
            let mark = |colour, estimate| Mark { colour, estimate };
            Some(vec![mark("first", of.first), mark("second", of.second)])
        };
        let drawn = self.positives.iter().filter_map(|(finding, studies)| {
            Some(MarkRow {
                name: format!("{} ({studies})", finding.name()),
                marks: marks(*finding)?,
            })
        });
        let rows: Vec<MarkRow> = drawn.collect();
        if rows.is_empty() {
            return;
        }
        let [first, second] = self.sides;
        let _ = write!(
            page,
            "<figure><figcaption>F1 of each finding (studies that have it); higher is better; lines: 95 % interval. {} \
             {}</figcaption>\n{}</figure>\n",
            scores::key("first", first),
            scores::key("second", second),
            charts::rows("F1 of each finding on both sides", &rows)
        );
    }

    /// The scores of each finding.
    fn each_finding(&self, page: &mut String) {
        *page += "<details><summary class=\"muted\">Each finding as a table; higher is better</summary>\n<div class=\"wide\" \
                  tabindex=\"0\"><table>\n<tr><th>score</th>";
        self.columns(page);
        for of in self.scores {
            if let Some(finding) = of.finding {
                row(
                    page,
                    &format!("{}: {}", finding.name(), escaped(&of.name)),
                    of,
                );
            }
        }
        *page += "</table></div></details>\n";
    }
}

/// A score of both sides, with its intervals.
fn row(page: &mut String, name: &str, of: &PairedEstimate) {
    let cell = |estimate: Estimate, value: String| {
        format!(
            "<td class=\"number\">{value}<br><span class=\"way\">{}</span></td>",
            estimate.interval_words()
        )
    };
    let side = |estimate: Estimate| cell(estimate, four_digits(estimate.value));
    let difference = four_digits(of.difference.value);
    let difference = match of.difference.value > 0.0 {
        true => format!("+{difference}"),
        false => difference,
    };
    let _ = writeln!(
        page,
        "<tr><td>{name}</td>{}{}{}</tr>",
        side(of.first),
        side(of.second),
        cell(of.difference, difference)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::bootstrap::Resampling;
    use crate::evaluation::follow_ups::{PairedAnswers, Said};

    #[test]
    fn the_page_has_every_score_of_both_sides_and_nothing_that_a_name_could_break() {
        let mut answers = PairedAnswers::default();
        for study in 0..12_usize {
            let truth: Said = std::array::from_fn(|class| (study + class).is_multiple_of(3));
            let said = std::array::from_fn(|class| (study * class).is_multiple_of(2));
            answers.add(truth.map(Some), said, truth, study as u32);
        }
        let page = FollowUpPage {
            title: "<b>",
            facts: &["a < b".to_owned()],
            sides: ["before", "after"],
            scores: &answers.estimates(Resampling::default()),
            positives: &answers.scores(0).positives,
        };
        let page = page.page();
        for name in FindingScores::NAMES {
            assert!(page.contains(name), "{name}");
        }
        assert!(page.contains("Edema: recall") && page.contains("<svg"));
        assert!(page.contains("&lt;b&gt;") && page.contains("a &lt; b") && !page.contains("<b>"));
        assert!(page.contains("1.0000") && page.contains("+0."));
    }
}
