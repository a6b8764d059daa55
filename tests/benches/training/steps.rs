//! Optimizer steps of each training and of its peer, one of each by turns. Both start from the same weights and inputs, and
//! their losses are compared first, so that what is timed is the same computation.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use radialog_tests::benchmark::rows::{self, Figures, Row};
use radialog_tests::benchmark::{median, peak_memory, peer_python, processor_seconds};
use radialog_training::optimizer::{Gradients, Optimizer};

use super::tasks::{Size, Task, tasks};

/// The peer.
const TORCH: &str = "torch==2.5.1";
/// The largest difference between the losses of both sides.
const TOLERANCE: f64 = 1e-3;

/// The peer at work: it takes a step for each line.
struct Peer {
    process: Child,
    steps: ChildStdin,
    answers: BufReader<ChildStdout>,
}

pub(crate) fn compare(size: Size, rounds: usize) -> Result<()> {
    let python = peer_python("torch", &[TORCH, "numpy"])?;
    println!("steps, {size:?}: medians of {rounds}, by turns; seconds (processor's seconds, mean)");
    for task in tasks(size)? {
        compare_task(&task?, &python, rounds)?;
    }
    if size == Size::Published {
        println!(
            "language at the published geometry (7B, f32 gradients of activations) does not fit 24 GiB"
        );
    }
    Ok(())
}

/// The most memory of a process that trains the findings classifier at published geometry.
pub(crate) fn peak() -> Result<()> {
    let task = tasks(Size::Published)?.next().context("no training")??;
    let mut optimizer = Optimizer::new(task.adam, task.variables.clone());
    for _ in 0..2 {
        step(&task, &mut optimizer)?;
    }
    println!(
        "peak memory of {}: {:.2} GiB",
        task.name,
        peak_memory() as f64 / f64::from(1 << 30)
    );
    Ok(())
}

fn step(task: &Task, optimizer: &mut Optimizer) -> Result<()> {
    let mut gradients = Gradients::default();
    gradients.add(&task.variables, &(task.loss)(true)?.backward()?, 1.0)?;
    gradients.clip(task.clip.unwrap_or(f64::INFINITY))?;
    optimizer.step(&gradients, task.rate)?;
    Ok(())
}

fn compare_task(task: &Task, python: &Path, rounds: usize) -> Result<()> {
    let loss = (task.loss)(false)?.to_scalar::<f32>()?;
    let (mut peer, theirs) = Peer::start(task, python)?;
    let difference = (f64::from(loss) - theirs).abs();
    ensure!(
        difference < TOLERANCE * theirs.abs().max(1.0),
        "{}: loss {loss}, the peer's {theirs}",
        task.name
    );

    let mut optimizer = Optimizer::new(task.adam, task.variables.clone());
    let mut ours = || -> Result<[f64; 2]> {
        let (started, processor) = (Instant::now(), processor_seconds());
        step(task, &mut optimizer)?;
        Ok([
            started.elapsed().as_secs_f64(),
            processor_seconds() - processor,
        ])
    };
    ours()?;
    peer.step()?;
    let (mut own, mut other) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        own.push(ours()?);
        other.push(peer.step()?);
    }
    peer.process.kill()?;
    peer.process.wait()?;
    let seconds =
        |steps: &[[f64; 2]]| median(&steps.iter().map(|step| step[0]).collect::<Vec<_>>());
    let processor =
        |steps: &[[f64; 2]]| steps.iter().map(|step| step[1]).sum::<f64>() / steps.len() as f64;
    let (own_seconds, other_seconds) = (seconds(&own), seconds(&other));
    println!(
        "  {}: radialog {own_seconds:.4} ({:.3}), PyTorch {other_seconds:.4} ({:.3}); PyTorch / radialog {:.2}; loss {loss:.5} \
         and {theirs:.5}",
        task.name,
        processor(&own),
        processor(&other),
        other_seconds / own_seconds
    );
    let rates = |steps: &[[f64; 2]]| {
        let rates = steps.iter().map(|[seconds, _]| seconds.recip());
        Figures::of(&rates.collect::<Vec<_>>())
    };
    Row {
        work: format!("training step, {}", task.name),
        unit: "steps/s".into(),
        ours: rates(&own),
        peer: Some(rows::Peer {
            name: TORCH.into(),
            figures: rates(&other),
        }),
        share: None,
    }
    .note()
}

impl Peer {
    /// Starts it and waits for its loss.
    fn start(task: &Task, python: &Path) -> Result<(Self, f64)> {
        let dir = tempfile::tempdir()?;
        let path = |name: &str| dir.path().join(name);
        fs::write(path("config.json"), serde_json::to_vec(&task.config)?)?;
        let weights = task.variables.snapshot()?;
        let files: [(&str, &HashMap<String, Tensor>); 3] = [
            ("weights", &weights),
            ("base", &task.base),
            ("inputs", &task.inputs),
        ];
        for (name, tensors) in files {
            candle_core::safetensors::save(tensors, path(name))?;
        }
        let mut command = Command::new(python);
        command
            .arg(super::peer("training_steps.py"))
            .arg(task.kind)
            .arg(path("config.json"));
        command
            .args(files.map(|(name, _)| path(name)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let steps = process.stdin.take().context("the peer's input")?;
        let answers = BufReader::new(process.stdout.take().context("the peer's output")?);
        let mut peer = Self {
            process,
            steps,
            answers,
        };
        let answer = peer.answer()?;
        let loss = answer
            .strip_prefix("loss ")
            .with_context(|| format!("no loss in '{answer}'"))?
            .trim()
            .parse()?;
        Ok((peer, loss))
    }

    fn step(&mut self) -> Result<[f64; 2]> {
        writeln!(self.steps)?;
        self.steps.flush()?;
        let answer = self.answer()?;
        let (seconds, processor) = answer
            .trim()
            .split_once(' ')
            .with_context(|| format!("no times in '{answer}'"))?;
        Ok([seconds.parse()?, processor.parse()?])
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(
            self.answers.read_line(&mut line)? > 0,
            "the peer has ended; what it says stands above"
        );
        Ok(line)
    }
}
