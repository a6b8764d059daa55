//! Generated reports beside references, for benchmarks and tests of text scores: sentences of the recorded reports in new orders,
//! with words left out, exchanged and taken from elsewhere, as generators err.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::draw::Draw;
use crate::{fixtures, golden};

/// Makes so many pairs of a generated report and a reference; the same for the same seed.
///
/// # Errors
/// The recorded reports cannot be read.
pub fn report_pairs(count: usize, seed: u64) -> Result<Vec<(String, String)>> {
    let recorded: Value = golden::read_json(&fixtures::golden().join("08_metrics/text_ptb.json"))?;
    let mut sentences = Vec::new();
    for pair in recorded["pairs"].as_array().into_iter().flatten() {
        for side in ["hypothesis", "reference"] {
            let text = pair[side].as_str().unwrap_or_default().replace('\n', " ");
            sentences.extend(text.split_inclusive(". ").map(|s| s.trim().to_owned()));
        }
    }
    sentences.retain(|sentence| sentence.len() > 10);
    sentences.sort();
    sentences.dedup();
    ensure!(sentences.len() > 20, "{} sentences", sentences.len());
    let words: Vec<&str> = sentences
        .iter()
        .flat_map(|s| s.split_whitespace())
        .collect();
    let mut draw = Draw::new(seed);
    let pair = |_| {
        let drawn = |draw: &mut Draw| sentences[draw.below(sentences.len())].as_str();
        let reference: Vec<&str> = (0..3 + draw.below(7)).map(|_| drawn(&mut draw)).collect();
        let mut hypothesis: Vec<&str> = reference.clone();
        hypothesis.retain(|_| draw.below(5) < 3);
        for _ in 0..draw.below(5) {
            let place = draw.below(hypothesis.len() + 1);
            hypothesis.insert(place, drawn(&mut draw));
        }
        let hypothesis = hypothesis.join(" ");
        let mut changed: Vec<&str> = Vec::new();
        for word in hypothesis.split_whitespace() {
            match draw.below(20) {
                0 => {}
                1 => changed.push(words[draw.below(words.len())]),
                _ => changed.push(word),
            }
        }
        for _ in 0..3 {
            if changed.len() > 1 {
                let place = draw.below(changed.len() - 1);
                changed.swap(place, place + 1);
            }
        }
        (changed.join(" "), reference.join(" "))
    };
    Ok((0..count).map(pair).collect())
}
