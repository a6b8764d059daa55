//! `prepare synthetic`: reports that are put together from wordings, with the labels that follow from how they were put together.
//! They teach a labeler what collections of real reports hardly have: each finding stated, denied, doubted and of the past, in
//! many words. They are no reports of anybody, and never a reference for an evaluation.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use radialog_schemas::{Finding, Label};
use serde::Deserialize;

use self::pattern::Pattern;
use self::sentence_pool::SentencePool;
use crate::error::TrainingError;
use crate::prepare::tables::finding_labels::FindingLabels;
use crate::prepare::tables::report_table::ReportRow;
use crate::prepare::tables::table_file::{TableFile, text};
use crate::prepare::weak_labels::strongest;
use crate::random::Random;

mod pattern;
mod sentence_pool;

/// How often a report has one sentence, so that a labeler sees each wording alone. What is said beside others is harder to learn.
const ALONE: f64 = 0.25;
/// The most sentences of a longer report.
const MOST_SENTENCES: usize = 8;
/// How often a sentence of a longer report, and of a short one, is a filler or one of the pool, and how often of the pool then.
const BESIDE: f64 = 0.4;
const BESIDE_ALONE: f64 = 0.2;
const OF_POOL: f64 = 0.75;
/// How often a sentence is about several findings.
const SEVERAL: f64 = 0.4;
/// How often a sentence about one finding is of its own wordings, where it has any.
const OWN: f64 = 0.3;
/// How often a place, an adjective is said.
const PLACED: f64 = 0.5;
const DESCRIBED: f64 = 0.4;
/// How often each way of saying is drawn: stated, denied, doubted, of the past.
const SAYINGS: [(Saying, f32); 4] = [
    (Saying::Stated, 0.34),
    (Saying::Denied, 0.28),
    (Saying::Doubted, 0.2),
    (Saying::Past, 0.18),
];
/// How often a sentence that may not be written is drawn again before the wordings are refused.
const DRAWS: usize = 1000;

/// Synthetic reports: their wordings, and what they may be made of besides.
#[derive(Clone, Debug)]
pub struct SyntheticReports {
    /// The TOML file of wordings.
    pub wordings: PathBuf,
    /// How many reports.
    pub reports: usize,
    /// Report tables whose `train` rows give sentences to stand between, labelled by the weak rule.
    pub sentences: Vec<PathBuf>,
    /// A CSV and its column of sentences that are never written, since something is measured by them.
    pub held_out: Option<(PathBuf, String)>,
    /// Everything drawn follows from it.
    pub seed: u64,
}

/// How a sentence speaks of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Saying {
    Stated,
    Denied,
    Doubted,
    /// It was there and is no longer: denied, as CheXpert's labels have it.
    Past,
}

impl Saying {
    fn label(self) -> Label {
        match self {
            Saying::Stated => Label::Positive,
            Saying::Denied | Saying::Past => Label::Negative,
            Saying::Doubted => Label::Uncertain,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wordings {
    /// Sentences about one finding.
    one: BTreeMap<Saying, Vec<Pattern>>,
    /// Sentences about several.
    several: Vec<SeveralFindings>,
    /// Sentences about none of the 14.
    normal: Vec<Pattern>,
    abnormal: Vec<Pattern>,
    /// Sentences that say that there is nothing at all.
    no_finding: Vec<Pattern>,
    finding: Vec<FindingWordings>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeveralFindings {
    says: Vec<Saying>,
    texts: Vec<Pattern>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FindingWordings {
    name: Finding,
    /// Nouns in the singular that take an article, in the plural, and of what is not counted.
    #[serde(default)]
    singular: Vec<Pattern>,
    #[serde(default)]
    plural: Vec<Pattern>,
    #[serde(default)]
    mass: Vec<Pattern>,
    #[serde(default)]
    adjectives: Vec<Pattern>,
    #[serde(default)]
    places: Vec<Pattern>,
    /// Whole sentences of this finding alone.
    #[serde(default)]
    own: BTreeMap<Saying, Vec<Pattern>>,
}

/// A sentence and what it says.
#[derive(Clone, Debug, PartialEq)]
struct Sentence {
    text: String,
    says: Vec<(Finding, Label)>,
    /// Whether it says something abnormal that none of the 14 findings covers.
    is_abnormal: bool,
}

impl SyntheticReports {
    /// Puts the reports together; all of them are of the split `train`.
    ///
    /// # Errors
    /// A file that cannot be read or is not understood, wordings without a way of saying, or ones that the held-out sentences
    /// leave nothing of.
    pub fn rows(&self) -> Result<Vec<ReportRow>, TrainingError> {
        let wordings = Wordings::read(&self.wordings)?;
        let pool = SentencePool::read(&self.sentences)?;
        let held_out = match &self.held_out {
            Some((path, column)) => held_out(path, column)?,
            None => HashSet::new(),
        };
        let mut writer = Writer {
            wordings: &wordings,
            pool: &pool,
            held_out: &held_out,
            random: Random::stream(self.seed, "synthetic"),
        };
        let width = self.reports.to_string().len();
        let report = |number| {
            let (findings, labels) = writer.report()?;
            let study = format!("synthetic-{number:0width$}");
            Some(ReportRow::of_findings(&study, "train", &findings, labels))
        };
        let rows: Option<Vec<_>> = (1..=self.reports).map(report).collect();
        rows.ok_or_else(|| {
            let reason = format!("{DRAWS} draws gave held-out sentences only: add wordings");
            TrainingError::content(&self.wordings)(reason)
        })
    }
}

impl Wordings {
    fn read(path: &Path) -> Result<Self, TrainingError> {
        let text = std::fs::read_to_string(path).map_err(TrainingError::io("read", path))?;
        let wordings: Self = toml::from_str(&text).map_err(TrainingError::content(path))?;
        match wordings.fault() {
            Some(fault) => Err(TrainingError::content(path)(fault)),
            None => Ok(wordings),
        }
    }

    /// What is missing.
    fn fault(&self) -> Option<String> {
        for (saying, _) in SAYINGS {
            if self.one.get(&saying).is_none_or(Vec::is_empty) {
                return Some(format!("[one] has no sentence for {saying:?}"));
            }
        }
        for several in &self.several {
            if several.says.is_empty() || several.texts.is_empty() {
                return Some("[[several]] needs says and texts".to_owned());
            }
            if several.says.len() > self.finding.len() {
                return Some("[[several]] is about more findings than there are".to_owned());
            }
        }
        if self.several.is_empty()
            || self.normal.is_empty()
            || self.abnormal.is_empty()
            || self.no_finding.is_empty()
        {
            return Some(
                "several, normal, abnormal and no_finding need a sentence each".to_owned(),
            );
        }
        let nameless = self.finding.iter().find(|finding| finding.nouns() == 0);
        if let Some(finding) = nameless {
            return Some(format!("{} has no noun", finding.name.name()));
        }
        self.finding.is_empty().then(|| "no finding".to_owned())
    }
}

impl FindingWordings {
    fn nouns(&self) -> usize {
        self.singular.len() + self.plural.len() + self.mass.len()
    }
}

/// The sentences of a column, as they are compared.
fn held_out(path: &Path, column: &str) -> Result<HashSet<String>, TrainingError> {
    let mut table = TableFile::open(path)?;
    let column = table.column(column)?;
    let mut held_out = HashSet::new();
    while let Some(row) = table.next_row()? {
        held_out.insert(compared(text(&row, column)));
    }
    Ok(held_out)
}

/// A sentence without its marks, in small letters.
fn compared(sentence: &str) -> String {
    let words = sentence.split(|character: char| !character.is_alphanumeric());
    let words: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.join(" ")
}

struct Writer<'a> {
    wordings: &'a Wordings,
    pool: &'a SentencePool,
    held_out: &'a HashSet<String>,
    random: Random,
}

impl<'a> Writer<'a> {
    fn has(&mut self, share: f64) -> bool {
        self.random.unit() < share
    }

    /// The next report and its labels; `None` where all that is drawn is held out.
    fn report(&mut self) -> Option<(String, FindingLabels)> {
        let is_alone = self.has(ALONE);
        let count = match is_alone {
            true => 1,
            false => 2 + self.random.below(MOST_SENTENCES - 1),
        };
        let mut said: Vec<Finding> = Vec::new();
        let mut sentences = Vec::new();
        while sentences.len() < count {
            let sentence = (0..DRAWS).find_map(|_| {
                let sentence = self.sentence(is_alone, &said);
                let parts = sentence.text.split_inclusive(". ");
                let is_free = parts
                    .into_iter()
                    .all(|part| !self.held_out.contains(&compared(part)));
                is_free.then_some(sentence)
            })?;
            said.extend(sentence.says.iter().map(|(finding, _)| *finding));
            sentences.push(sentence);
        }
        let texts: Vec<&str> = sentences
            .iter()
            .map(|sentence| sentence.text.as_str())
            .collect();
        Some((texts.join(" "), labels(&sentences)))
    }

    fn sentence(&mut self, is_alone: bool, said: &[Finding]) -> Sentence {
        let beside = if is_alone { BESIDE_ALONE } else { BESIDE };
        if self.has(beside) {
            return self.beside();
        }
        let wordings = self.wordings;
        if self.has(SEVERAL) {
            let several = self.random.pick(&wordings.several);
            if let Some(findings) = self.unsaid(several.says.len(), said) {
                let says = findings
                    .into_iter()
                    .zip(several.says.iter().copied())
                    .collect();
                let text = self.random.pick(&several.texts);
                return self.filled(text, says);
            }
        }
        let weights = SAYINGS.map(|(_, weight)| weight);
        let (saying, _) = SAYINGS[self.random.weighted(&weights)];
        let Some(finding) = self
            .unsaid(1, said)
            .and_then(|findings| findings.first().copied())
        else {
            return self.beside();
        };
        let own = finding.own.get(&saying).filter(|own| !own.is_empty());
        let text = match own {
            Some(own) if self.has(OWN) => self.random.pick(own),
            _ => self.random.pick(&wordings.one[&saying]),
        };
        self.filled(text, vec![(finding, saying)])
    }

    /// A sentence that says none of the findings, or a real one.
    fn beside(&mut self) -> Sentence {
        if !self.pool.is_empty() && self.has(OF_POOL) {
            return self.random.pick(self.pool.sentences()).clone();
        }
        let wordings = self.wordings;
        let (patterns, is_abnormal) = match self.random.below(5) {
            0 => (&wordings.no_finding, false),
            1 | 2 => (&wordings.normal, false),
            _ => (&wordings.abnormal, true),
        };
        let pattern = self.random.pick(patterns);
        let text = pattern.draw(&mut self.random);
        Sentence {
            text: finished(&text),
            says: Vec::new(),
            is_abnormal,
        }
    }

    /// So many different findings that no sentence before has named.
    fn unsaid(&mut self, count: usize, said: &[Finding]) -> Option<Vec<&'a FindingWordings>> {
        let wordings = self.wordings;
        let unsaid = wordings
            .finding
            .iter()
            .filter(|finding| !said.contains(&finding.name));
        let mut unsaid: Vec<&'a FindingWordings> = unsaid.collect();
        self.random.shuffle(&mut unsaid);
        unsaid.truncate(count);
        (unsaid.len() == count).then_some(unsaid)
    }

    /// The sentence with its findings put in. Adjectives and places belong to what is there, or may be.
    fn filled(&mut self, pattern: &Pattern, says: Vec<(&FindingWordings, Saying)>) -> Sentence {
        let mut text = pattern.draw(&mut self.random);
        for (place, (finding, _)) in says.iter().enumerate() {
            let number = place + 1;
            let noun = self.noun(finding);
            for (name, value) in noun.forms() {
                text = text.replace(&format!("{{{name}{number}}}"), &value);
            }
            let at = format!("{{at{number}}}");
            if text.contains(&at) {
                let is_placed = !finding.places.is_empty() && self.has(PLACED);
                let placed = match is_placed {
                    true => self.random.pick(&finding.places).draw(&mut self.random),
                    false => String::new(),
                };
                text = text.replace(&at, &placed);
            }
        }
        Sentence {
            text: finished(&text),
            says: says
                .iter()
                .map(|(finding, saying)| (finding.name, saying.label()))
                .collect(),
            is_abnormal: false,
        }
    }

    fn noun(&mut self, finding: &FindingWordings) -> Noun {
        let at = self.random.below(finding.nouns());
        let (singular, plural) = (finding.singular.len(), finding.plural.len());
        let (pattern, number) = match at {
            at if at < singular => (&finding.singular[at], Number::Singular),
            at if at < singular + plural => (&finding.plural[at - singular], Number::Plural),
            at => (&finding.mass[at - singular - plural], Number::Mass),
        };
        let is_described = !finding.adjectives.is_empty() && self.has(DESCRIBED);
        let adjective = match is_described {
            true => self.random.pick(&finding.adjectives).draw(&mut self.random),
            false => String::new(),
        };
        Noun {
            noun: pattern.draw(&mut self.random),
            adjective,
            number,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Number {
    Singular,
    Plural,
    Mass,
}

struct Noun {
    noun: String,
    adjective: String,
    number: Number,
}

impl Noun {
    /// What patterns may name, with its value.
    fn forms(&self) -> [(&'static str, String); 6] {
        let described = format!("{} {}", self.adjective, self.noun);
        let described = described.trim();
        let with_article = match self.number {
            Number::Singular if described.starts_with(['a', 'e', 'i', 'o', 'u']) => {
                format!("an {described}")
            }
            Number::Singular => format!("a {described}"),
            Number::Plural | Number::Mass => described.to_owned(),
        };
        let verb = |one: &str, many: &str| match self.number {
            Number::Plural => many.to_owned(),
            Number::Singular | Number::Mass => one.to_owned(),
        };
        [
            ("a", with_article),
            ("d", described.to_owned()),
            ("n", self.noun.clone()),
            ("is", verb("is", "are")),
            ("has", verb("has", "have")),
            ("was", verb("was", "were")),
        ]
    }
}

/// A sentence begins with a capital letter, ends with a full stop, and has single blanks, none before a mark.
fn finished(text: &str) -> String {
    let mut finished = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for mark in [",", ".", ";", ":"] {
        finished = finished.replace(&format!(" {mark}"), mark);
    }
    if !finished.ends_with('.') {
        finished.push('.');
    }
    let first = finished
        .chars()
        .next()
        .map(|first| first.to_uppercase().to_string());
    match first {
        Some(first) => format!("{first}{}", finished.get(1..).unwrap_or_default()),
        None => finished,
    }
}

/// The labels of sentences together. "No Finding" is 1 where nothing but devices is stated or possible, and nothing abnormal
/// besides; else it is blank.
fn labels(sentences: &[Sentence]) -> FindingLabels {
    let mut labels = strongest(
        sentences
            .iter()
            .flat_map(|sentence| sentence.says.iter().copied()),
    );
    let is_there = |finding: &Finding| {
        let label = labels[*finding as usize];
        matches!(label, Label::Positive | Label::Uncertain) && *finding != Finding::SupportDevices
    };
    let is_abnormal = sentences.iter().any(|sentence| sentence.is_abnormal);
    if !is_abnormal && !Finding::ALL.iter().any(is_there) {
        labels[Finding::NoFinding as usize] = Label::Positive;
    }
    labels
}

#[cfg(test)]
mod tests;
