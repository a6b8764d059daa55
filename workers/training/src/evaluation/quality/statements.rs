//! What reports state of the findings that they were asked for, by word rules that neither a labeler nor what texts were composed
//! from knows: scores of labels rise with the labeler and with its words, these do not.

use radialog_schemas::{Finding, FindingsReport};

use super::agreement::Flags;
use super::score_table::{ScoreCell, ScoreTable};
use crate::evaluation::bootstrap::Bootstrap;
use crate::evaluation::word_rules::{invented, stated};

/// The columns of the table.
const COLUMNS: [&str; 5] = [
    "asked for",
    "stated",
    "share stated",
    "texts with another",
    "texts with what nothing tells",
];

/// What the table's figures mean.
pub(super) const NOTE: &str = "By this program's word rules: findings by stems of words in sentences that deny nothing; of a request \"No Finding\" does not count. \
     What nothing tells: words of sides, degrees, sizes and comparisons, and numbers. The rules know neither the labeler nor the \
     wordings that texts are composed from.";

/// The findings of an image that its request names.
pub(super) fn requested(report: &FindingsReport) -> Flags {
    Finding::ALL.map(|finding| {
        let mut predicted = report.findings.iter();
        predicted.any(|of| of.finding == finding && of.present)
    })
}

/// What a text says by word rules; never "No Finding".
pub(super) fn said(text: &str) -> Flags {
    let stated = stated(text);
    Finding::ALL.map(|finding| stated.contains(&finding))
}

/// Of each writer's texts, how much of what was asked for they state, and how many of them say something else.
pub(super) fn table<'a>(
    asked: &[Flags],
    writers: impl IntoIterator<Item = (&'a str, &'a [String])>,
    resamples: &Bootstrap,
) -> ScoreTable {
    let mut table = ScoreTable::new("what the text states, by word rules", &COLUMNS);
    for (name, texts) in writers {
        let mut counts: Vec<[u64; 2]> = Vec::with_capacity(texts.len());
        let (mut others, mut made_up) = (0_usize, 0_usize);
        for (asked, text) in asked.iter().zip(texts) {
            let said = stated(text);
            let is_asked = |finding: &Finding| asked[*finding as usize];
            let real = Finding::ALL
                .into_iter()
                .filter(|of| *of != Finding::NoFinding);
            let wanted = real.filter(|finding| is_asked(finding)).count();
            let kept = said.iter().filter(|finding| is_asked(finding)).count();
            counts.push([wanted as u64, kept as u64]);
            others += usize::from(kept < said.len());
            made_up += usize::from(!invented(text).is_empty());
        }
        let sum =
            |at: &[usize], part: usize| -> u64 { at.iter().map(|&text| counts[text][part]).sum() };
        let all: Vec<usize> = (0..counts.len()).collect();
        let varies = resamples.groups_with(|text| counts[text][0] > 0) > 1;
        let share = ScoreCell::measured(resamples, varies, |at| {
            let (asked, stated) = (sum(at, 0), sum(at, 1));
            (asked > 0).then(|| stated as f64 / asked as f64)
        });
        table.row(
            name,
            [
                ScoreCell::Count(sum(&all, 0)),
                ScoreCell::Count(sum(&all, 1)),
                share,
                others.into(),
                made_up.into(),
            ],
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_counted_beside_what_the_text_states() {
        let flags = |present: &[Finding]| Finding::ALL.map(|finding| present.contains(&finding));
        let asked = [
            flags(&[Finding::Edema, Finding::Cardiomegaly]),
            flags(&[Finding::NoFinding]),
        ];
        let texts = [
            "The heart is enlarged. There is no edema.".to_owned(),
            "There is a small pleural effusion.".to_owned(),
        ];
        let resamples = Bootstrap::new(&["a", "b"], 1, "statements");
        let table = table(&asked, [("bundle", &texts[..])], &resamples);
        let scores = &table.rows[0].scores;
        assert_eq!(scores["asked for"], ScoreCell::Count(2));
        assert_eq!(scores["stated"], ScoreCell::Count(1));
        assert_eq!(scores["texts with another"], ScoreCell::Count(1));
        assert_eq!(scores["texts with what nothing tells"], ScoreCell::Count(1));
        // One patient's text alone is asked for any.
        assert_eq!(scores["share stated"], ScoreCell::Fixed(0.5));
    }
}
