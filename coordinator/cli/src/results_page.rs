//! `results.html`: all studies of a run on one page that needs nothing else, for people who look before they read.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use radialog_coordinator::RunSummary;
use radialog_coordinator::archive::{Archive, ImageSource};
use radialog_coordinator::run::output::OrderedRecords;
use radialog_files::durable::{Readers, Replacement};
use radialog_runtime::objects::Objects;
use radialog_schemas::{ContentHash, Finding, GateVerdict, ObjectKey, StudyRecord, StudyStatus};
use radialog_training::evaluation::report_files::{escaped, thumbnail};
use tracing::warn;

use crate::print::over_threshold;

/// The page's name in the folder of the results.
pub(crate) const PAGE_FILE: &str = "results.html";
/// The shorter side of a picture, in pixels.
const SIDE: usize = 160;

const STYLE: &str = include_str!("results_page/style.css");
const SCRIPT: &str = include_str!("results_page/filter.js");

/// Writes the page, in the order of the archive; `limit` is that of the run, in studies, `image_limit` that of an image, in
/// bytes. One study is in memory at a time. Returns how many pictures are missing: neither the store nor the archive has the
/// image of their study.
///
/// # Errors
/// The results cannot be read, or the page not be written.
pub(crate) async fn write(
    folder: &Path,
    archive: &dyn Archive,
    limit: Option<u64>,
    image_limit: u64,
    objects: &dyn Objects,
    summary: &RunSummary,
) -> anyhow::Result<u64> {
    let path = folder.join(PAGE_FILE);
    let shown = path.display().to_string();
    let failed = || format!("cannot write '{shown}'");
    // It has the images themselves.
    let mut page = Replacement::create_for(Readers::Owner, &path).with_context(failed)?;
    head(&mut page, summary).with_context(failed)?;
    let mut records = OrderedRecords::open(archive, folder).await?.limited(limit);
    // What is counted is shown: where a part that may have them was not read, lines of studies that the archive has not named, too.
    if summary.not_in_archive == 0 {
        records = records.with_unnamed();
    }
    let mut missing = 0;
    while let Some(record) = records.next().await? {
        let key = record.input.as_ref();
        let picture = match key.filter(|key| ObjectKey::is_stored_image(key.as_str())) {
            None => Err("the image was not read".to_owned()),
            Some(key) => {
                let source = records.image().cloned();
                match image(key, &record.file, source, image_limit, objects).await {
                    Ok(content) => drawn(content).await,
                    Err(reason) => {
                        missing += 1;
                        Err(reason)
                    }
                }
            }
        };
        let section = study(&record, picture);
        page.write_all(section.as_bytes()).with_context(failed)?;
    }
    let end = format!(
        "</main>\n<p id=\"none\" hidden>No study is like that.</p>\n<footer>Research software, not a medical \
         device.</footer>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    );
    page.write_all(end.as_bytes()).with_context(failed)?;
    page.commit().with_context(failed)?;
    Ok(missing)
}

/// The image of a study, or why there is none. Where the store's copy is lost or damaged, it is the archive's; a damaged copy is
/// mended, and a lost one is not stored again: a finished run's store may be deleted.
async fn image(
    key: &ObjectKey,
    file: &str,
    source: Option<ImageSource>,
    limit: u64,
    objects: &dyn Objects,
) -> Result<Bytes, String> {
    let (reason, is_damaged) = match objects.get(key).await {
        Ok(content) => match is_content_of(key, &content).await {
            true => return Ok(content),
            false => (format!("{key} is damaged in the store"), true),
        },
        Err(error) => (error.to_string(), false),
    };
    let Some(source) = source else {
        return Err(reason);
    };
    let content = match source.read(file, limit).await {
        Ok(content) => content,
        Err(error) => return Err(format!("{reason}, and in the archive: {error}")),
    };
    if !is_content_of(key, &content).await {
        return Err(format!("{reason}, and the archive has another image now"));
    }
    if is_damaged && let Err(error) = objects.ensure(key, &content).await {
        warn!(%error, "an image that the store has damaged is not stored again");
    }
    Ok(content)
}

async fn is_content_of(key: &ObjectKey, content: &Bytes) -> bool {
    let content = content.clone();
    let hashing = tokio::task::spawn_blocking(move || ContentHash::of(&content));
    hashing
        .await
        .is_ok_and(|hash| ObjectKey::image(&hash) == *key)
}

/// The image as the models see it, small, or why it cannot be drawn.
async fn drawn(image: Bytes) -> Result<String, String> {
    let drawn = tokio::task::spawn_blocking(move || thumbnail(&image, SIDE)).await;
    let png = drawn.map_err(|panic| panic.to_string())??;
    Ok(STANDARD.encode(png))
}

fn head(page: &mut impl Write, summary: &RunSummary) -> io::Result<()> {
    let input = escaped(&summary.input);
    let options: String = Finding::ALL
        .map(|finding| format!("<option>{}</option>", escaped(finding.name())))
        .concat();
    let warned = match summary.warned {
        0 => String::new(),
        warned => format!(" {warned} with warnings about the image."),
    };
    let interrupted = match summary.interrupted {
        true => " The run was interrupted: the page has what was done until then.",
        false => "",
    };
    write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>Results of {input}</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<h1>Results of {input}</h1>\n<p>Run {}, bundle {}: {} done, {} failed; {} entries of the archive are no \
         study.{warned}{interrupted}</p>\n<form id=\"filters\"><label>Search <input id=\"words\" type=\"search\"></label> \
         <label>Finding <select id=\"finding\"><option value=\"\">any</option>{options}</select></label> \
         <label>Show <select id=\"kind\"><option value=\"\">all</option><option value=\"disagrees\">classifier and report \
         disagree</option><option value=\"failed\">failed</option><option value=\"warned\">with warnings</option></select></label> \
         <output id=\"count\"></output></form>\n<main>\n",
        escaped(&summary.run.to_string()),
        escaped(summary.bundle.short()),
        summary.done,
        summary.failed,
        summary.problem_count,
    )
}

/// A study as a section of the page.
fn study(record: &StudyRecord, picture: Result<String, String>) -> String {
    let findings = record.findings.as_deref().unwrap_or_default();
    let present = findings.iter();
    let present = present.filter(|predicted| predicted.is_shown(findings));
    let present: Vec<&str> = present.map(|predicted| predicted.finding.name()).collect();
    let gate = record.input_gate.as_ref();
    let is_no_xray = gate.is_some_and(GateVerdict::is_no_xray);
    let disputed = record.disagreement.as_deref().unwrap_or_default();
    let mut kinds = Vec::new();
    kinds.extend((!disputed.is_empty()).then_some("disagrees"));
    kinds.extend((record.status == StudyStatus::Failed).then_some("failed"));
    kinds.extend((!record.warnings.is_empty()).then_some("warned"));
    let mut text = format!(
        "<article data-findings=\"{}\" data-kinds=\"{}\">\n",
        escaped(&present.join("|")),
        kinds.join(" ")
    );
    text += &match picture {
        Ok(png) => {
            format!("<img alt=\"X-ray\" loading=\"lazy\" src=\"data:image/png;base64,{png}\">\n")
        }
        Err(reason) => format!("<p class=\"none\">No picture: {}</p>\n", escaped(&reason)),
    };
    text += &format!("<div><h2>{}</h2>\n", escaped(record.study.as_str()));
    if record.file != record.study.as_str() {
        text += &format!("<p class=\"file\">{}</p>\n", escaped(&record.file));
    }
    if let Some(error) = &record.error {
        text += &format!(
            "<p class=\"failed\">Failed: {}</p>\n",
            escaped(&error.to_string())
        );
    }
    for warning in &record.warnings {
        text += &format!("<p class=\"warning\">Warning: {}</p>\n", escaped(warning));
    }
    if is_no_xray {
        let what = match &record.report {
            Some(_) => "Findings and report",
            None => "Findings",
        };
        text += &format!("<details><summary>{what} (it looks like no chest X-ray)</summary>\n");
    }
    if !findings.is_empty() {
        text += "<ul>\n";
        for predicted in findings {
            let name = escaped(predicted.finding.name());
            text += &match predicted.probability {
                None => format!("<li class=\"unknown\">{name} <b>not assessed</b></li>\n"),
                Some(probability) => {
                    let (class, over) = match predicted.is_shown(findings) {
                        true => (" class=\"present\"", over_threshold(predicted)),
                        false => ("", String::new()),
                    };
                    format!(
                        "<li{class}>{name} <b>{:.0} %{over}</b></li>\n",
                        100.0 * probability
                    )
                }
            };
        }
        text += "</ul>\n";
    }
    if let Some(report) = &record.report {
        text += &format!("<p class=\"report\">{}</p>\n", escaped(report.trim()));
    }
    if !disputed.is_empty() {
        let names: Vec<&str> = disputed.iter().map(|finding| finding.name()).collect();
        text += &format!(
            "<p class=\"disagrees\">Classifier and report disagree: {}</p>\n",
            escaped(&names.join(", "))
        );
    }
    if is_no_xray {
        text += "</details>\n";
    }
    text += "</div>\n</article>\n";
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_study_says_is_text_and_never_markup() {
        let record = serde_json::from_value(serde_json::json!({
            "study_id": "<script>alert(1)</script>", "file": "a\"b.png", "status": "done",
            "findings": [
                {"finding": "Edema", "probability": 0.912, "present": true},
                {"finding": "Fracture", "probability": null, "present": false},
                {"finding": "Lung Lesion", "probability": 0.23, "present": true, "threshold": 0.16},
                {"finding": "No Finding", "probability": 0.7, "present": true},
            ],
            "report": " Edema & <b>more</b>.", "disagreement": ["Edema"],
            "warnings": ["the file lacks its end marker"],
            "bundle": "0".repeat(64), "timings": {},
        }));
        let record: StudyRecord = record.unwrap();
        let text = study(&record, Err("gone".into()));
        assert!(
            !text.contains("<script>") && !text.contains("<b>more"),
            "{text}"
        );
        for part in [
            "data-findings=\"Edema|Lung Lesion\" data-kinds=\"disagrees warned\"",
            "<li class=\"present\">Lung Lesion <b>23 % (over 16 %)</b></li>",
            "<li>No Finding <b>70 %</b></li>",
            "<li class=\"present\">Edema <b>91 %</b></li>",
            "Fracture <b>not assessed</b>",
            "Edema &amp; &lt;b&gt;more",
            "disagree: Edema",
            "No picture: gone",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn what_is_said_of_no_xray_is_folded_below_its_warning_and_found_by_every_filter() {
        let of_kind = |kind: &str| {
            let record = serde_json::from_value(serde_json::json!({
                "study_id": "a", "file": "a.png", "status": "done", "warnings": ["look at it"],
                "input_gate": {"passed": false, "looks_like": kind, "frontal": 0.1},
                "findings": [{"finding": "Pneumonia", "probability": 0.97, "present": true}],
                "report": "Clear.", "disagreement": ["Pneumonia"],
                "bundle": "0".repeat(64), "timings": {},
            }));
            let record: StudyRecord = record.unwrap();
            study(&record, Err("gone".into()))
        };
        let other = of_kind("other");
        assert!(
            other.contains("data-findings=\"Pneumonia\" data-kinds=\"disagrees warned\""),
            "{other}"
        );
        let place = |part: &str| other.find(part).unwrap();
        let fold = "<details><summary>Findings and report (it looks like no chest X-ray)<";
        let places = ["look at it", fold, "97 %", "Clear.", "</details>"].map(place);
        assert!(places.is_sorted(), "{other}");
        let lateral = of_kind("lateral");
        assert!(lateral.contains("data-findings=\"Pneumonia\"") && !lateral.contains("<details>"));
    }
}
