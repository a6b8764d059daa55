//! The best and the worst studies, with image, reference and generated text side by side.

use std::cmp::Ordering;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use radialog_schemas::Finding;

use super::comparisons::marked;
use super::{EvaluatedReports, escaped};
use crate::error::TrainingError;
use crate::evaluation::corpus::Span;
use crate::evaluation::report_scores::StudyScores;
use crate::evaluation::stored_rows::temporary;
use crate::evaluation::text_scores::protocol::TextProtocol;

/// So many studies of each kind.
const SHOWN: usize = 5;

pub(super) fn write(
    page: &mut String,
    evaluated: &EvaluatedReports<'_>,
) -> Result<(), TrainingError> {
    let protocol = evaluated.options.protocol();
    let (mut ranked, mut best, mut worst) = (0, Vec::new(), Vec::new());
    for (place, study) in evaluated.scores.studies.iter().enumerate() {
        let study = study.map_err(temporary)?;
        let Some(merit) = merit(&study, protocol) else {
            continue;
        };
        ranked += 1;
        keep(&mut best, (merit, place), better);
        keep(&mut worst, (merit, place), |a, b| better(b, a));
    }
    if best.is_empty() {
        return Ok(());
    }
    // None is of both.
    worst.truncate(ranked - best.len());
    let wording = if protocol.is_caption_toolkit() {
        "ROUGE-L"
    } else {
        "BLEU-2"
    };
    let _ = write!(
        page,
        "<h2>Best and worst studies</h2>\n<p class=\"muted\">By the mean of {wording} and the F1 of the report's labels, as far as both are \
         there; higher is better. Marked: sentences of the report that compare with an earlier image, and their words that do.</p>\n<h3>The best</h3>\n"
    );
    for (merit, place) in &best {
        study(page, evaluated, *place, *merit)?;
    }
    if !worst.is_empty() {
        *page += "<h3>The worst</h3>\n";
        for (merit, place) in &worst {
            study(page, evaluated, *place, *merit)?;
        }
    }
    Ok(())
}

/// A study's merit and place.
type Ranked = (f64, usize);

/// The better one first, then the earlier one.
fn better(a: &Ranked, b: &Ranked) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Keeps the first ones in this order, as many as are shown.
fn keep(kept: &mut Vec<Ranked>, new: Ranked, order: impl Fn(&Ranked, &Ranked) -> Ordering) {
    let place = kept.partition_point(|other| order(other, &new).is_lt());
    if place < SHOWN {
        kept.insert(place, new);
        kept.truncate(SHOWN);
    }
}

/// What a study is ranked by; none where nothing of its report was scored.
fn merit(study: &StudyScores, protocol: TextProtocol) -> Option<f64> {
    let wording = study.wording(protocol).into_iter();
    let parts: Vec<f64> = wording.chain(study.label_f1()).collect();
    (!parts.is_empty()).then(|| parts.iter().sum::<f64>() / parts.len() as f64)
}

fn study(
    page: &mut String,
    evaluated: &EvaluatedReports<'_>,
    place: usize,
    merit: f64,
) -> Result<(), TrainingError> {
    let study = evaluated.corpus.studies.get(place).map_err(temporary)?;
    let scores = evaluated.scores.studies.get(place).map_err(temporary)?;
    let read = |span: Option<Span>| -> Result<Option<String>, TrainingError> {
        let text = span.map(|span| evaluated.texts.read(span)).transpose();
        text.map_err(temporary)
    };
    let image = evaluated.images.map(|images| images.png(&study.image));
    let class = if image.is_some() {
        "study"
    } else {
        "study no-image"
    };
    let _ = write!(
        page,
        "<h4>{} <span class=\"muted\">{merit:.3}</span></h4>\n<div class=\"{class}\">\n",
        escaped(&study.id)
    );
    match image {
        Some(Ok(png)) => {
            let _ = writeln!(
                page,
                "<div><img alt=\"Radiograph of {}\" src=\"data:image/png;base64,{}\"></div>",
                escaped(&study.id),
                STANDARD.encode(png)
            );
        }
        Some(Err(reason)) => {
            let _ = writeln!(
                page,
                "<div class=\"muted\">No image: {}</div>",
                escaped(&reason)
            );
        }
        None => {}
    }
    for (title, text, missing) in [
        (
            "Reference",
            read(study.reference)?,
            "No text: it is compared with labels.",
        ),
        ("Generated", read(study.prediction)?, "No report."),
    ] {
        let shown = match text.as_deref().map(str::trim) {
            None => format!("<span class=\"muted\">{missing}</span>"),
            Some("") => "<span class=\"muted\">(empty)</span>".to_owned(),
            Some(text) if title == "Generated" => marked(text),
            Some(text) => escaped(text),
        };
        let _ = writeln!(page, "<div><h5>{title}</h5><p>{shown}</p></div>");
    }
    labels(page, &scores);
    *page += "</div>\n";
    Ok(())
}

fn labels(page: &mut String, scores: &StudyScores) {
    let Some((truth, said)) = &scores.report else {
        return;
    };
    let named = |title: &str, class: &str, holds: &dyn Fn(usize) -> bool| {
        let names: Vec<&str> = Finding::ALL
            .into_iter()
            .filter(|finding| holds(*finding as usize))
            .map(Finding::name)
            .collect();
        match names.is_empty() {
            true => format!("<span class=\"muted\">{title}: none</span>"),
            false => format!(
                "<span class=\"{class}\">{title}: {}</span>",
                names.join(", ")
            ),
        }
    };
    let _ = writeln!(
        page,
        "<div class=\"labels\">{} · {} · {}</div>",
        named("right", "good", &|at| truth[at] == Some(true) && said[at]),
        named("wrong", "bad", &|at| truth[at] == Some(false) && said[at]),
        named("missed", "bad", &|at| truth[at] == Some(true) && !said[at])
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_and_the_worst_are_those_of_all_in_order() {
        let all: Vec<Ranked> = (0..40)
            .map(|place| (f64::from(place * 7 % 10), place as usize))
            .collect();
        let (mut best, mut worst) = (Vec::new(), Vec::new());
        for study in &all {
            keep(&mut best, *study, better);
            keep(&mut worst, *study, |a, b| better(b, a));
        }
        let mut sorted = all;
        sorted.sort_by(better);
        assert_eq!(best, sorted[..SHOWN]);
        sorted.reverse();
        assert_eq!(worst, sorted[..SHOWN]);
    }
}
