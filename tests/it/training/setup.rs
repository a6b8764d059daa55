//! The alignment training's parameter groups and learning rates.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use radialog_tests::golden::Case;
use radialog_training::optimizer::schedule::Schedule;
use radialog_training::optimizer::{AdamW, decays};
use serde::Deserialize;

#[derive(Deserialize)]
struct Group {
    weight_decay: f64,
    names: Vec<String>,
}

#[derive(Deserialize)]
struct Rate {
    epoch: u64,
    step: u64,
    lr: f64,
}

/// Holds every parameter's decay and every recorded learning rate.
pub(super) fn check(case: &Case) -> Result<()> {
    let number = |pointer: &str| case.field::<f64>(pointer);
    let settings = AdamW::alignment();
    ensure!(
        settings.betas.to_vec() == case.field::<Vec<f64>>("/optimizer/betas")?,
        "betas"
    );
    ensure!(
        settings.eps == number("/optimizer/eps")?
            && settings.weight_decay == number("/run/weight_decay")?
    );
    let groups: Vec<Group> = case.field("/optimizer/groups")?;
    for group in &groups {
        for name in &group.names {
            // Names do not say how many dimensions a tensor has: of those here, vectors are biases and norms, and the
            // temperature is a scalar.
            let dims = if name.ends_with("LayerNorm.weight")
                || name.ends_with("ln_vision.weight")
                || name.ends_with("bias")
            {
                1
            } else {
                usize::from(name != "temp") * 2
            };
            let decay = if decays(name, dims) {
                settings.weight_decay
            } else {
                0.0
            };
            ensure!(
                decay == group.weight_decay,
                "'{name}' decays with {decay}, recorded {}",
                group.weight_decay
            );
        }
    }
    let decaying: BTreeSet<_> = groups
        .iter()
        .filter(|group| group.weight_decay > 0.0)
        .flat_map(|g| &g.names)
        .collect();
    ensure!(
        decaying.iter().any(|name| *name == "query_tokens"),
        "query tokens decay"
    );

    let schedule = Schedule::WarmupCosine {
        rate: number("/run/init_lr")?,
        start: number("/run/warmup_lr")?,
        least: number("/run/min_lr")?,
        warmup: case.field("/run/warmup_steps")?,
        epochs: case.field("/run/max_epoch")?,
    };
    let tolerance = number("/tolerance/lr_rtol")?;
    for Rate { epoch, step, lr } in case.field::<Vec<Rate>>("/learning_rates")? {
        let ours = schedule.rate(0, 0, epoch, step);
        ensure!(
            (ours - lr).abs() <= tolerance * lr,
            "epoch {epoch} step {step}: {ours}, recorded {lr}"
        );
    }
    Ok(())
}
