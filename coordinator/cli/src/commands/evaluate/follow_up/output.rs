//! What these evaluations print and write.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use radialog_files::durable::Replacement;
use radialog_schemas::counted;
use radialog_schemas::table::escaped;
use radialog_training::evaluation::bootstrap::{Resampling, ScoreEstimate};
use radialog_training::evaluation::clinical::{UncertainAs, findings_words};
use radialog_training::evaluation::follow_ups::{FindingScores, PairedEstimate};
use radialog_training::evaluation::original_files::are_of_all_findings;
use radialog_training::evaluation::patients::Patients;
use radialog_training::evaluation::report_scores::BlankAs;
use radialog_training::evaluation::text_scores::protocol::TOO_LONG;

use crate::commands::evaluate::estimates::{print_estimates, written};

/// Prints scores of findings side by side.
pub(in crate::commands::evaluate) fn print_scores(columns: &[&FindingScores]) {
    let Some(first) = columns.first() else { return };
    let better = first.better.word();
    let row = |name: &str, of: &dyn Fn(&FindingScores) -> f64| {
        let cell = |scores: &&FindingScores| match of(scores) {
            value if value.is_nan() => format!(" {:>8}", "-"),
            value => format!(" {value:>8.4}"),
        };
        let cells: String = columns.iter().map(cell).collect();
        outln!("  {name:<26}{cells}  {better} is better");
    };
    for (place, name) in FindingScores::NAMES.into_iter().enumerate() {
        row(name, &|scores| scores.values()[place]);
    }
    outln!("  F1 by finding:");
    for (place, (finding, _)) in first.labels.iter().enumerate() {
        row(&format!("  {}", finding.name()), &|scores| {
            let is_there = scores.positives.get(place).is_some_and(|(_, of)| *of > 0);
            let rates = scores.labels.get(place).filter(|_| is_there);
            rates.map_or(f64::NAN, |(_, rates)| rates.f1)
        });
    }
    let mut positives = first.positives.iter();
    if positives.any(|(_, studies)| *studies == 0) {
        outln!("  -: no study has the finding; in the means it counts 0, as in the original");
    }
}

/// Says where the original's files lack scores, since ours are of fewer findings.
pub(in crate::commands::evaluate) fn print_original(scores: &FindingScores) {
    if !are_of_all_findings(scores) {
        outln!(
            "  the original's files have no scores of labels, since these are of {} findings: --blank negative gives those of all",
            scores.findings
        );
    }
}

/// How labels are scored, in words: what they count as, and of how many findings the means are.
pub(in crate::commands::evaluate) fn rule_words(
    uncertain: UncertainAs,
    blank: Option<BlankAs>,
    scores: &FindingScores,
) -> String {
    let uncertain = match uncertain {
        UncertainAs::Negative => "uncertain as negative",
        UncertainAs::Positive => "uncertain as positive",
    };
    let blank = match blank {
        None => "",
        Some(BlankAs::Auto) => ", blank as negative where the finding and the row have labels",
        Some(BlankAs::Negative) => ", blank as negative",
        Some(BlankAs::Unknown) => ", blank as unknown",
    };
    let findings = findings_words(scores.findings);
    let findings = findings.map_or_else(String::new, |words| format!("; {words}"));
    format!("{uncertain}{blank}{findings}")
}

/// How intervals were made, and which findings they are of too few patients for.
pub(in crate::commands::evaluate) fn resampled_words(
    resampling: Resampling,
    patients: &Patients,
    few: Option<String>,
) -> String {
    let words = resampling.words("studies", patients.named(), patients.others());
    match few {
        Some(few) => format!("{words}; {}", few.trim_end_matches('.')),
        None => words,
    }
}

/// Prints scores of both sides with their intervals: of texts and of all findings together, and F1 of each finding.
pub(in crate::commands::evaluate) fn print_intervals(
    how: &str,
    [first, second]: [&str; 2],
    estimates: &[PairedEstimate],
) {
    outln!("  {how}:");
    outln!("  {:<40} {first:<25}{second:<25}difference", "");
    for of in estimates {
        let name = match of.finding {
            None => of.name.clone(),
            Some(finding) if of.name == "F1" => format!("  F1 {}", finding.name()),
            Some(_) => continue,
        };
        let [first, second, difference] =
            [of.first, of.second, of.difference].map(|estimate| written(Some(estimate)));
        let better = of.better.word();
        outln!("  {name:<40} {first:<25}{second:<25}{difference:<25} {better} is better");
    }
}

/// Says where no text was scored.
pub(in crate::commands::evaluate) fn print_texts(scores: &[ScoreEstimate]) {
    match scores {
        [] => outln!("  no reference reports: texts are not scored"),
        scores => print_estimates(scores),
    }
}

/// Says how many texts were too long.
pub(in crate::commands::evaluate) fn print_too_long(texts: u64) {
    if texts > 0 {
        let studies = counted(texts, "study has", "studies have");
        outln!("  {studies} no text scores: {TOO_LONG}");
    }
}

/// A CSV of texts in the making; it appears under its name when it is whole.
struct TextsTable {
    path: PathBuf,
    file: Replacement,
}

impl TextsTable {
    fn create<const N: usize>(path: &Path, names: [&str; N]) -> anyhow::Result<Self> {
        let file = Replacement::create(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let mut table = Self {
            path: path.to_owned(),
            file,
        };
        table.row(names)?;
        Ok(table)
    }

    fn row<const N: usize>(&mut self, cells: [&str; N]) -> anyhow::Result<()> {
        // Records have a model's exact text, which may begin with the blank behind the prompt.
        let cells = cells.map(str::trim);
        let quoted = cells.map(|cell| format!("\"{}\"", escaped(cell).replace('"', "\"\"")));
        let line = quoted.join(",") + "\n";
        self.file
            .write_all(line.as_bytes())
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn finish(self) -> anyhow::Result<()> {
        let Self { path, file } = self;
        file.commit()
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// A table of what was not scored in the making: `file`, `line` (empty where it has none), `id`, `fault`.
pub(in crate::commands::evaluate) struct FaultsTable(TextsTable);

impl FaultsTable {
    pub(in crate::commands::evaluate) fn create(path: &Path) -> anyhow::Result<Self> {
        TextsTable::create(path, ["file", "line", "id", "fault"]).map(Self)
    }

    pub(in crate::commands::evaluate) fn add(
        &mut self,
        file: &str,
        line: Option<u64>,
        id: &str,
        fault: &str,
    ) -> anyhow::Result<()> {
        let line = line.map_or_else(String::new, |line| line.to_string());
        self.0.row([file, &line, id, fault])
    }

    pub(in crate::commands::evaluate) fn finish(self) -> anyhow::Result<()> {
        self.0.finish()
    }
}

/// `corrections.csv` in the making: `study_id`, `asked` (empty where nothing was), `report`, `corrected`.
pub(in crate::commands::evaluate) struct CorrectionsTable(TextsTable);

impl CorrectionsTable {
    pub(in crate::commands::evaluate) fn create(path: &Path) -> anyhow::Result<Self> {
        TextsTable::create(path, ["study_id", "asked", "report", "corrected"]).map(Self)
    }

    pub(in crate::commands::evaluate) fn add(
        &mut self,
        study: &str,
        asked: &str,
        report: &str,
        corrected: &str,
    ) -> anyhow::Result<()> {
        self.0.row([study, asked, report, corrected])
    }

    pub(in crate::commands::evaluate) fn finish(self) -> anyhow::Result<()> {
        self.0.finish()
    }
}

/// A table of answers in the making: `study_id`, what was asked or is true, `answer`.
pub(in crate::commands::evaluate) struct AnswersTable(TextsTable);

impl AnswersTable {
    pub(in crate::commands::evaluate) fn create(path: &Path, second: &str) -> anyhow::Result<Self> {
        TextsTable::create(path, ["study_id", second, "answer"]).map(Self)
    }

    pub(in crate::commands::evaluate) fn add(
        &mut self,
        study: &str,
        second: &str,
        answer: &str,
    ) -> anyhow::Result<()> {
        self.0.row([study, second, answer])
    }

    pub(in crate::commands::evaluate) fn finish(self) -> anyhow::Result<()> {
        self.0.finish()
    }
}
