//! Training beside PyTorch, sectioning beside the original's way of it in Python, and memory over the size of the data set.
//! The peers are in `peers/` and run in virtual environments that this benchmark makes.
//!
//! `cargo benchmark training -- [tiny] [published] [sections] [memory] [peak] [rounds=N]`;
//! without a name all but `published`, which takes some four minutes a round and up to 16 GiB, and `peak`, a training's most
//! memory, which is of the whole process.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::{Path, PathBuf};

use anyhow::Result;
use radialog_tests::benchmark::Usage;

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
    let usage = Usage(
        "cargo benchmark training -- [tiny] [published] [sections] [memory] [peak] [rounds=N]; without a name all but published \
         and peak",
    );
    let known = ["tiny", "published", "sections", "memory", "peak"];
    let (names, rounds) = usage.names_and_rounds(&known, 9);
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
