//! How far texts about the same image agree in their words, without a model: where sampled reports differ, the report is less
//! sure than it reads. Agreement is the harmonic mean of precision and recall of the longest common subsequence of words
//! (ROUGE-L with equal weights; Lin, 2004), in lower case and without punctuation.

use radialog_schemas::{Consistency, SentenceAgreement};

/// Says how far a report agrees with samples of the same study. Without a sample, everything agrees.
pub fn consistency(report: &str, samples: Vec<String>) -> Consistency {
    let sampled: Vec<Vec<Vec<String>>> = samples
        .iter()
        .map(|sample| sentences(sample).map(words).collect())
        .collect();
    let whole = words(report);
    let agreement = mean(sampled.iter().map(|sample| alike(&whole, &sample.concat())));
    let sentences = sentences(report)
        .map(|text| {
            let own = words(text);
            let most_alike = |sample: &Vec<Vec<String>>| {
                let each = sample.iter().map(|sentence| alike(&own, sentence));
                each.fold(0.0, f64::max)
            };
            SentenceAgreement {
                text: text.to_owned(),
                agreement: mean(sampled.iter().map(most_alike)),
            }
        })
        .collect();
    Consistency {
        agreement,
        sentences,
        samples,
    }
}

/// The sentences of a text, without white space around them: each ends with `.`, `!` or `?` before white space. [`crate::sentences`]
/// is the trained model of the original's scores; records that were made with this rule would change with it.
fn sentences(text: &str) -> impl Iterator<Item = &str> {
    let ends = |pair: &(usize, char)| matches!(pair.1, '.' | '!' | '?');
    let mut rest = text.trim();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest
            .char_indices()
            .filter(ends)
            .map(|(at, end)| at + end.len_utf8())
            .find(|&at| rest[at..].chars().next().is_none_or(char::is_whitespace))
            .unwrap_or(rest.len());
        let (sentence, more) = rest.split_at(end);
        rest = more.trim_start();
        Some(sentence)
    })
}

/// Words in lower case: runs of letters and digits.
fn words(text: &str) -> Vec<String> {
    text.split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// Agreement of two texts, 0 to 1. Two texts without words agree.
fn alike(one: &[String], other: &[String]) -> f64 {
    if one.is_empty() && other.is_empty() {
        return 1.0;
    }
    2.0 * longest_common(one, other) as f64 / (one.len() + other.len()) as f64
}

/// Length of the longest common subsequence, in as many steps as both lengths multiplied.
pub fn longest_common<T: PartialEq>(one: &[T], other: &[T]) -> usize {
    let mut row = vec![0; other.len() + 1];
    for word in one {
        let mut diagonal = 0;
        for (at, candidate) in other.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = match word == candidate {
                true => diagonal + 1,
                false => above.max(row[at]),
            };
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or(0)
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    match values.len() {
        0 => 1.0,
        count => values.sum::<f64>() / count as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_that_no_sample_says_is_the_one_that_disagrees() {
        let samples = ["The heart is normal. No edema.", "the heart is normal."];
        let of = consistency(
            "The heart is normal. There is a fracture.",
            samples.map(str::to_owned).to_vec(),
        );
        let [heart, fracture] = &of.sentences[..] else {
            panic!("{of:?}")
        };
        assert_eq!(
            (heart.text.as_str(), heart.agreement),
            ("The heart is normal.", 1.0)
        );
        // "is" is all that it shares: 2 * 1 / (4 + 4).
        assert!((fracture.agreement - 0.25).abs() < 1e-12, "{fracture:?}");
        // 8 words beside 6 and 4, four in common with each: (8 / 14 + 8 / 12) / 2.
        let expected = (8.0 / 14.0 + 8.0 / 12.0) / 2.0;
        assert!((of.agreement - expected).abs() < 1e-12, "{of:?}");
        assert_eq!(of.samples, samples);
    }

    #[test]
    fn equal_texts_agree_and_empty_ones_only_with_each_other() {
        let of =
            |report: &str, sample: &str| consistency(report, vec![sample.to_owned()]).agreement;
        assert_eq!(of("Clear lungs.", "clear  lungs"), 1.0);
        assert_eq!(of("", ""), 1.0);
        assert_eq!(of("", "Clear."), 0.0);
        assert!(consistency("", vec!["Clear.".into()]).sentences.is_empty());
    }

    #[test]
    fn sentences_end_before_white_space_only() {
        let split: Vec<&str> = sentences(" A 2.5 cm mass. Is it new?\nYes").collect();
        assert_eq!(split, ["A 2.5 cm mass.", "Is it new?", "Yes"]);
    }
}
