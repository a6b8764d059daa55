//! What a text says, by stems of words and the sentence that they stand in: rules for short, plain sentences. They are no labeler, and
//! know nothing of the wordings that data sets are composed from: what those inflate is printed beside what these find.

use radialog_schemas::Finding;

/// A sentence with one of these denies what it names.
const DENIALS: [&str; 11] = [
    "no",
    "not",
    "without",
    "free",
    "clear",
    "negative",
    "normal",
    "unremarkable",
    "intact",
    "within",
    "midline",
];
/// Words of sides, degrees, sizes and comparisons, which nothing that a report is made from tells.
const INVENTED: [&str; 34] = [
    "left",
    "right",
    "mild",
    "mildly",
    "moderate",
    "severe",
    "small",
    "tiny",
    "minimal",
    "slight",
    "cm",
    "mm",
    "prior",
    "previous",
    "previously",
    "interval",
    "unchanged",
    "stable",
    "again",
    "compared",
    "comparison",
    "improved",
    "worse",
    "worsened",
    "decreased",
    "new",
    "since",
    "lower",
    "upper",
    "xxxx",
    "today",
    "male",
    "female",
    "year",
];

fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric());
    words
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// Whether a sentence names a finding: each of the stems of a row begins some word.
fn names(sentence: &[String], finding: Finding) -> bool {
    let rows: &[&[&str]] = match finding {
        Finding::NoFinding => &[],
        Finding::EnlargedCardiomediastinum => &[
            &["mediast", "wide"],
            &["mediast", "widening"],
            &["mediast", "enlarge"],
            &["cardiomediast", "enlarge"],
        ],
        Finding::Cardiomegaly => &[
            &["cardiomegal"],
            &["heart", "enlarge"],
            &["heart", "large"],
            &["heart", "increase"],
            &["cardiac", "enlarge"],
            &["cardiac", "large"],
            &["heart", "bigger"],
        ],
        Finding::LungOpacity => &[&["opacit"], &["airspace", "disease"], &["infiltrate"]],
        Finding::LungLesion => &[&["nodul"], &["mass"], &["lesion"]],
        Finding::Edema => &[&["edema"], &["congestion"]],
        Finding::Consolidation => &[&["consolidat"]],
        Finding::Pneumonia => &[&["pneumonia"]],
        Finding::Atelectasis => &[&["atelecta"]],
        Finding::Pneumothorax => &[&["pneumothora"]],
        Finding::PleuralEffusion => &[&["effusion"], &["pleural", "fluid"]],
        Finding::PleuralOther => &[&["pleura", "thick"], &["pleura", "scar"]],
        Finding::Fracture => &[&["fractur"], &["broken"]],
        Finding::SupportDevices => &[&["device"], &["tube"], &["catheter"], &["pacemaker"]],
    };
    let has = |stem: &&str| sentence.iter().any(|word| word.starts_with(*stem));
    rows.iter().any(|row| row.iter().all(has))
}

/// The findings that a text states, in the published order; never "No Finding".
pub fn stated(text: &str) -> Vec<Finding> {
    let sentences: Vec<Vec<String>> = text
        .split_inclusive(['.', '!', '?'])
        .map(words)
        .filter(|words| !words.iter().any(|word| DENIALS.contains(&word.as_str())))
        .collect();
    let is_stated = |finding: &Finding| sentences.iter().any(|of| names(of, *finding));
    Finding::ALL.into_iter().filter(is_stated).collect()
}

/// Words of a text that say what nothing that a report is made from tells: sides, degrees, sizes, comparisons, and numbers.
pub fn invented(text: &str) -> Vec<String> {
    let is_invented = |word: &String| {
        INVENTED.contains(&word.as_str()) || word.chars().any(|c| c.is_ascii_digit())
    };
    words(text).into_iter().filter(is_invented).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_read_as_a_person_reads_them() {
        use Finding::{Cardiomegaly, Edema, EnlargedCardiomediastinum, PleuralEffusion};
        let text = "The heart is enlarged. There is no pneumothorax. There is pulmonary edema and a pleural effusion.";
        assert_eq!(stated(text), [Cardiomegaly, Edema, PleuralEffusion]);
        assert_eq!(
            stated("The mediastinum is widened."),
            [EnlargedCardiomediastinum]
        );
        assert_eq!(stated("Heart size is normal. The lungs are clear."), []);
        assert_eq!(invented("A 3 cm mass on the left."), ["3", "cm", "left"]);
    }
}
