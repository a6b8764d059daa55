//! Data preparation and training beside what the original Python programs recorded: sections, label masking, losses,
//! gradients, optimizer steps, schedules.
#![expect(
    clippy::print_stdout,
    reason = "the number of cases passed is this test's result"
)]

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use radialog_tests::golden::{self, Case, GOLDEN_VARIABLE};

mod alignment;
mod alignment_training;
mod chexbert_training;
mod data_sets;
mod examples;
mod findings;
mod findings_training;
mod fixture;
mod gate;
mod language;
mod language_training;
mod minimal_pairs;
mod nltk;
mod peft;
mod quality;
mod sections;
mod setup;
mod text_scores;
mod v2_language;

/// Checks all that a case records about training.
type Check = fn(&Case) -> Result<()>;

/// What to check, by the `case` field of a `case.json`. A golden folder that is named must have each of these.
const CHECKS: &[(&str, Check)] = &[
    ("section_parser", sections::check),
    ("tokenizers", examples::check),
    ("metrics", text_scores::check),
    ("alignment_training_setup", setup::check),
    ("qformer_alignment", alignment::check),
    ("llama_tiny_checkpoint_files", language::check),
];

/// The same of RaDialog v2's cases.
const V2_CHECKS: &[(&str, Check)] = &[("v2_real_vocab", examples::check_v2)];

#[test]
fn every_golden_training_case_is_reproduced() -> Result<()> {
    let mut passed = 0;
    let mut failures = Vec::new();
    let (roots, v2_roots) = (golden::roots()?, golden::v2_roots()?);
    let of_v1 = roots.iter().zip(std::iter::repeat(CHECKS)).enumerate();
    let of_v2 = v2_roots
        .iter()
        .zip(std::iter::repeat(V2_CHECKS))
        .enumerate();
    for (index, (root, checks)) in of_v1.chain(of_v2) {
        let cases = golden::cases(root)?;
        let is_whole_set = index > 0;
        for (kind, check) in checks {
            let mut found = cases
                .iter()
                .filter(|case| case.kind() == *kind && applies(case))
                .peekable();
            if is_whole_set && found.peek().is_none() {
                failures.push(format!("'{}' has no case of kind '{kind}'", root.display()));
            }
            for case in found {
                let started = Instant::now();
                let name = case
                    .dir()
                    .strip_prefix(root)
                    .unwrap_or(case.dir())
                    .display()
                    .to_string();
                match check(case).with_context(|| name.clone()) {
                    Ok(()) => {
                        passed += 1;
                        let (share, seconds) =
                            (case.worst() * 100.0, started.elapsed().as_secs_f64());
                        println!("training: {name}: {share:.0}% of the tolerance, {seconds:.1} s");
                    }
                    Err(error) => failures.push(format!("{error:#}")),
                }
            }
        }
    }
    if std::env::var_os(GOLDEN_VARIABLE).is_some() && roots.len() < 2 {
        failures.push(format!(
            "{GOLDEN_VARIABLE} is set and its folder was not read"
        ));
    }
    if !failures.is_empty() {
        bail!(
            "{} of {} checks fail:\n{}",
            failures.len(),
            failures.len() + passed,
            failures.join("\n")
        );
    }
    println!("training: {passed} cases passed");
    Ok(())
}

/// Copies of cases in the fixtures hold only what inference needs, where the rest is large.
fn applies(case: &Case) -> bool {
    let needs = match case.kind() {
        "qformer_alignment" => "grad_norms.json",
        "llama_tiny_checkpoint_files" => "train_batch.safetensors",
        "tokenizers" => "training_examples.json",
        _ => "case.json",
    };
    !is_fixture(case.dir()) || case.dir().join(needs).is_file()
}

fn is_fixture(dir: &Path) -> bool {
    dir.starts_with(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures"))
}
