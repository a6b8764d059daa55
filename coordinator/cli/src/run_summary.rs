//! What a run came to, for people.

use std::collections::BTreeMap;

use radialog_coordinator::run::output::{
    FailedStudy, NotCompared, PROBLEMS_FILE, RESULTS_FILE, SUMMARY_FILE, TABLE_FILE,
};
use radialog_coordinator::{RunPlan, RunSummary};
use radialog_schemas::{Finding, counted};

use crate::progress::duration;

/// The largest number of failed studies, and of the archive's problems, that are listed.
const LISTED: usize = 5;

pub(crate) fn print_summary(summary: &RunSummary, out: &str) {
    let session = &summary.session;
    outln!();
    outln!(
        "run {}: {}",
        summary.run,
        if summary.interrupted {
            "interrupted"
        } else {
            "complete"
        }
    );
    outln!("  done      {:>8}", summary.done);
    outln!(
        "  failed    {:>8}{}",
        summary.failed,
        by_code(&summary.failed_by_code)
    );
    if summary.warned > 0 {
        outln!(
            "  warned    {:>8}  (look at the images before the results: \"warnings\" in {RESULTS_FILE}){}",
            summary.warned,
            not_frontal(summary.not_frontal)
        );
    }
    outln!(
        "  reused    {:>8}  (every output was stored already)",
        summary.reused
    );
    if session.resumed > 0 {
        outln!(
            "  resumed   {:>8}  (written in earlier sessions)",
            session.resumed
        );
    }
    if session.changed > 0 {
        outln!(
            "  run again {:>8}  (another image or row, or one that is allowed now)",
            session.changed
        );
    }
    if summary.not_in_archive > 0 {
        outln!(
            "  left out  {:>8}  (lines of {RESULTS_FILE} whose studies the archive, or --limit, does not have any more)",
            summary.not_in_archive
        );
    }
    outln!(
        "  this session: {} in {}, {:.1} studies/s",
        counted(session.studies, "study", "studies"),
        duration(session.seconds),
        session.studies_per_second
    );
    outln!();
    outln!(
        "  {:<10} {:>8} {:>8} {:>8}   mean ms in queue, fetch, model, store",
        "stage",
        "done",
        "reused",
        "failed"
    );
    for (stage, sums) in &summary.stages {
        let runs = (sums.done + sums.reused + sums.failed).max(1) as f64;
        outln!(
            "  {:<10} {:>8} {:>8} {:>8}   {:>10.1} {:>8.1} {:>8.1} {:>8.1}",
            stage.name(),
            sums.done,
            sums.reused,
            sums.failed,
            sums.queue_ms / runs,
            sums.fetch_ms / runs,
            sums.model_ms / runs,
            sums.store_ms / runs
        );
    }
    if !summary.prevalence.is_empty() {
        outln!("\n  findings of the images (share of studies)");
        for finding in Finding::ALL {
            let Some(&share) = summary.prevalence.get(&finding) else {
                outln!("  {:<28} not assessed", finding.name());
                continue;
            };
            outln!(
                "  {:<28} {:>6.1} %  {}",
                finding.name(),
                100.0 * share,
                bar(share)
            );
        }
    }
    if let Some(rate) = summary.disagreement_rate {
        outln!(
            "\n  reports that disagree with the image's findings in at least one finding: {:.1} %",
            100.0 * rate
        );
    }
    print_failed_studies(summary);
    if summary.not_compared.studies > 0 {
        outln!();
    }
    for line in not_compared_lines(&summary.not_compared) {
        outln!("  {line}");
    }
    if summary.problem_count > 0 {
        outln!(
            "\n  {} of the archive could not be used:",
            counted(summary.problem_count, "entry", "entries")
        );
        for problem in summary.problems.iter().take(LISTED) {
            outln!("    {problem}");
        }
        if summary.problem_count > LISTED as u64 {
            outln!("    … all in {PROBLEMS_FILE}");
        }
        if summary.unread_count > 0 {
            outln!(
                "  {} of them could not be read, or have the id of another study, so that studies may be missing: mend them, and \
                 run the same command again.",
                summary.unread_count
            );
        }
    }
    let out = out.trim_end_matches('/');
    outln!("\n  results: {out}/{RESULTS_FILE}");
    outln!("           {out}/{TABLE_FILE}");
    outln!("           {out}/{SUMMARY_FILE}");
    if summary.interrupted {
        outln!("\n  Run the same command again to resume.");
    }
    outln!("\n  Research software, not a medical device.");
}

fn print_failed_studies(summary: &RunSummary) {
    if summary.failed == 0 {
        return;
    }
    outln!(
        "\n  {} failed:",
        counted(summary.failed, "study", "studies")
    );
    for FailedStudy { study, error } in summary.failed_studies.iter().take(LISTED) {
        match error {
            Some(error) => outln!("    {study}: {}: {}", error.code, error.message),
            None => outln!("    {study}"),
        }
    }
    if summary.failed > LISTED as u64 {
        outln!("    … more in {RESULTS_FILE}, with \"status\": \"failed\"");
    }
    outln!("  Mend what they name, and run the same command with --retry-failed.");
}

/// Says which studies of earlier sessions could not be compared with the archive, and what to do; nothing where all could.
pub(crate) fn not_compared_lines(not_compared: &NotCompared) -> Vec<String> {
    if not_compared.studies == 0 {
        return Vec::new();
    }
    let mut lines = vec![format!(
        "{} could not be compared{}:",
        counted(not_compared.studies, "study", "studies"),
        by_code(&not_compared.by_code)
    )];
    for FailedStudy { study, error } in not_compared.named.iter().take(LISTED) {
        let reason = error.as_ref().map(|error| format!(": {}", error.message));
        lines.push(format!("  {study}{}", reason.unwrap_or_default()));
    }
    if not_compared.studies > LISTED as u64 {
        lines.push(format!("  … more in {SUMMARY_FILE}"));
    }
    lines.push(
        "What was done for them stays. Mend what is named (a disk that is not mounted, an option that was forgotten), and run the \
         same command again."
            .to_owned(),
    );
    lines
}

pub(crate) fn print_plan(plan: &RunPlan) {
    outln!(
        "{}, of which {} complete in {RESULTS_FILE}",
        counted(plan.studies, "study", "studies"),
        counted(plan.written, "is", "are")
    );
    outln!("  {:<10} {:>10} {:>10}", "stage", "stored", "remaining");
    for stage in &plan.stages {
        outln!(
            "  {:<10} {:>10} {:>10}",
            stage.stage.name(),
            stage.stored,
            stage.remaining
        );
    }
    print_not_comparable(plan);
    if plan.unreadable > 0 {
        outln!(
            "{} cannot be read and will fail",
            counted(plan.unreadable, "image", "images")
        );
    }
    print_problems(plan);
    outln!("Nothing was computed: leave out --dry-run to run.");
}

/// Says how many entries of the archive are no studies, and how many of these may hide some.
pub(crate) fn print_problems(plan: &RunPlan) {
    if plan.problems > 0 {
        outln!(
            "{} of the archive cannot be used",
            counted(plan.problems, "entry", "entries")
        );
    }
    if plan.unread > 0 {
        outln!(
            "{} of them cannot be read, or have the id of another study, so that studies may be missing",
            plan.unread
        );
    }
}

/// Says of how many complete studies nobody knows whether the archive has others now.
pub(crate) fn print_not_comparable(plan: &RunPlan) {
    let not_compared: u64 = plan.not_compared.values().sum();
    if not_compared > 0 {
        outln!(
            "{} cannot be compared with the archive{}; what is done stays",
            counted(not_compared, "complete study", "complete studies"),
            by_code(&plan.not_compared)
        );
    }
}

fn by_code(counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let codes: Vec<String> = counts
        .iter()
        .map(|(code, count)| format!("{code} {count}"))
        .collect();
    format!("  ({})", codes.join(", "))
}

fn not_frontal(studies: u64) -> String {
    match studies {
        0 => String::new(),
        1 => "\n             1 image does not look like a frontal chest X-ray".to_owned(),
        _ => format!("\n      {studies:>8} images do not look like frontal chest X-rays"),
    }
}

fn bar(share: f64) -> String {
    "#".repeat((share * 30.0).round() as usize)
}
