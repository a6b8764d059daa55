//! Memory of preparing and loading, with a small data set and with one of twenty times its size: a process each, whose
//! highest resident memory is read.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use radialog_models::preprocess::InputSize;
use radialog_schemas::Finding;
use radialog_tests::benchmark::{peak_memory, run};
use radialog_training::data::batch_loader::BatchLoader;
use radialog_training::data::labelled_images::{Batching, LabelledSides};
use radialog_training::prepare::Sectioning;
use radialog_training::recipe::{ImageTable, LabelRule};

use super::sections::generate;

/// Names the work and the folder of a child.
const CHILD: &str = "RADIALOG_BENCH_MEMORY";
const SIZES: [usize; 2] = [2_000, 40_000];
const BATCH: usize = 16;
/// Batches after which loading has come to rest.
const BATCHES: usize = 100;

pub(crate) fn is_child() -> bool {
    env::var_os(CHILD).is_some()
}

pub(crate) fn compare() -> Result<()> {
    let image = fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fixtures/golden/01_preprocess/images/xray_00000001_000.png"
    ))?;
    for work in ["sections", "images"] {
        let mut peaks = Vec::new();
        for size in SIZES {
            let dir = tempfile::tempdir()?;
            match work {
                "sections" => generate(dir.path(), size)?,
                _ => table(dir.path(), size, &image)?,
            }
            let mut command = Command::new(env::current_exe()?);
            let answer = run(command.env(CHILD, work).current_dir(dir.path()))?;
            peaks.push(
                answer
                    .trim()
                    .parse::<f64>()
                    .with_context(|| format!("no figure in '{answer}'"))?,
            );
        }
        let [small, large] = [peaks[0], peaks[1]].map(|bytes| bytes / f64::from(1 << 20));
        let what = if work == "sections" {
            "prepare sections"
        } else {
            "loading of images"
        };
        let [few, many] = SIZES;
        println!(
            "peak memory of {what}: {small:.0} MiB for {few}, {large:.0} MiB for {many}; ratio {:.2}",
            large / small
        );
    }
    Ok(())
}

/// Does its work in the current folder and prints its peak.
pub(crate) fn child() -> Result<()> {
    let here = env::current_dir()?;
    match env::var(CHILD)?.as_str() {
        "sections" => {
            let work = Sectioning {
                reports: here.join("reports"),
                images: here.join("images"),
                output: here.join("out.csv"),
                name_study: false,
            };
            work.run(&|_, _| ())?;
        }
        "images" => load(&here)?,
        other => bail!("no such work: {other}"),
    }
    println!("{}", peak_memory());
    Ok(())
}

/// A table of one image under many names.
fn table(dir: &Path, size: usize, image: &[u8]) -> Result<()> {
    fs::create_dir(dir.join("images"))?;
    let names: Vec<_> = Finding::ALL.into_iter().map(Finding::name).collect();
    let mut rows = format!("image,split,{}\n", names.join(","));
    for index in 0..size {
        rows += &format!("{index:08}.png,train,{}1\n", ",".repeat(13));
    }
    fs::write(dir.join("labels.csv"), rows)?;
    for index in 0..size.min(BATCH * BATCHES) {
        fs::write(dir.join(format!("images/{index:08}.png")), image)?;
    }
    Ok(())
}

fn load(dir: &Path) -> Result<()> {
    let table = ImageTable {
        labels: dir.join("labels.csv"),
        images: dir.join("images"),
        ..ImageTable::default()
    };
    let images = LabelledSides::read(&[table])?.train;
    let batching = Batching {
        input: InputSize {
            short_side: 512,
            side: 488,
        },
        rule: LabelRule::default(),
        augment: None,
        device: Device::Cpu,
    };
    let batches: Vec<_> = images.chunks(BATCH).map(<[_]>::to_vec).collect();
    for batch in
        BatchLoader::start(batches, move |images: Vec<_>| batching.batch(&images)).take(BATCHES)
    {
        batch?;
    }
    Ok(())
}
