//! Training beside PyTorch, sectioning beside the original's way of it in Python, and memory over the size of the data set.
//! The peers are in `peers/` and run in virtual environments that this benchmark makes.
//!
//! `cargo bench --profile release --workspace --bench training -- [tiny] [published] [sections] [memory] [peak] [rounds=N]`;
//! without a name all but `published`, which takes some four minutes a round and up to 16 GiB, and `peak`, a training's most
//! memory, which is of the whole process.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Result;

#[path = "training/memory.rs"]
mod memory;
#[path = "training/sections.rs"]
mod sections;
#[path = "training/steps.rs"]
mod steps;
#[path = "training/tasks.rs"]
mod tasks;

use tasks::Size;

fn main() -> Result<()> {
    if memory::is_child() {
        return memory::child();
    }
    let arguments: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let rounds = arguments
        .iter()
        .find_map(|argument| argument.strip_prefix("rounds=")?.parse().ok())
        .unwrap_or(9);
    let names: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.contains('='))
        .collect();
    let wants = |name: &str| {
        let by_default = !["published", "peak"].contains(&name);
        names.iter().any(|wanted| *wanted == name) || (names.is_empty() && by_default)
    };
    if wants("peak") {
        steps::peak()?;
    }
    if wants("tiny") {
        steps::compare(Size::Tiny, rounds)?;
    }
    if wants("published") {
        steps::compare(Size::Published, rounds)?;
    }
    if wants("sections") {
        sections::compare()?;
    }
    if wants("memory") {
        memory::compare()?;
    }
    Ok(())
}

/// A peer's script.
fn peer(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("benches/peers")
        .join(name)
}
