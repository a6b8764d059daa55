//! Image encoder, findings classifier, Q-Former and CheXbert beside PyTorch and ONNX Runtime at published geometry, with
//! random weights: one run of each by turns. The peers run in a virtual environment that this benchmark makes.
//!
//! `cargo benchmark peers -- [encoder] [findings] [qformer] [chexbert] [rounds=N]`; without a
//! name all of them.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::env;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use radialog_models::alignment::{Alignment, AlignmentConfig};
use radialog_models::chexbert::{Chexbert, ChexbertConfig};
use radialog_models::findings::{FindingsClassifier, FindingsConfig};
use radialog_models::vision::{ImageEncoder, VisionConfig};
use radialog_tests::benchmark::rows::{self, Figures, Row, Share};
use radialog_tests::benchmark::{Usage, VISION_PACKAGES, median, peer_python, random_weights};

/// Side of the matrices whose product is the machine's limit.
const SIDE: usize = 2048;

/// The peers of a work, as their script calls them: two in f32 and one in bf16.
const ENGINES: [&str; 3] = ["torch", "onnxruntime", "torch-bf16"];

/// One line of the table.
struct Work {
    /// As the peers' script calls it.
    name: &'static str,
    batch: usize,
    /// Side of an image in pixels, or tokens of a report.
    length: usize,
    /// Multiplications of one sample.
    products: f64,
}

/// A computation of ours, ready to run.
type Run = Box<dyn FnMut() -> Result<()>>;

fn main() -> Result<()> {
    let usage = Usage(
        "cargo benchmark peers -- [encoder] [findings] [qformer] [chexbert] [rounds=N]; without a name all of them",
    );
    let works = works();
    let known: Vec<&str> = works.iter().map(|work| work.name).collect();
    let (names, rounds) = usage.names_and_rounds(&known, 9);
    let python = peer_python("vision", &VISION_PACKAGES)?;
    let exported = env::temp_dir().join("radialog-peer-exports");
    std::fs::create_dir_all(&exported)?;
    println!("medians of {rounds} runs by turns (smallest and largest)");
    for work in works {
        if names.is_empty() || names.iter().any(|name| *name == work.name) {
            compare(&work, &python, &exported, rounds)?;
        }
    }
    Ok(())
}

fn works() -> Vec<Work> {
    let image = |name, batch, length, width: usize| {
        let grid = (length as f64 / 32.0).ceil().powi(2);
        let head = grid * (2048 * 256 + 512 * width + width * width) as f64;
        Work {
            name,
            batch,
            length,
            products: resnet_products(length) + head,
        }
    };
    let text = |batch, length: usize| Work {
        name: "chexbert",
        batch,
        length,
        products: (length * 12 * (12 * 768 * 768 + 2 * length * 768)) as f64,
    };
    let cross = 2 * 32usize * 768 * 768 + 196 * 1408 * 768 * 2 + 2 * 32 * 196 * 768;
    let qformer = |batch| Work {
        name: "qformer",
        batch,
        length: 196,
        products: (32usize * 12 * (12 * 768 * 768 + 2 * 32 * 768) + 6 * cross) as f64,
    };
    vec![
        image("encoder", 1, 448, 1408),
        image("encoder", 8, 448, 1408),
        image("findings", 1, 488, 128),
        qformer(1),
        qformer(8),
        text(1, 128),
        text(16, 128),
        text(1, 512),
    ]
}

/// Multiplications of ResNet-50 without its head.
fn resnet_products(side: usize) -> f64 {
    let half = |side: usize| side.div_ceil(2);
    let mut side = half(side);
    let mut products = side * side * 147 * 64;
    side = half(side);
    let mut input = 64;
    for (stage, blocks) in [3, 4, 6, 3].into_iter().enumerate() {
        let middle = 64 << stage;
        for block in 0..blocks {
            let before = side * side;
            if stage > 0 && block == 0 {
                side = half(side);
            }
            let pixels = side * side;
            products += before * input * middle + pixels * 9 * middle * middle;
            products += pixels * middle * 4 * middle;
            if block == 0 {
                products += pixels * input * 4 * middle;
            }
            input = 4 * middle;
        }
    }
    products as f64
}

fn compare(work: &Work, python: &Path, exported: &Path, rounds: usize) -> Result<()> {
    let mut peers = Vec::new();
    for engine in ENGINES {
        peers.push((engine, Peer::start(work, engine, python, exported)?));
    }
    let gemm = Work {
        name: "gemm",
        batch: 0,
        length: 0,
        products: (SIDE * SIDE * SIDE) as f64,
    };
    let mut limits = [
        Peer::start(&gemm, "torch", python, exported)?,
        Peer::start(&gemm, "torch-bf16", python, exported)?,
    ];
    let mut ours = [
        ("f32", run(work, DType::F32)?),
        ("bf16", run(work, DType::BF16)?),
    ];
    for (_, run) in &mut ours {
        run()?;
        run()?;
    }
    let mut seconds = vec![Vec::new(); ours.len() + peers.len() + limits.len()];
    for _ in 0..rounds {
        let mut columns = seconds.iter_mut();
        let mut note = |value: f64| columns.next().map(|column| column.push(value));
        for (_, run) in &mut ours {
            let started = Instant::now();
            run()?;
            note(started.elapsed().as_secs_f64());
        }
        for (_, peer) in &mut peers {
            note(peer.run()?);
        }
        for peer in &mut limits {
            note(peer.run()?);
        }
    }
    let rate = |column: usize| work.batch as f64 / median(&seconds[column]);
    let best = |column: usize| {
        seconds[column]
            .iter()
            .copied()
            .fold(f64::INFINITY, f64::min)
    };
    let limit = |bf16: bool| 2.0 * gemm.products / best(5 + usize::from(bf16));
    println!("{} {} x {}:", work.name, work.batch, work.length);
    let names = ours.iter().map(|(name, _)| format!("radialog {name}"));
    let names = names.chain(peers.iter().map(|(name, _)| (*name).to_owned()));
    for (column, name) in names.enumerate() {
        let slowest = seconds[column].iter().copied().fold(0.0, f64::max);
        let batch = work.batch as f64;
        let share = 2.0 * work.products * batch / best(column) / limit(name.contains("bf16"));
        println!(
            "  {name}: {:.2} a second ({:.2} to {:.2}), at best {share:.2} of PyTorch's product of {SIDE} x {SIDE} ({:.0} GFLOP/s)",
            rate(column),
            batch / slowest,
            batch / best(column),
            limit(name.contains("bf16")) / 1e9
        );
    }
    println!(
        "  ours / best peer: f32 {:.2}, bf16 {:.2}",
        rate(0) / rate(2).max(rate(3)),
        rate(1) / rate(4)
    );
    let rates = |column: usize| {
        let rates = seconds[column].iter().map(|run| work.batch as f64 / run);
        Figures::of(&rates.collect::<Vec<_>>())
    };
    let best_f32 = if rate(2) > rate(3) { 2 } else { 3 };
    for (column, peer) in [(0, best_f32), (1, 4)] {
        let (dtype, limit) = (ours[column].0, limit(column == 1));
        let done = 2.0 * work.products * rate(column);
        Row {
            work: format!("{} {} x {}, {dtype}", work.name, work.batch, work.length),
            unit: "a second".into(),
            ours: rates(column),
            peer: Some(rows::Peer {
                name: peers[peer - ours.len()].0.into(),
                figures: rates(peer),
            }),
            share: Some(Share {
                part: done / limit,
                of: format!("PyTorch's {:.0} GFLOP/s in {dtype}", limit / 1e9),
            }),
        }
        .note()?;
    }
    Ok(())
}

/// Our own network for a line of the table. bf16 is a type to load in.
fn run(work: &Work, dtype: DType) -> Result<Run> {
    let (batch, side) = (work.batch, work.length);
    let images = || Tensor::rand(0f32, 1f32, (batch, 3, side, side), &Device::Cpu);
    let weights = random_weights(dtype);
    Ok(match work.name {
        "encoder" => {
            let encoder = ImageEncoder::single_image(&VisionConfig::published(), weights)?;
            let images = images()?;
            Box::new(move || {
                black_box(encoder.project(&images)?);
                Ok(())
            })
        }
        "findings" => {
            let classifier = FindingsClassifier::new(&FindingsConfig::published(), weights)?;
            let images = images()?;
            Box::new(move || {
                black_box(classifier.forward(&images)?);
                Ok(())
            })
        }
        "qformer" => {
            let alignment = Alignment::new(&AlignmentConfig::published(), weights)?;
            let patches = Tensor::rand(-1f32, 1f32, (batch, 1408, 14, 14), &Device::Cpu)?;
            Box::new(move || {
                black_box(alignment.forward_image(&patches)?);
                Ok(())
            })
        }
        _ => {
            let labeler = Chexbert::new(&ChexbertConfig::published(), weights)?;
            let report = |_| (0..work.length as u32).map(|id| 101 + id * 7).collect();
            let reports: Vec<Vec<u32>> = (0..batch).map(report).collect();
            Box::new(move || {
                black_box(labeler.label(&reports)?);
                Ok(())
            })
        }
    })
}

/// A peer at work: it runs once for each line.
struct Peer {
    process: Child,
    runs: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    fn start(work: &Work, engine: &str, python: &Path, exported: &Path) -> Result<Self> {
        let mut process = Command::new(python)
            .arg(script())
            .arg(work.name)
            .args([work.batch, work.length].map(|number| number.to_string()))
            .arg(engine)
            .arg(exported)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let runs = process.stdin.take().context("the peer has no input")?;
        let answers = process.stdout.take().context("the peer has no output")?;
        let mut peer = Self {
            process,
            runs,
            answers: BufReader::new(answers),
        };
        let said = peer.answer()?;
        ensure!(said == "ready", "{engine} for {}: {said}", work.name);
        Ok(peer)
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(
            self.answers.read_line(&mut line)? > 0,
            "a peer ended; run tests/benches/peers/vision_text.py by hand to see why"
        );
        Ok(line.trim().to_owned())
    }

    /// Seconds of one run.
    fn run(&mut self) -> Result<f64> {
        writeln!(self.runs)?;
        Ok(self.answer()?.parse()?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A peer that has ended already is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/vision_text.py")
}
