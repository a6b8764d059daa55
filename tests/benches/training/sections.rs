//! `prepare sections` on generated reports beside the original's way of it in Python: reading, cutting, writing. Both write
//! the same rows.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use radialog_tests::benchmark::{median, peer_python, processor_seconds, run};
use radialog_training::prepare::Sectioning;
use radialog_training::random::Random;

const REPORTS: usize = 200_000;
const ROUNDS: usize = 3;
/// Studies of a patient, and patients of a group.
const STUDIES: usize = 4;
const GROUPS: usize = 10;
const SENTENCES: [&str; 12] = [
    "The heart is normal in size.",
    "The cardiomediastinal silhouette is within normal limits.",
    "There is no focal consolidation, pleural effusion or pneumothorax.",
    "Mild pulmonary vascular congestion is present,",
    "with small bilateral pleural effusions, unchanged.",
    "A left-sided pacemaker has leads in the right atrium and ventricle.",
    "Lungs are clear.",
    "Low lung volumes accentuate the bronchovascular markings.",
    "Degenerative changes of the thoracic spine: moderate.",
    "Patchy opacity at the right base may represent atelectasis.",
    "The endotracheal tube ends 4 cm above the carina.",
    "No acute osseous abnormality.",
];
const HEADERS: [&str; 9] = [
    "EXAMINATION",
    "INDICATION",
    "TECHNIQUE",
    "COMPARISON",
    "FINDINGS",
    "IMPRESSION",
    "CHEST, TWO VIEWS",
    "REASON FOR EXAM",
    "CLINICAL HISTORY",
];

pub(crate) fn compare() -> Result<()> {
    let dir = tempfile::tempdir()?;
    generate(dir.path(), REPORTS)?;
    let python = peer_python("plain", &[])?;
    let (mut ours, mut theirs, mut used) = (Vec::new(), Vec::new(), 0.0);
    let path = |name: &str| dir.path().join(name);
    for _ in 0..ROUNDS {
        let (started, processor) = (Instant::now(), processor_seconds());
        let work = Sectioning {
            reports: path("reports"),
            images: path("images"),
            output: path("ours.csv"),
            name_study: false,
        };
        let summary = work.run(&|_, _| ())?;
        ensure!(
            summary.rows == REPORTS as u64 && summary.problems.is_empty(),
            "{} rows",
            summary.rows
        );
        ours.push(started.elapsed().as_secs_f64());
        used += (processor_seconds() - processor) / ROUNDS as f64;
        let started = Instant::now();
        let mut command = Command::new(&python);
        command.arg(super::peer("sections.py")).args([
            path("reports"),
            path("images"),
            path("theirs.csv"),
        ]);
        run(&mut command)?;
        theirs.push(started.elapsed().as_secs_f64());
    }
    ensure!(
        fs::read(path("ours.csv"))? == fs::read(path("theirs.csv"))?,
        "the rows differ"
    );
    let rate = |seconds: &[f64]| REPORTS as f64 / median(seconds);
    let (ours, theirs) = (rate(&ours), rate(&theirs));
    println!(
        "sections of {REPORTS} reports: radialog {ours:.0} per second ({:.0} per processor-second), Python {theirs:.0}; radialog \
         / Python {:.1}; the same bytes",
        REPORTS as f64 / used,
        ours / theirs
    );
    Ok(())
}

/// Reports below `reports/`, each with one image of no content below `images/`.
pub(crate) fn generate(dir: &Path, count: usize) -> Result<()> {
    let patients = count.div_ceil(STUDIES);
    for patient in 0..patients {
        let name = format!("p{}/p{}", 10 + patient % GROUPS, 10_000_000 + patient);
        let [reports, images] = ["reports", "images"].map(|tree| dir.join(tree).join(&name));
        fs::create_dir_all(&reports)?;
        for study in (patient * STUDIES..count).take(STUDIES) {
            let id = format!("s{}", 50_000_000 + study);
            fs::write(reports.join(format!("{id}.txt")), report(study))?;
            fs::create_dir_all(images.join(&id))?;
            fs::write(images.join(&id).join(format!("image-{study}.jpg")), "")?;
        }
    }
    Ok(())
}

/// About a thousand characters, every line with a blank in front, as in MIMIC-CXR.
fn report(index: usize) -> String {
    let mut random = Random::stream(1, &index.to_string());
    let mut text = " FINAL REPORT\n".to_owned();
    for _ in 0..3 + random.below(3) {
        // Some reports have no header, and some their text on the line below.
        if random.below(10) > 0 {
            let end = if random.below(2) == 0 { "  " } else { "\n" };
            text += &format!(" {}:{end}", random.pick(&HEADERS));
        }
        for _ in 0..1 + random.below(5) {
            text += &format!(" {}\n", random.pick(&SENTENCES));
        }
        text += " \n";
    }
    text
}
