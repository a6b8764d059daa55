//! Fifty scripted turns about reports that the bundle has just written, each right or wrong by a rule that a program can
//! check.

mod rules;
mod script;

use radialog_models::prompt::{ChatPrompt, Exchange};
use radialog_schemas::Finding;

use super::agreement::{Flags, findings, mean, present};
use super::networks::DialogRequest;
use super::score_table::{ScoreCell, ScoreSection, ScoreTable};
use super::statements;
use super::studies::stated;
use super::{Evaluator, GeneratedText, QualityPart, ReportFromLabels, flags};
use crate::error::TrainingError;
use crate::evaluation::bootstrap::Bootstrap;
use rules::{first_sentence, is_right};
use script::{ScriptedTurn, TurnKind};

/// A report that turns are about.
struct DialogStudy {
    /// Named by the request, without "No Finding".
    asked_for: Flags,
    text: String,
    /// Positive in the text, without "No Finding".
    said: Flags,
}

pub(super) fn measure(evaluator: &mut Evaluator<'_>) -> Result<ScoreSection, TrainingError> {
    let frequencies = frequencies(evaluator)?;
    let seed = evaluator.quality.seed;
    let written = evaluator.written_from_labels()?;
    let studies: Vec<DialogStudy> = written.iter().map(study).collect();
    let turns = script::draw(&studies, &frequencies, seed);
    // Held again below, when the bench has to write.
    let questions = turns
        .iter()
        .map(|turn| &written[turn.study])
        .map(|from| (from.findings.clone(), from.image.clone()));
    let questions: Vec<_> = questions.collect();
    let reports = turns.iter().map(|turn| &written[turn.study].report);
    let (ids, patients): (Vec<String>, Vec<String>) = reports
        .map(|report| (report.study.clone(), report.drawn_with().clone()))
        .unzip();

    let language = evaluator.networks.language()?;
    let prompts = &language.prompts;
    let ask = |(turn, (findings, image)): (&ScriptedTurn, &(String, candle_core::Tensor))| {
        let report = prompts.untrusted(&studies[turn.study].text);
        let past = Exchange {
            turn: None,
            question: prompts.report_message(findings),
            answer: report,
        };
        let asked = prompts.message(&turn.ask(), None).unwrap_or_default();
        DialogRequest {
            dialog: ChatPrompt {
                history: vec![past],
                question: asked,
            },
            image: image.clone(),
        }
    };
    let asked: Vec<DialogRequest> = turns.iter().zip(&questions).map(ask).collect();
    let answers = evaluator.networks.answer("answers", &asked)?;
    let trivial: Vec<String> = turns
        .iter()
        .map(|turn| trivial_answer(turn, &studies[turn.study]))
        .collect();
    let right = |texts: &[String]| -> Result<Vec<bool>, TrainingError> {
        let labels = flags(&evaluator.networks.label(texts)?)
            .into_iter()
            .map(real);
        let judge = |((turn, text), labels): ((&ScriptedTurn, &String), Flags)| {
            let study = &studies[turn.study];
            is_right(
                turn,
                study,
                text,
                &labels,
                evaluator.quality.lower_case_names,
            )
        };
        Ok(turns.iter().zip(texts).zip(labels).map(judge).collect())
    };
    let (right, right_trivially) = (right(&answers)?, right(&trivial)?);
    let by_words = turns.iter().zip(&answers).map(|(turn, answer)| {
        let study = studies[turn.study].by_words();
        let said = statements::said(answer);
        is_right(
            turn,
            &study,
            answer,
            &said,
            evaluator.quality.lower_case_names,
        )
    });
    let by_words: Vec<bool> = by_words.collect();

    let rows = asked
        .iter()
        .zip(&turns)
        .zip(ids.into_iter().zip(questions))
        .zip(answers.iter().zip(&right));
    let texts = rows.map(
        |(((question, turn), (id, (findings, _))), (answer, &right))| GeneratedText {
            part: QualityPart::Dialog,
            id,
            findings,
            asked: Some(question.dialog.question.to_string()),
            reference: Some(studies[turn.study].text.clone()),
            text: answer.clone(),
            right: Some(right),
        },
    );
    evaluator.texts.extend(texts.collect::<Vec<_>>());
    let notes = vec![
        "Two exchanges each: the report that the bundle writes from the labels of a real report, then the turn. Findings \
         that are said: labels of the text by the bundle's CheXbert, without \"No Finding\"."
            .to_owned(),
        "Add X: the new report says X and all that the old one said. Remove X: it no longer says X, and says all else that \
         the old one said. Is there X: yes where the request named X, no where it did not and the report does not say it. \
         List: names exactly the findings of the request. Summary: not empty, fewer words than the report, says nothing \
         that the report does not say, and something of it where it says anything."
            .to_owned(),
        "Trivial: the report unchanged; \"no\"; \"no finding\"; the report's first sentence.".to_owned(),
        "Right by word rules: the same, with the findings that report and answer say read by word rules instead of the labeler."
            .to_owned(),
    ];
    let right = [&right, &by_words, &right_trivially];
    let table = table(&turns, &patients, right.map(Vec::as_slice), seed);
    Ok(ScoreSection {
        reliability: Vec::new(),
        cautions: Vec::new(),
        title: "Dialog".into(),
        notes,
        tables: vec![table],
    })
}

impl DialogStudy {
    /// The same, with what the text says by word rules.
    fn by_words(&self) -> Self {
        Self {
            asked_for: self.asked_for,
            text: self.text.clone(),
            said: statements::said(&self.text),
        }
    }
}

fn study(from: &ReportFromLabels) -> DialogStudy {
    DialogStudy {
        asked_for: real(stated(&from.report)),
        text: from.text.clone(),
        said: real(present(&from.labels)),
    }
}

/// The flags without "No Finding".
fn real(mut flags: Flags) -> Flags {
    flags[Finding::NoFinding as usize] = false;
    flags
}

/// The number of training reports that have each finding; without such reports, all findings are as frequent.
fn frequencies(evaluator: &Evaluator<'_>) -> Result<[f32; Finding::ALL.len()], TrainingError> {
    let mut counts = [0.0; Finding::ALL.len()];
    let trained = evaluator.trained_reports()?;
    if trained.is_empty() {
        counts = [1.0; Finding::ALL.len()];
        counts[Finding::NoFinding as usize] = 0.0;
    }
    for report in trained {
        for finding in findings(&real(stated(&report))) {
            counts[finding as usize] += 1.0;
        }
    }
    Ok(counts)
}

/// What somebody says who understands nothing.
fn trivial_answer(turn: &ScriptedTurn, study: &DialogStudy) -> String {
    match turn.kind {
        TurnKind::Add(_) | TurnKind::Remove(_) => study.text.clone(),
        TurnKind::IsThere(_) | TurnKind::IsAbsent(_) => "no".into(),
        TurnKind::List => Finding::NoFinding.name().to_lowercase(),
        TurnKind::Summary => first_sentence(&study.text).into(),
    }
}

/// Shares of turns; all turns about a patient's reports are drawn together.
fn table(
    turns: &[ScriptedTurn],
    patients: &[String],
    [right, by_words, trivially]: [&[bool]; 3],
    seed: u64,
) -> ScoreTable {
    let mut table = ScoreTable::new(
        "turns that are right",
        &["turns", "right", "share", "right by word rules", "trivial"],
    );
    let mut row = |name: &str, of: &dyn Fn(&ScriptedTurn) -> bool| {
        let chosen: Vec<usize> = (0..turns.len()).filter(|&turn| of(&turns[turn])).collect();
        let count =
            |right: &[bool]| ScoreCell::from(chosen.iter().filter(|&&turn| right[turn]).count());
        let shares: Vec<f64> = chosen
            .iter()
            .map(|&turn| f64::from(u8::from(right[turn])))
            .collect();
        let of_turns: Vec<&String> = chosen.iter().map(|&turn| &patients[turn]).collect();
        let share = Bootstrap::new(&of_turns, seed, "dialog")
            .measure(|at| mean(at.iter().map(|&turn| shares[turn])));
        table.row(
            name,
            [
                chosen.len().into(),
                count(right),
                share.into(),
                count(by_words),
                count(trivially),
            ],
        );
    };
    for name in TurnKind::NAMES {
        row(name, &|turn| turn.kind.name() == name);
    }
    row("all", &|_| true);
    table
}
