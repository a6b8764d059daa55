//! What is kept of a scored study, and the sum of several.

use radialog_schemas::Finding;

use super::{CLASSES, ScoreOptions, Truths};
use crate::evaluation::clinical::LabelCounts;
use crate::evaluation::corpus::MatchedStudy;
use crate::evaluation::text_scores::meteor::MeteorCounts;
use crate::evaluation::text_scores::protocol::TextProtocol;
use crate::evaluation::text_scores::{BleuCounts, rouge_l};

/// What is true of a study's findings, as far as it is known, and what was said.
type Answers = ([Option<bool>; CLASSES], [bool; CLASSES]);

/// The scores of one study; its texts are not kept.
#[derive(Clone, Debug, Default)]
pub struct StudyScores {
    /// Whether a text was scored.
    pub has_text: bool,
    /// Words of the generated report, and of the reference.
    pub words: (u32, u32),
    /// BLEU's counts.
    pub bleu: BleuCounts,
    /// METEOR's counts.
    pub meteor: MeteorCounts,
    /// ROUGE-L.
    pub rouge: f64,
    /// CIDEr, which depends on the other references; 0 where it was not computed.
    pub cider: f64,
    pub(super) has_cider: bool,
    /// The report's labels beside the reference's.
    pub report: Option<Answers>,
    /// The classifier's answers beside the reference's labels.
    pub findings: Option<Answers>,
    /// The classifier's probabilities.
    pub probabilities: Option<[f32; CLASSES]>,
    /// Findings that the classifier sees and the report does not state, and the other way round.
    pub disagreement: Option<([bool; CLASSES], [bool; CLASSES])>,
}

/// The words of a hypothesis and its reference, for scores that need all texts.
pub(super) type Words = (Vec<String>, Vec<String>);

/// The sum of some studies' scores. Its size does not depend on their number.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// The number of scored texts.
    pub texts: u64,
    /// BLEU's counts.
    pub bleu: BleuCounts,
    /// METEOR's counts.
    pub meteor: MeteorCounts,
    /// The sum of ROUGE-L.
    pub rouge: f64,
    /// The sum of CIDEr.
    pub cider: f64,
    /// Labels of reports.
    pub reports: LabelCounts,
    /// The number of reports whose labels were scored.
    pub labelled: u64,
    /// The classifier's answers.
    pub findings: LabelCounts,
    /// The number of images whose findings were scored.
    pub classified: u64,
}

impl StudyScores {
    pub(super) fn of(
        study: &MatchedStudy,
        prediction: Option<&str>,
        reference: Option<&str>,
        truths: &Truths,
        options: &ScoreOptions,
    ) -> (Self, Option<Words>) {
        let mut scores = Self::default();
        let mut words = None;
        if let (Some(prediction), Some(reference)) = (prediction, reference) {
            words = scores.add_texts(prediction, reference, options);
        }
        if let Some(labels) = &study.reference_labels {
            let truth = truths.truth(labels, study.is_of_table);
            scores.report = study
                .labels
                .as_ref()
                .map(|said| (truth, truths.present(said)));
            scores.findings = study
                .probabilities
                .map(|probabilities| (truth, seen(&probabilities)));
            scores.probabilities = study.probabilities;
        }
        if let (Some(labels), Some(probabilities)) = (&study.labels, &study.probabilities) {
            let (stated, seen) = (truths.present(labels), seen(probabilities));
            let only = |a: &[bool; CLASSES], b: &[bool; CLASSES]| {
                std::array::from_fn(|class| a[class] && !b[class])
            };
            scores.disagreement = Some((only(&seen, &stated), only(&stated, &seen)));
        }
        (scores, words)
    }

    fn add_texts(
        &mut self,
        prediction: &str,
        reference: &str,
        options: &ScoreOptions,
    ) -> Option<Words> {
        let protocol = options.protocol;
        let [hypothesis, reference] = [prediction, reference].map(|text| protocol.split(text));
        // As the caption toolkit does it: ROUGE-L splits at blanks, so that an empty text is one empty word.
        let blanks = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let white = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        self.has_text = true;
        self.rouge = rouge_l(&blanks(&hypothesis), &blanks(&reference));
        self.meteor = options.meteor.counts(&hypothesis, &reference);
        let (hypothesis, reference) = (white(&hypothesis), white(&reference));
        self.words = (hypothesis.len() as u32, reference.len() as u32);
        self.bleu = BleuCounts::of(&hypothesis, &reference);
        (protocol == TextProtocol::CocoCaption).then_some((hypothesis, reference))
    }
}

impl StudyScores {
    /// F1 of the report's findings, as far as they are known; none where neither side has any.
    pub fn label_f1(&self) -> Option<f64> {
        let (truth, said) = self.report.as_ref()?;
        let (mut agree, mut sizes) = (0_u32, 0_u32);
        for (truth, &said) in truth.iter().zip(said) {
            if let Some(truth) = *truth {
                agree += u32::from(truth && said);
                sizes += u32::from(truth) + u32::from(said);
            }
        }
        (sizes > 0).then(|| f64::from(2 * agree) / f64::from(sizes))
    }
}

/// Probabilities over one half, as the classifier's findings are chosen.
fn seen(probabilities: &[f32; CLASSES]) -> [bool; CLASSES] {
    probabilities.map(|probability| probability > 0.5)
}

impl Totals {
    /// Adds a study.
    pub fn add(&mut self, study: &StudyScores) {
        if study.has_text {
            self.texts += 1;
            self.bleu.add(&study.bleu);
            self.meteor.add(&study.meteor);
            self.rouge += study.rouge;
            self.cider += study.cider;
        }
        if let Some((truth, said)) = &study.report {
            self.labelled += 1;
            self.reports.add_known(truth, said);
        }
        if let Some((truth, said)) = &study.findings {
            self.classified += 1;
            self.findings.add_known(truth, said);
        }
    }

    /// Whether a finding is scored at all.
    pub fn is_scored(&self, finding: Finding) -> bool {
        self.reports.known(finding) + self.findings.known(finding) > 0
    }
}
