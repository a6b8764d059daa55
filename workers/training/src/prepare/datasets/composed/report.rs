//! A report as sentences of which it is known what each states and denies, so that it can be written from findings, and
//! changed without anything else becoming different.

use radialog_schemas::{Finding, Label};

use super::stated;
use super::wordings::{Place, Wordings};
use crate::prepare::datasets::labelled_reports::LabelledReport;
use crate::prepare::weak_labels::{WeakLabeler, sentences};
use crate::random::Random;

/// Share of the wordings that follow from the company of a finding; the others are drawn. The likeliest text of a model that has
/// learned this differs from one set of findings to the next, and is never one of a dozen that are equally likely, between
/// which a greedy choice loses its way.
const BY_COMPANY: f64 = 0.65;
/// One of so many reports begins with the lungs.
const LUNGS_FIRST: usize = 4;
/// Share of neighbours that are stated in one sentence.
const TOGETHER: f64 = 0.35;
/// Share of the places without a finding of which the report says so.
const NORMAL: [(Place, f64); 5] = [
    (Place::Heart, 0.85),
    (Place::Mediastinum, 0.25),
    (Place::Lungs, 0.85),
    (Place::Pleura, 0.8),
    (Place::Bones, 0.3),
];
/// Share of the places with findings of which the report denies others.
const DENIES_OTHERS: f64 = 0.35;
/// Findings that are denied in a list.
const LISTED: [Finding; 5] = [
    Finding::Consolidation,
    Finding::Pneumothorax,
    Finding::PleuralEffusion,
    Finding::Edema,
    Finding::LungLesion,
];
/// The least and the largest number of sentences of a person's report that is learned.
const SENTENCES: [usize; 2] = [2, 8];

/// How several findings stand in a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListForm {
    ThereIs,
    Present,
    Shows,
    No,
    ThereIsNo,
    NoEvidence,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Sentence {
    /// A sentence that stays as it is or goes.
    Whole {
        text: String,
        states: Vec<Finding>,
        denies: Vec<Finding>,
    },
    /// Findings in a row, which can get shorter.
    List {
        form: ListForm,
        items: Vec<(Finding, String)>,
    },
}

/// A report, sentence by sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    sentences: Vec<Sentence>,
}

/// Writes a report of some findings.
pub(super) struct Writer<'a> {
    wordings: &'a Wordings,
    found: &'a [Finding],
}

impl ListForm {
    const STATES: [ListForm; 3] = [ListForm::ThereIs, ListForm::Present, ListForm::Shows];
    const DENIES: [ListForm; 3] = [ListForm::No, ListForm::ThereIsNo, ListForm::NoEvidence];

    fn denies(self) -> bool {
        Self::DENIES.contains(&self)
    }

    fn text(self, items: &[(Finding, String)]) -> String {
        let words: Vec<&str> = items.iter().map(|(_, words)| words.as_str()).collect();
        let all = joined(&words, if self.denies() { "or" } else { "and" });
        match self {
            ListForm::ThereIs => format!("There is {all}."),
            ListForm::Present if words.len() == 1 => format!("{} is present.", capital(&all)),
            ListForm::Present => format!("{} are present.", capital(&all)),
            ListForm::Shows => format!("The image shows {all}."),
            ListForm::No => format!("No {all}."),
            ListForm::ThereIsNo => format!("There is no {all}."),
            ListForm::NoEvidence => format!("There is no evidence of {all}."),
        }
    }
}

impl Sentence {
    fn text(&self) -> String {
        match self {
            Sentence::Whole { text, .. } => text.clone(),
            Sentence::List { form, items } => form.text(items),
        }
    }

    fn states(&self, finding: Finding) -> bool {
        match self {
            Sentence::Whole { states, .. } => states.contains(&finding),
            Sentence::List { form, items } => {
                !form.denies() && items.iter().any(|(of, _)| *of == finding)
            }
        }
    }

    fn denies(&self, finding: Finding) -> bool {
        match self {
            Sentence::Whole { denies, .. } => denies.contains(&finding),
            Sentence::List { form, items } => {
                form.denies() && items.iter().any(|(of, _)| *of == finding)
            }
        }
    }

    /// The sentence without what it says of a finding: shorter, or gone. None where it says other things, too, and cannot be cut.
    fn without(&self, finding: Finding) -> Option<Option<Self>> {
        match self {
            Sentence::Whole { states, denies, .. } => {
                let says_other = match states.contains(&finding) {
                    true => states.len() > 1 || !denies.is_empty(),
                    // What else it denies is left unsaid.
                    false => !states.is_empty(),
                };
                (!says_other).then_some(None)
            }
            Sentence::List { form, items } => {
                let mut items = items.clone();
                items.retain(|(of, _)| *of != finding);
                Some((!items.is_empty()).then_some(Sentence::List { form: *form, items }))
            }
        }
    }
}

impl Report {
    /// The report of a person, where it states the findings of its labels and nothing else that anybody could not see in them:
    /// no side, size or comparison, no other disease.
    pub(super) fn of_person(
        sample: &LabelledReport,
        wordings: &Wordings,
        labeler: &WeakLabeler,
    ) -> Option<Self> {
        let text = sample.target();
        let small = text.to_lowercase();
        let words = || small.split(|c: char| !c.is_alphanumeric());
        let is_not_learned = |word: &str| {
            let list = &wordings.not_learned;
            word.contains(|c: char| c.is_ascii_digit())
                || list.iter().any(|not| match not.strip_suffix('*') {
                    Some(start) => word.starts_with(start),
                    None => word == not,
                })
        };
        if words().any(is_not_learned) {
            return None;
        }
        let mut report = Report {
            sentences: Vec::new(),
        };
        let mut positive = Vec::new();
        for sentence in sentences(text) {
            let said = labeler.sentence_and_contraries(sentence);
            let of = |label: Label| {
                let said = said.iter().filter(|(_, of)| *of == label);
                said.map(|(finding, _)| *finding)
                    .filter(|finding| *finding != Finding::NoFinding)
                    .collect::<Vec<_>>()
            };
            if !of(Label::Uncertain).is_empty() {
                return None;
            }
            positive.extend(of(Label::Positive));
            report.sentences.push(Sentence::Whole {
                text: sentence.to_owned(),
                states: of(Label::Positive),
                denies: of(Label::Negative),
            });
        }
        positive.sort_unstable();
        positive.dedup();
        let count = report.sentences.len();
        (positive == stated(sample) && (SENTENCES[0]..=SENTENCES[1]).contains(&count))
            .then_some(report)
    }

    pub(super) fn text(&self) -> String {
        let sentences = self.sentences.iter().map(Sentence::text);
        sentences.collect::<Vec<_>>().join(" ")
    }

    /// The sentences that state one of these findings.
    pub(super) fn stating(&self, findings: &[Finding]) -> String {
        let states = |sentence: &&Sentence| findings.iter().any(|f| sentence.states(*f));
        let texts = self.sentences.iter().filter(states).map(Sentence::text);
        texts.collect::<Vec<_>>().join(" ")
    }

    /// Takes a finding out: what states it goes. None where that is not possible without other changes.
    pub(super) fn without(&self, finding: Finding, wordings: &Wordings) -> Option<Self> {
        let mut sentences = self.cut(finding, Sentence::states)?;
        if sentences.is_empty() {
            let words = wordings.of(finding).none[0].clone();
            sentences.push(Sentence::List {
                form: ListForm::ThereIsNo,
                items: vec![(finding, words)],
            });
        }
        Some(Self { sentences })
    }

    /// Puts a finding in: what denies it goes, and a sentence that states it comes at the end. None where that is not possible
    /// without other changes.
    pub(super) fn with(&self, finding: Finding, wordings: &Wordings) -> Option<Self> {
        let mut sentences = self.cut(finding, Sentence::denies)?;
        sentences.push(Sentence::Whole {
            text: wordings.of(finding).states[0].clone(),
            states: vec![finding],
            denies: Vec::new(),
        });
        Some(Self { sentences })
    }

    fn cut(
        &self,
        finding: Finding,
        says: impl Fn(&Sentence, Finding) -> bool,
    ) -> Option<Vec<Sentence>> {
        let mut kept = Vec::new();
        for sentence in &self.sentences {
            if says(sentence, finding) {
                kept.extend(sentence.without(finding)?);
            } else {
                kept.push(sentence.clone());
            }
        }
        Some(kept)
    }
}

impl<'a> Writer<'a> {
    pub(super) fn new(wordings: &'a Wordings, found: &'a [Finding]) -> Self {
        Self { wordings, found }
    }

    /// A report that states all of the findings and no other.
    pub(super) fn report(&self, random: &mut Random) -> Report {
        let order = Place::ORDERS[usize::from(self.choice(LUNGS_FIRST, 1, random) == 0)];
        let mut sentences = Vec::new();
        let denies_in_list = random.unit() < 0.3;
        let mut listed = self.denied(&LISTED, random);
        for place in order {
            let there: Vec<Finding> = self.found_at(place).collect();
            if !there.is_empty() {
                self.state(&there, &mut sentences, random);
                if random.unit() < DENIES_OTHERS && !denies_in_list {
                    self.normal(place, false, &mut sentences, random);
                }
                continue;
            }
            if place == Place::Pleura && denies_in_list {
                let items = std::mem::take(&mut listed);
                self.deny(&items, &mut sentences, random);
                continue;
            }
            let share = NORMAL.iter().find(|(of, _)| *of == place);
            if random.unit() < share.map_or(0.0, |(_, share)| *share) {
                self.normal(place, true, &mut sentences, random);
            }
        }
        if sentences.is_empty() {
            self.normal(Place::Lungs, true, &mut sentences, random);
        }
        Report { sentences }
    }

    fn found_at(&self, place: Place) -> impl Iterator<Item = Finding> {
        let is_there = move |finding: &Finding| self.wordings.of(*finding).region == place;
        self.found.iter().copied().filter(is_there)
    }

    /// An index below `count`: most follow from the first finding and the number of findings, the others are drawn.
    fn choice(&self, count: usize, what: usize, random: &mut Random) -> usize {
        let first = self.found.first().map_or(0, |finding| *finding as usize);
        let by_company = (first * 5 + self.found.len() * 3 + what * 7) % count;
        match !self.found.is_empty() && random.unit() < BY_COMPANY {
            true => by_company,
            false => random.below(count),
        }
    }

    /// One of the wordings of a finding: most follow from the finding before it.
    fn wording<'w>(
        &self,
        list: &'w [String],
        finding: Finding,
        what: usize,
        random: &mut Random,
    ) -> &'w str {
        let before = self.found.iter().take_while(|of| **of < finding).last();
        let before = before.map_or(0, |finding| *finding as usize);
        let by_company = (finding as usize * 3 + before * 5 + what) % list.len();
        match random.unit() < BY_COMPANY {
            true => list[by_company].as_str(),
            false => random.pick(list).as_str(),
        }
    }

    fn state(&self, there: &[Finding], sentences: &mut Vec<Sentence>, random: &mut Random) {
        let mut rest = there;
        while let [first, after @ ..] = rest {
            let mut together = 1;
            while together < rest.len() && together < 3 && random.unit() < TOGETHER {
                together += 1;
            }
            if together == 1 {
                let words = &self.wordings.of(*first).states;
                sentences.push(Sentence::Whole {
                    text: self.wording(words, *first, 0, random).to_owned(),
                    states: vec![*first],
                    denies: Vec::new(),
                });
                rest = after;
                continue;
            }
            let words = |finding: &Finding, random: &mut Random| {
                let list = &self.wordings.of(*finding).there;
                (*finding, self.wording(list, *finding, 1, random).to_owned())
            };
            let items = rest[..together]
                .iter()
                .map(|finding| words(finding, random));
            let items = items.collect();
            let form = ListForm::STATES[self.choice(ListForm::STATES.len(), 2, random)];
            sentences.push(Sentence::List { form, items });
            rest = &rest[together..];
        }
    }

    /// Says that a place is as it should be: wholly, or as far as its findings leave anything to say.
    fn normal(
        &self,
        place: Place,
        wholly: bool,
        sentences: &mut Vec<Sentence>,
        random: &mut Random,
    ) {
        let fits = |finding: &Finding| self.may_deny(*finding);
        let fitting = self.wordings.normal.iter();
        let fitting: Vec<_> = fitting
            .filter(|normal| normal.region == place && normal.rules_out.iter().all(fits))
            .collect();
        if fitting.is_empty() {
            return;
        }
        // The first one says the most.
        let of = match wholly && random.unit() < 0.6 {
            true => fitting[0],
            false => fitting[self.choice(fitting.len(), 3, random)],
        };
        let at = self.choice(of.sentences.len(), 4, random);
        sentences.push(Sentence::Whole {
            text: of.sentences[at].clone(),
            states: Vec::new(),
            denies: of.rules_out.clone(),
        });
    }

    /// Whether a finding can be denied beside those that are there: what overlaps with one of them cannot.
    fn may_deny(&self, finding: Finding) -> bool {
        use Finding::{
            Cardiomegaly, Consolidation, EnlargedCardiomediastinum, LungOpacity, Pneumonia,
        };
        let overlaps: &[Finding] = match finding {
            LungOpacity => &[
                Finding::LungLesion,
                Finding::Edema,
                Consolidation,
                Pneumonia,
                Finding::Atelectasis,
            ],
            Consolidation => &[Pneumonia, LungOpacity],
            Pneumonia => &[Consolidation, LungOpacity],
            Cardiomegaly => &[EnlargedCardiomediastinum],
            EnlargedCardiomediastinum => &[Cardiomegaly],
            _ => &[],
        };
        !self.found.contains(&finding) && !overlaps.iter().any(|other| self.found.contains(other))
    }

    fn denied(&self, of: &[Finding], random: &mut Random) -> Vec<Finding> {
        let may = of.iter().filter(|finding| self.may_deny(**finding));
        let mut may: Vec<Finding> = may.copied().collect();
        may.truncate(2 + random.below(3));
        may
    }

    fn deny(&self, findings: &[Finding], sentences: &mut Vec<Sentence>, random: &mut Random) {
        if findings.is_empty() {
            return;
        }
        let words = |finding: &Finding, random: &mut Random| {
            let list = &self.wordings.of(*finding).none;
            (*finding, self.wording(list, *finding, 2, random).to_owned())
        };
        let items = findings.iter().map(|finding| words(finding, random));
        let items = items.collect();
        let form = ListForm::DENIES[self.choice(ListForm::DENIES.len(), 5, random)];
        sentences.push(Sentence::List { form, items });
    }
}

/// `a, b and c`.
pub(super) fn joined(words: &[&str], and: &str) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} {and} {last}", first.join(", ")),
    }
}

/// The text with a capital letter.
pub(super) fn capital(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}
