//! The networks of an image, and CheXbert, in bf16 beside themselves in f32: on X-rays and reports as they come.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use radialog_models::alignment::{Alignment, AlignmentConfig};
use radialog_models::bundle::components::{FindingsPredictor, ImageEmbedder, ReportLabeler};
use radialog_models::bundle::{Bundle, HashCache};
use radialog_models::chexbert::{Chexbert, ChexbertConfig};
use radialog_models::findings::{FindingsClassifier, FindingsConfig};
use radialog_models::preprocess::{ImageLimits, InputSize, Preprocessed};
use radialog_models::vision::{ImageEncoder, VisionConfig};
use radialog_schemas::{Labels, Stage};
use radialog_tests::benchmark::random_weights;

/// Tokens of a made-up report, and how many of them are labelled.
const REPORT_TOKENS: u32 = 128;
const DRAWN: u32 = 60;

/// What a network makes of one image: tokens of the language model, and probabilities of the findings.
type Network<'a> = Box<dyn Fn(&Tensor) -> Result<Vec<f32>> + 'a>;

/// Compares over the X-rays of a folder and the reports of a table, which has a column `findings`.
///
/// # Errors
/// A bundle, folder or table that cannot be read.
pub(crate) fn compare(images: &Path, bundle: &Path, reports: &Path) -> Result<()> {
    let images = files(images)?;
    println!("{} images", images.len());
    let [exact, rounded] = [open(bundle, None)?, open(bundle, Some("bf16"))?];
    let of = |bundle: &Bundle| ImageEmbedder::load(bundle, &Device::Cpu);
    let [first, second] = [of(&exact)?, of(&rounded)?];
    tokens(
        "image tokens",
        &images,
        first.input(),
        [
            Box::new(|image| values(&first.embed(image)?)),
            Box::new(|image| values(&second.embed(image)?)),
        ],
    )?;
    let of = |bundle: &Bundle| FindingsPredictor::load(bundle, &Device::Cpu);
    let [first, second] = [of(&exact)?, of(&rounded)?];
    let predicted = |network: &FindingsPredictor, image: &Tensor| -> Result<Vec<f32>> {
        let reports = network.predict(image)?;
        let all = reports.iter().flat_map(|report| &report.findings);
        Ok(all.filter_map(|finding| finding.probability).collect())
    };
    probabilities(
        "findings",
        &images,
        first.input(),
        [
            Box::new(|image| predicted(&first, image)),
            Box::new(|image| predicted(&second, image)),
        ],
    )?;
    labels(&exact, &rounded, reports)
}

/// The same of networks of the published geometry with random weights. These have no tokenizer, so that reports are any tokens.
///
/// # Errors
/// A folder that cannot be read.
pub(crate) fn compare_published(images: &Path) -> Result<()> {
    let images = files(images)?;
    println!(
        "{} images, published geometry, random weights",
        images.len()
    );
    let vision = VisionConfig::published();
    let aligned = |dtype| -> Result<(ImageEncoder, Alignment)> {
        Ok((
            ImageEncoder::single_image(&vision, random_weights(dtype))?,
            Alignment::new(&AlignmentConfig::published(), random_weights(dtype))?,
        ))
    };
    let [first, second] = [aligned(DType::F32)?, aligned(DType::BF16)?];
    let run = |(encoder, alignment): &(ImageEncoder, Alignment), image: &Tensor| {
        values(&alignment.forward_image(&encoder.project(image)?)?.tokens)
    };
    tokens(
        "image tokens",
        &images,
        vision.input(),
        [
            Box::new(|image| run(&first, image)),
            Box::new(|image| run(&second, image)),
        ],
    )?;
    let config = FindingsConfig::published();
    let of = |dtype| FindingsClassifier::new(&config, random_weights(dtype));
    let [first, second] = [of(DType::F32)?, of(DType::BF16)?];
    probabilities(
        "findings",
        &images,
        config.vision.input(),
        [
            Box::new(|image| values(&first.forward(image)?.probs)),
            Box::new(|image| values(&second.forward(image)?.probs)),
        ],
    )?;
    let of = |dtype| Chexbert::new(&ChexbertConfig::published(), random_weights(dtype));
    let [exact, rounded] = [of(DType::F32)?, of(DType::BF16)?];
    let mut counts = LabelCounts::default();
    for report in (0..DRAWN).map(drawn_report) {
        let ids = [report];
        counts.add(&exact.label(&ids)?, &rounded.label(&ids)?);
    }
    counts.print();
    Ok(())
}

/// A report of any tokens, of a usual length.
pub(crate) fn drawn_report(number: u32) -> Vec<u32> {
    (0..REPORT_TOKENS)
        .map(|at| 1000 + (at * 37 + number * 7919) % 29_000)
        .collect()
}

pub(crate) fn open(bundle: &Path, precision: Option<&str>) -> Result<Bundle> {
    let cache = HashCache::at(std::env::temp_dir().join("radialog-precision-hashes.json"));
    let stages = [Stage::Embedding, Stage::Findings, Stage::Scoring];
    let bundle = Bundle::open_with(bundle, &stages, &cache)?;
    let chosen = |stage: Stage| Ok(format!("{stage}={}", precision.unwrap_or("f32")).parse()?);
    let choices = stages.into_iter().map(chosen).collect::<Result<Vec<_>>>()?;
    Ok(bundle.with_precision(&choices)?)
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// PNG and JPEG files of a folder and of those in it, in the order of their names.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let is_image = path
                .extension()
                .is_some_and(|ending| ending == "png" || ending == "jpg" || ending == "jpeg");
            match path.is_dir() {
                true => folders.push(path),
                false if is_image => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    ensure!(!found.is_empty(), "no PNG or JPEG in {}", folder.display());
    Ok(found)
}

pub(crate) fn image(path: &Path, size: InputSize) -> Result<Tensor> {
    let limits = ImageLimits::default();
    let read = Preprocessed::from_bytes(&fs::read(path)?, &limits, size.short_side);
    let read = read.with_context(|| path.display().to_string())?;
    Ok(read.tensor(size.side, &Device::Cpu)?.unsqueeze(0)?)
}

fn tokens(
    name: &str,
    images: &[PathBuf],
    size: InputSize,
    [exact, rounded]: [Network<'_>; 2],
) -> Result<()> {
    let (mut cosines, mut shares) = (Vec::new(), Vec::new());
    for path in images {
        let image = image(path, size)?;
        let (exact, rounded) = (exact(&image)?, rounded(&image)?);
        let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
            let pairs = exact.iter().zip(&rounded);
            pairs.map(|(a, b)| of(f64::from(*a), f64::from(*b))).sum()
        };
        let (own, other) = (sum(&|a, _| a * a), sum(&|_, b| b * b));
        cosines.push(sum(&|a, b| a * b) / (own * other).sqrt());
        shares.push((sum(&|a, b| (a - b) * (a - b)) / own).sqrt());
    }
    println!(
        "{name}: cosine {:.6} on average, {:.6} at least; error {:.4} of their size on average, {:.4} at most",
        mean(&cosines),
        cosines.iter().copied().fold(f64::INFINITY, f64::min),
        mean(&shares),
        shares.iter().copied().fold(0.0, f64::max),
    );
    Ok(())
}

fn probabilities(
    name: &str,
    images: &[PathBuf],
    size: InputSize,
    [exact, rounded]: [Network<'_>; 2],
) -> Result<()> {
    let (mut errors, mut same) = (Vec::new(), 0);
    for path in images {
        let image = image(path, size)?;
        for (exact, rounded) in exact(&image)?.into_iter().zip(rounded(&image)?) {
            errors.push(f64::from((exact - rounded).abs()));
            same += usize::from((exact > 0.5) == (rounded > 0.5));
        }
    }
    println!(
        "{name}: probabilities differ by {:.5} on average, {:.5} at most; {same} of {} decisions are the same",
        mean(&errors),
        errors.iter().copied().fold(0.0, f64::max),
        errors.len(),
    );
    Ok(())
}

fn labels(exact: &Bundle, rounded: &Bundle, reports: &Path) -> Result<()> {
    let [exact, rounded] = [exact, rounded].map(|of| ReportLabeler::load(of, &Device::Cpu));
    let (exact, rounded) = (exact?, rounded?);
    let mut table = csv::Reader::from_path(reports)?;
    let column = table.headers()?.iter().position(|name| name == "findings");
    let column = column.context("the table of reports has no column findings")?;
    let mut counts = LabelCounts::default();
    for row in table.records() {
        let row = row?;
        let text = row.get(column).unwrap_or_default();
        if text.is_empty() {
            continue;
        }
        let ids = [exact.encode(text)?];
        counts.add(&exact.label(&ids)?, &rounded.label(&ids)?);
    }
    counts.print();
    Ok(())
}

/// How often two networks give the same label.
#[derive(Default)]
struct LabelCounts {
    texts: usize,
    same: usize,
    all: usize,
}

impl LabelCounts {
    fn add(&mut self, exact: &[Labels], rounded: &[Labels]) {
        self.texts += exact.len();
        for (one, other) in exact.iter().zip(rounded) {
            self.all += one.len();
            let same = one.iter();
            self.same += same
                .filter(|&(finding, label)| other.get(finding) == Some(label))
                .count();
        }
    }

    fn print(&self) {
        let Self { texts, same, all } = self;
        println!("labels of {texts} reports: {same} of {all} are the same");
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
