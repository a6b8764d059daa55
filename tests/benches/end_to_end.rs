//! Reports from images to text, beside the original's way in Python with the same random weights at published geometry: image
//! in, findings and a report of so many tokens out; one study at a time, and several.
//!
//! `cargo benchmark end_to_end -- [layers=N] [tokens=N] [at_once=1,8] [rounds=N] [folder=DIR] [drafts=N] [weights=q4_k_m]`. A bundle
//! is made in the folder (a temporary one that is kept, unless named) where it has none yet: 15 GB with the 32 layers of the 7B, 2.9 GB
//! with two. With `weights`, our side has the language model in these types, as `radialog bundle quantise` makes it of the same bundle.
//! Where both models do not fit into memory together, each side is started anew for its turn; loading is not timed. Drafts are
//! off unless asked for: random texts repeat themselves as no report does.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use radialog_models::bundle::{BundleQuantisation, RandomBundle, WeightTypes};
use radialog_models::findings::NO_FINDINGS_TEXT;
use radialog_models::language::LlamaConfig;
use radialog_models::prompt::Prompts;
use radialog_schemas::Finding;
use radialog_tests::benchmark::rows::{Figures, Peer, Row};
use radialog_tests::benchmark::{Usage, VISION_PACKAGES, median, peer_python};
use radialog_tests::fixtures::xrays;
use serde::{Deserialize, Serialize};

#[path = "end_to_end/ours.rs"]
mod ours;

const USAGE: Usage = Usage(
    "cargo benchmark end_to_end -- [layers=N] [tokens=N] [at_once=1,8] [rounds=N] [folder=DIR] [drafts=N] [weights=q4_k_m]",
);
/// Names the bundle of the process that is our side.
const OURS: &str = "RADIALOG_BENCH_END_TO_END";
const SEED: u64 = 13;
/// Bytes that a side needs beside its language model.
const BESIDE: u64 = 3 << 30;
/// Bytes of a layer of the 7B, and of its embedding and head, in two bytes a number.
const LAYER: u64 = 2 * (4 * 4096 * 4096 + 3 * 4096 * 11_008);
const EMBEDDING: u64 = 2 * 2 * 32_000 * 4096;

/// What both sides are asked for: reports on the images of a folder.
#[derive(Debug, Serialize, Deserialize)]
struct Asked {
    folder: PathBuf,
    at_once: usize,
    tokens: usize,
}

/// What both sides answer.
#[derive(Debug, Serialize, Deserialize)]
struct Answered {
    /// From the first image to the last report.
    seconds: f64,
    /// Tokens of each report, in the order of the images' names.
    tokens: Vec<usize>,
    reports: Vec<String>,
}

/// What a person asks for.
struct Options {
    layers: usize,
    tokens: usize,
    at_once: Vec<usize>,
    rounds: usize,
    folder: PathBuf,
    drafts: usize,
    /// Types of our language model; none is f16, as the bundle has it.
    weights: Option<WeightTypes>,
}

fn main() -> Result<()> {
    if let Some(bundle) = env::var_os(OURS) {
        return ours::serve(Path::new(&bundle));
    }
    let options = Options::given()?;
    fs::create_dir_all(&options.folder)?;
    let random = RandomBundle {
        blocks: Some(options.layers),
        ..RandomBundle::published(SEED)
    };
    let bundle = options.folder.join(random.directory_name());
    random.ensure(&bundle)?;
    let ours = match options.weights {
        Some(to) => quantised(&bundle, to)?,
        None => bundle.clone(),
    };
    let python = peer_python("vision", &VISION_PACKAGES)?;
    let both = 2 * (options.layers as u64 * LAYER + EMBEDDING + BESIDE);
    let stays = both < memory()?;
    println!(
        "{} of the 7B's {} layers, ours in {}, {} tokens a report, medians of {} by turns (smallest and largest){}",
        options.layers,
        LlamaConfig::vicuna_7b().num_hidden_layers,
        options.types(),
        options.tokens,
        options.rounds,
        if stays {
            ""
        } else {
            "; each side is started for its turn"
        }
    );
    let mut sides = [
        Side::new("radialog", our_command(&ours, &options)?, stays),
        Side::new("Python", peer_command(&python, &bundle)?, stays),
    ];
    for &at_once in &options.at_once {
        compare(&mut sides, at_once, &options)?;
    }
    Ok(())
}

impl Options {
    /// What our language model is in.
    fn types(&self) -> &'static str {
        self.weights.map_or("f16", WeightTypes::name)
    }

    fn given() -> Result<Self> {
        let mut options = Self {
            layers: LlamaConfig::vicuna_7b().num_hidden_layers,
            tokens: 150,
            at_once: vec![1, 8],
            rounds: 3,
            folder: env::temp_dir().join("radialog-end-to-end"),
            drafts: 0,
            weights: None,
        };
        for argument in USAGE.arguments() {
            let Some((name, value)) = argument.split_once('=') else {
                USAGE.refuse(format!("'{argument}' is not name=value"))
            };
            match name {
                "layers" => options.layers = USAGE.count(value),
                "tokens" => options.tokens = USAGE.count(value),
                "rounds" => options.rounds = USAGE.count(value),
                "drafts" => options.drafts = USAGE.number(value),
                "weights" => {
                    let to = WeightTypes::ALL.into_iter().find(|to| to.name() == value);
                    let to = to.unwrap_or_else(|| USAGE.refuse(format!("no weights '{value}'")));
                    options.weights = Some(to);
                }
                "folder" => options.folder = value.into(),
                "at_once" => {
                    let numbers = value.split(',').map(|number| USAGE.number(number));
                    options.at_once = numbers.collect();
                }
                _ => USAGE.refuse(format!("there is no '{name}'")),
            }
        }
        let images = images()?.len();
        ensure!(
            options.at_once.iter().all(|n| (1..=images).contains(n)),
            "1 to {images} studies at a time"
        );
        Ok(options)
    }
}

/// The same bundle with its language model in these types, made beside it once.
fn quantised(bundle: &Path, to: WeightTypes) -> Result<PathBuf> {
    let name = bundle.file_name().context("a bundle has a name")?;
    let name = format!("{}-{}", name.display(), to.name());
    let dir = bundle.with_file_name(&name);
    if !dir.exists() {
        BundleQuantisation { name, to }.write(bundle, &dir, &mut |_, _| {})?;
    }
    Ok(dir)
}

/// Studies of a round: all at once, others in each round.
fn compare(sides: &mut [Side; 2], at_once: usize, options: &Options) -> Result<()> {
    let mut seconds = [Vec::new(), Vec::new()];
    let (mut same, mut all) = (0, 0);
    for round in 0..options.rounds {
        let dir = tempfile::tempdir()?;
        for image in images()?.iter().cycle().skip(round * at_once).take(at_once) {
            let name = image.file_name().context("an image has a name")?;
            fs::copy(image, dir.path().join(name))?;
        }
        let asked = Asked {
            folder: dir.path().to_owned(),
            at_once,
            tokens: options.tokens,
        };
        let mut firsts = Vec::new();
        for (side, seconds) in sides.iter_mut().zip(&mut seconds) {
            let answered = side.answer(&asked)?;
            ensure!(
                answered.tokens == vec![options.tokens; at_once],
                "{}: reports of {:?} tokens: an answer ended by itself",
                side.name,
                answered.tokens
            );
            seconds.push(answered.seconds);
            let first = |report: &String| report.split_whitespace().next().map(str::to_owned);
            firsts.push(answered.reports.iter().map(first).collect::<Vec<_>>());
        }
        all += at_once;
        let pairs = firsts[0].iter().zip(&firsts[1]);
        same += pairs.filter(|(ours, theirs)| ours == theirs).count();
    }
    println!("{at_once} at a time:");
    let rate = |seconds: f64| at_once as f64 * 3600.0 / seconds;
    for (side, seconds) in sides.iter().zip(&seconds) {
        let slowest = seconds.iter().copied().fold(0.0, f64::max);
        let fastest = seconds.iter().copied().fold(f64::INFINITY, f64::min);
        println!(
            "  {}: {:.1} studies an hour ({:.1} to {:.1})",
            side.name,
            rate(median(seconds)),
            rate(slowest),
            rate(fastest)
        );
    }
    println!(
        "  radialog / Python: {:.2}; {same} of {all} reports begin with the same word",
        median(&seconds[1]) / median(&seconds[0])
    );
    let rates = |seconds: &[f64]| {
        let rates = seconds.iter().map(|seconds| rate(*seconds));
        Figures::of(&rates.collect::<Vec<_>>())
    };
    Row {
        work: format!(
            "end to end, {at_once} at a time, {} layers, ours in {}",
            options.layers,
            options.types()
        ),
        unit: "studies an hour".into(),
        ours: rates(&seconds[0]),
        peer: Some(Peer {
            name: "Python in bf16".into(),
            figures: rates(&seconds[1]),
        }),
        share: None,
    }
    .note()
}

/// The shipped X-rays, by name.
fn images() -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    for entry in fs::read_dir(xrays())? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "jpg") {
            images.push(path);
        }
    }
    images.sort();
    Ok(images)
}

fn our_command(bundle: &Path, options: &Options) -> Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command
        .env(OURS, bundle)
        .env(ours::DRAFTS, options.drafts.to_string());
    Ok(command)
}

fn peer_command(python: &Path, bundle: &Path) -> Result<Command> {
    let names: Vec<&str> = Finding::ALL.into_iter().map(Finding::name).collect();
    let texts = serde_json::json!({
        "prompt": Prompts::default().report("{findings}").to_string(),
        "findings": names,
        "no_findings": NO_FINDINGS_TEXT,
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/end_to_end.py");
    let mut command = Command::new(python);
    command.arg(script).arg(bundle).arg(texts.to_string());
    Ok(command)
}

/// Bytes of memory that the machine has.
fn memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    Ok(1024
        * kibibytes
            .context("no MemTotal in /proc/meminfo")?
            .parse::<u64>()?)
}

/// One of the two, as a process that answers a line of JSON with a line of JSON.
struct Side {
    name: &'static str,
    command: Command,
    /// Whether it stays between its turns.
    stays: bool,
    running: Option<Running>,
}

struct Running {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Side {
    fn new(name: &'static str, command: Command, stays: bool) -> Self {
        Self {
            name,
            command,
            stays,
            running: None,
        }
    }

    fn answer(&mut self, asked: &Asked) -> Result<Answered> {
        let mut running = match self.running.take() {
            Some(running) => running,
            None => Running::start(&mut self.command).context(self.name)?,
        };
        writeln!(running.input, "{}", serde_json::to_string(asked)?)?;
        running.input.flush()?;
        let answered = serde_json::from_str(&running.line().context(self.name)?)?;
        if self.stays {
            self.running = Some(running);
        }
        Ok(answered)
    }
}

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take().context("a side has no input")?;
        let output = process.stdout.take().context("a side has no output")?;
        let mut running = Self {
            process,
            input,
            output: BufReader::new(output),
        };
        let line = running.line()?;
        ensure!(line.trim() == "ready", "{line}");
        Ok(running)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(
            self.output.read_line(&mut line)? > 0,
            "it has ended; what it says stands above"
        );
        Ok(line)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A side that has ended already is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
