//! Bundles that are made of others by quantising the language model: what they hold, and what is refused and why.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::Device;
use radialog_models::bundle::components::{LanguagePipeline, LanguageTask};
use radialog_models::bundle::{
    Bundle, BundleQuantisation, HashCache, Quantised, RandomBundle, WeightTypes,
};
use radialog_models::language::llama::SequenceChunk;
use radialog_schemas::{AdapterName, Stage};
use safetensors::tensor::Dtype;
use tempfile::TempDir;

/// A bundle in half precision with two adapters, and places beside it.
struct HalfPrecisionBundle(TempDir);

impl HalfPrecisionBundle {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        RandomBundle {
            dtype: Dtype::F16,
            adapters: vec!["rg".parse()?, "ins".parse()?],
            ..RandomBundle::tiny(7)
        }
        .write(&dir.path().join("source"))?;
        Ok(Self(dir))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self, name: &str) -> Result<Bundle> {
        let cache = HashCache::at(self.path("hashes.json"));
        Ok(Bundle::open_with(&self.path(name), &Stage::ALL, &cache)?)
    }

    fn quantise(&self, to: WeightTypes, from: &str, out: &Path) -> Result<Quantised> {
        let name = "smaller".to_owned();
        let quantisation = BundleQuantisation { name, to };
        Ok(quantisation.write(&self.path(from), out, &mut |_, _| {})?)
    }
}

/// Logits of the last position of a prompt, as an adapter makes them.
fn logits(bundle: &Bundle, adapter: &str) -> Result<Vec<f32>> {
    let language = LanguagePipeline::load(bundle, &Device::Cpu)?;
    let named: AdapterName = adapter.parse()?;
    let adapter = language.adapter(Some(&named), LanguageTask::Chat)?;
    let prompt: Vec<u32> = (1..40).collect();
    let mut cache = language.model.cache_of(adapter, prompt.len())?;
    let input = language.model.embed_for(adapter, &prompt, &[])?;
    let chunk = SequenceChunk {
        cache: &mut cache,
        len: prompt.len(),
    };
    let hidden = language.model.forward(&input, &mut [chunk])?;
    let last = hidden.narrow(0, prompt.len() - 1, 1)?;
    Ok(language.model.logits(&last)?.flatten_all()?.to_vec1()?)
}

#[test]
fn a_quantised_bundle_is_whole_and_close_to_its_source_with_every_adapter() -> Result<()> {
    let source = HalfPrecisionBundle::new()?;
    let original = source.open("source")?;
    for (to, most) in [
        (WeightTypes::Q8_0, 0.05),
        (WeightTypes::Q6K, 0.05),
        (WeightTypes::Q4KM, 0.05),
        (WeightTypes::Q4_0, 0.5),
    ] {
        let name = to.name();
        let made = source.quantise(to, "source", &source.path(name))?;
        let bundle = source.open(name)?;
        bundle.verify()?;
        // Two layers of seven, the table and the head; rows of 64 and 192 are no blocks of 256.
        let expected = match to {
            WeightTypes::Q4_0 => vec![("Q4_0", 15), ("Q8_0", 1)],
            _ => vec![("Q8_0", 16)],
        };
        let found: Vec<_> = made
            .matrices
            .iter()
            .map(|(n, c)| (n.as_str(), *c))
            .collect();
        assert_eq!(found, expected, "{name}");
        for stage in Stage::ALL {
            let same = original.manifest().component_hash(stage)
                == bundle.manifest().component_hash(stage);
            assert_eq!(same, stage != Stage::Language, "{name} {stage}");
        }
        for adapter in ["rg", "ins"] {
            let (exact, close) = (logits(&original, adapter)?, logits(&bundle, adapter)?);
            let largest = exact.iter().fold(0f32, |most, value| most.max(value.abs()));
            let pairs = exact.iter().zip(&close);
            let error = pairs.fold(0f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(
                error > 0.0 && error < most * largest,
                "{name} {adapter}: {error} of {largest}"
            );
        }
        let smaller = |bundle: &Bundle| bundle.summary().components[2].bytes;
        assert!(smaller(&bundle) < smaller(&original), "{name}");
    }
    Ok(())
}

#[test]
fn a_precision_names_other_outputs_and_is_that_of_the_weights_or_refused() -> Result<()> {
    let source = HalfPrecisionBundle::new()?;
    source.quantise(WeightTypes::Q8_0, "source", &source.path("small"))?;
    let computed = |name: &str, precision: &str| -> Result<(Bundle, Result<Vec<f32>>)> {
        let bundle = source.open(name)?.with_precision(&[precision.parse()?])?;
        let logits = logits(&bundle, "ins");
        Ok((bundle, logits))
    };
    for (name, own) in [("source", "f16"), ("small", "q8_0")] {
        let plain = source.open(name)?;
        let expected = logits(&plain, "ins")?;
        for precision in ["f32", "f16", "bf16", "language=bf16", "q8_0", "q4_0"] {
            let (bundle, found) = computed(name, precision)?;
            for stage in Stage::ALL {
                let same = plain.manifest().component_hash(stage)
                    == bundle.manifest().component_hash(stage);
                // bf16 without a name is for every stage that has it, and all have.
                let is_another = stage == Stage::Language || precision == "bf16";
                assert_eq!(same, !is_another, "{name} {precision} {stage}");
            }
            let refused = precision.starts_with('q') && precision != own;
            match found {
                Err(error) => {
                    let error = format!("{error:#}");
                    assert!(refused && error.contains("bundle quantise"), "{error}");
                }
                Ok(found) => {
                    assert!(!refused, "{name} {precision}");
                    if precision == own {
                        assert_eq!(found, expected, "{name} {precision}");
                    }
                    // An addition of rank 8 changes little; another type of a base of 64 changes some.
                    let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
                    let pairs = found.iter().zip(&expected);
                    let error = pairs.fold(0f32, |most, (a, b)| most.max((a - b).abs()));
                    assert!(error < 0.2 * largest, "{name} {precision}: {error}");
                }
            }
        }
    }
    let other = source.open("source")?;
    assert!(other.with_precision(&["embedding=f32".parse()?]).is_ok());
    Ok(())
}

#[test]
fn what_is_quantised_already_or_stands_in_the_way_is_refused() -> Result<()> {
    let source = HalfPrecisionBundle::new()?;
    let small = source.path("small");
    source.quantise(WeightTypes::Q4_0, "source", &small)?;
    let error = source.quantise(WeightTypes::Q8_0, "small", &source.path("again"));
    let error = format!("{:#}", error.err().context("it was quantised twice")?);
    assert!(
        error.contains("quantised already") && error.contains("--dtype f32"),
        "{error}"
    );
    let error = source.quantise(WeightTypes::Q8_0, "source", &small);
    let error = format!("{:#}", error.err().context("it was written over")?);
    assert!(error.contains("it is there already"), "{error}");
    fs::write(source.path("source").join("adapter-rg.safetensors"), [0; 9])?;
    assert!(
        source
            .quantise(WeightTypes::Q8_0, "source", &source.path("again"))
            .is_err()
    );
    assert!(!source.path("again").exists());
    Ok(())
}

#[test]
fn one_that_is_interrupted_leaves_nothing() -> Result<()> {
    let source = HalfPrecisionBundle::new()?;
    let before = fs::read_dir(source.path(""))?.count();
    let quantisation = BundleQuantisation {
        name: "smaller".into(),
        to: WeightTypes::Q8_0,
    };
    let write = || {
        let stop = &mut |_, _| panic!("interrupted, as this test wants it");
        quantisation.write(&source.path("source"), &source.path("out"), stop)
    };
    assert!(catch_unwind(AssertUnwindSafe(write)).is_err());
    assert_eq!(fs::read_dir(source.path(""))?.count(), before);
    Ok(())
}
