//! BLEU and ROUGE-L beside the caption toolkit's, on texts that its tokenizers have split, and our own words beside them.

use anyhow::{Result, ensure};
use radialog_tests::golden::Case;
use radialog_training::evaluation::text_scores::{BleuCounts, rouge_l};
use radialog_training::evaluation::words::words;
use serde_json::Value;

/// Texts split by the toolkit's Java tokenizer, and by NLTK as in the original.
const RECORDED: [&str; 2] = ["text_ptb.json", "text_nltk.json"];

pub(crate) fn check(case: &Case) -> Result<()> {
    let tolerance: f64 = case.field("/tolerance/text")?;
    for file in RECORDED {
        let recorded: Value = case.json(file)?;
        let texts = |name: &str| -> Result<Vec<String>> {
            Ok(serde_json::from_value(recorded[name].clone())?)
        };
        let (hypotheses, references) = (
            texts("tokenized_hypothesis")?,
            texts("tokenized_reference")?,
        );
        let close = |name: &str, which: &Value, value: f64| {
            let expected = which.as_f64().unwrap_or(f64::NAN);
            ensure!(
                (value - expected).abs() < tolerance,
                "{file} {name}: {value} instead of {expected}"
            );
            Ok(())
        };
        let mut all = BleuCounts::default();
        let mut rouge = 0.0;
        for (index, (hypothesis, reference)) in hypotheses.iter().zip(&references).enumerate() {
            let parts = |text: &'static str, at: &str| recorded["scores"][text][at][index].clone();
            let split = |text: &str| {
                text.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            let counts = BleuCounts::of(&split(hypothesis), &split(reference));
            for (name, score) in ["bleu1", "bleu2", "bleu3", "bleu4"]
                .into_iter()
                .zip(counts.scores())
            {
                close(
                    &format!("{name} of text {index}"),
                    &parts(name, "per_sample"),
                    score,
                )?;
            }
            all.add(&counts);
            // An empty text is one empty word here.
            let split = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
            let score = rouge_l(&split(hypothesis), &split(reference));
            close(
                &format!("ROUGE-L of text {index}"),
                &parts("rouge_l", "per_sample"),
                score,
            )?;
            rouge += score / hypotheses.len() as f64;
        }
        for (name, score) in ["bleu1", "bleu2", "bleu3", "bleu4"]
            .into_iter()
            .zip(all.scores())
        {
            close(name, &recorded["scores"][name]["corpus"], score)?;
        }
        close("ROUGE-L", &recorded["scores"]["rouge_l"]["corpus"], rouge)?;
    }
    our_words_score_the_same(case, tolerance)
}

/// The same texts split by us score as those that NLTK has split.
fn our_words_score_the_same(case: &Case, tolerance: f64) -> Result<()> {
    let (raw, recorded): (Value, Value) =
        (case.json("text_ptb.json")?, case.json("text_nltk.json")?);
    let mut all = BleuCounts::default();
    let (mut rouge, mut count) = (0.0, 0.0);
    for pair in raw["pairs"].as_array().into_iter().flatten() {
        let of = |name: &str| {
            let text = pair[name].as_str().unwrap_or_default();
            // The original deletes these before it splits, so that words around a newline become one.
            words(
                &["\n", "<s>", "</s>"]
                    .iter()
                    .fold(text.to_owned(), |text, mark| text.replace(mark, "")),
            )
        };
        let (hypothesis, reference) = (of("hypothesis"), of("reference"));
        all.add(&BleuCounts::of(&hypothesis, &reference));
        rouge += rouge_l(&hypothesis, &reference);
        count += 1.0;
    }
    let [bleu_1, bleu_2, bleu_3, bleu_4] = all.scores();
    let scores = [
        ("Bleu_1", bleu_1),
        ("Bleu_2", bleu_2),
        ("Bleu_3", bleu_3),
        ("Bleu_4", bleu_4),
        ("ROUGE_L", rouge / count),
    ];
    for (name, score) in scores {
        let expected = recorded["final_scores"][name].as_f64().unwrap_or(f64::NAN);
        ensure!(
            (score - expected).abs() < tolerance,
            "{name} of our words: {score} instead of {expected}"
        );
    }
    Ok(())
}
