//! Bundles: what is wrong with one is found before any work, in words that name tensor, shapes and file.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use radialog_models::bundle::components::{FindingsPredictor, ImageEmbedder, ReportLabeler};
use radialog_models::bundle::{
    Bundle, BundleAssembly, BundleError, Geometry, HashCache, RandomBundle,
};
use radialog_models::bundle::{ComponentConfigs, read_manifest};
use radialog_models::tensors::TensorSpec;
use radialog_schemas::bundle::{FileEntry, MANIFEST_FILE, Manifest};
use radialog_schemas::{ContentHash, RelativePath, Stage};
use safetensors::Dtype;
use tempfile::TempDir;

const EMBEDDING: &str = "embedding.safetensors";

/// A tiny bundle to break, with a hash cache of its own.
struct BundleFixture {
    dir: TempDir,
    cache: HashCache,
}

impl BundleFixture {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let cache = HashCache::at(dir.path().join("cache/hashes.json"));
        RandomBundle::tiny(7).write(&dir.path().join("bundle"))?;
        Ok(Self { dir, cache })
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join("bundle").join(file)
    }

    fn open(&self) -> Result<Bundle, BundleError> {
        Bundle::open_with(&self.path(""), &Stage::ALL, &self.cache)
    }

    fn fault(&self) -> BundleError {
        self.open().err().expect("the bundle is broken")
    }

    /// Changes a weights file and the manifest with it.
    fn rewrite(&self, change: impl FnOnce(&mut HashMap<String, Tensor>)) -> Result<()> {
        let path = self.path(EMBEDDING);
        let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu)?;
        change(&mut tensors);
        candle_core::safetensors::save(&tensors, &path)?;
        self.declare(EMBEDDING)
    }

    /// Makes the manifest agree with a file.
    fn declare(&self, file: &str) -> Result<()> {
        let content = fs::read(self.path(file))?;
        let mut manifest: Manifest = serde_json::from_slice(&fs::read(self.path(MANIFEST_FILE))?)?;
        let entry = FileEntry {
            size: content.len() as u64,
            sha256: ContentHash::of(&content),
        };
        manifest.files.insert(RelativePath::parse(file)?, entry);
        Ok(fs::write(
            self.path(MANIFEST_FILE),
            serde_json::to_vec(&manifest)?,
        )?)
    }
}

#[test]
fn a_random_bundle_opens_and_says_that_it_is_random() -> Result<()> {
    let fixture = BundleFixture::new()?;
    let bundle = fixture.open()?;
    bundle.verify()?;
    let summary = bundle.summary();
    assert!(
        summary.random_weights
            && summary.name.contains("random")
            && summary.license.contains("mean nothing")
    );
    assert!(
        summary
            .components
            .iter()
            .all(|component| component.tensors > 0 && component.parameters > 0)
    );
    Ok(())
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let hash = |name: &str, seed| -> Result<_> {
        Ok(RandomBundle::tiny(seed)
            .write(&dir.path().join(name))?
            .hash())
    };
    assert_eq!(hash("a", 1)?, hash("b", 1)?);
    assert_ne!(hash("c", 2)?, hash("d", 1)?);
    Ok(())
}

#[test]
fn a_directory_without_a_manifest_is_refused_by_name() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let error = Bundle::open(dir.path()).err().context("it opened")?;
    assert!(
        matches!(&error, BundleError::NotABundle(path) if path == dir.path()),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_missing_tensor_is_named_with_its_shape_and_file() -> Result<()> {
    let fixture = BundleFixture::new()?;
    fixture.rewrite(|tensors| drop(tensors.remove("ln_vision.weight")))?;
    let error = fixture.fault();
    assert!(
        matches!(&error, BundleError::TensorMissing { tensor, expected, file }
        if tensor == "ln_vision.weight" && expected.len() == 1 && file.ends_with(EMBEDDING)),
        "{error}"
    );
    assert!(
        error.to_string().contains("ln_vision.weight") && error.to_string().contains(EMBEDDING)
    );
    Ok(())
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes_and_its_file() -> Result<()> {
    let fixture = BundleFixture::new()?;
    let wrong = Tensor::zeros((3, 5), DType::F32, &Device::Cpu)?;
    fixture.rewrite(|tensors| drop(tensors.insert("query_tokens".into(), wrong)))?;
    let error = fixture.fault();
    assert!(
        matches!(&error, BundleError::TensorShape { tensor, expected, found, file }
        if tensor == "query_tokens" && expected[..2] == [1, 32] && found[..] == [3, 5] && file.ends_with(EMBEDDING)),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_truncated_file_is_refused_whether_or_not_the_manifest_knows() -> Result<()> {
    let fixture = BundleFixture::new()?;
    let file = fs::OpenOptions::new()
        .write(true)
        .open(fixture.path(EMBEDDING))?;
    file.set_len(file.metadata()?.len() - 4)?;
    let error = fixture.fault();
    assert!(
        matches!(&error, BundleError::Size { file, expected, found } if file.ends_with(EMBEDDING) && found + 4 == *expected),
        "{error}"
    );
    fixture.declare(EMBEDDING)?;
    let error = fixture.fault();
    assert!(
        matches!(&error, BundleError::Safetensors { file, .. } if file.ends_with(EMBEDDING)),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_changed_byte_is_found_even_where_the_old_hash_is_cached() -> Result<()> {
    let fixture = BundleFixture::new()?;
    fixture.open()?;
    let mut content = fs::read(fixture.path(EMBEDDING))?;
    *content.last_mut().context("empty")? ^= 1;
    fs::write(fixture.path(EMBEDDING), content)?;
    let error = fixture.fault();
    assert!(
        matches!(&error, BundleError::Hash { file, expected, found } if file.ends_with(EMBEDDING) && expected != found),
        "{error}"
    );
    Ok(())
}

#[test]
fn hashes_are_computed_once_a_file() -> Result<()> {
    let fixture = BundleFixture::new()?;
    let file = fixture.path(EMBEDDING);
    let hash = fixture.cache.hash(&file)?;
    // Same size, time and inode: only a cache would not see the change.
    let time = fs::metadata(&file)?.modified()?;
    let mut content = fs::read(&file)?;
    *content.last_mut().context("empty")? ^= 1;
    fs::write(&file, content)?;
    fs::OpenOptions::new()
        .write(true)
        .open(&file)?
        .set_modified(time)?;
    assert_eq!(fixture.cache.hash(&file)?, hash);
    Ok(())
}

#[test]
fn components_of_other_bundles_make_one_that_is_whole_and_half_as_large() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let sources = [1, 2].map(|seed| dir.path().join(format!("source-{seed}")));
    for (seed, source) in (1..).zip(&sources) {
        RandomBundle::tiny(seed).write(source)?;
    }
    let mode = |path: &Path| anyhow::Ok(fs::metadata(path)?.permissions().mode() & 0o777);
    let plain = mode(&sources[0].join(MANIFEST_FILE))?;
    for source in &sources {
        // Whoever may read these: a pod of another user reads what is made of them.
        for name in read_manifest(source)?.files.keys() {
            fs::set_permissions(source.join(name.as_str()), Permissions::from_mode(0o600))?;
        }
    }
    let assembly = BundleAssembly {
        name: "mixed".to_owned(),
        version: "1".to_owned(),
        license: None,
        half: true,
        calibration: None,
        parts: Stage::ALL
            .into_iter()
            .zip(sources.iter().cycle().cloned())
            .collect(),
    };
    let target = dir.path().join("mixed");
    assembly.write(&target)?;
    assert!(
        assembly
            .write(&target)
            .unwrap_err()
            .to_string()
            .contains("there already")
    );
    let bundle = Bundle::open_with(
        &target,
        &Stage::ALL,
        &HashCache::at(dir.path().join("cache")),
    )?;
    bundle.verify()?;
    for name in bundle.manifest().files.keys() {
        assert_eq!(mode(&target.join(name.as_str()))?, plain, "{name}");
    }
    assert!(
        bundle.manifest().random_weights,
        "what is random stays called so"
    );
    let part = read_manifest(&sources[0])?;
    assert_eq!(bundle.manifest().license, part.license);
    let size =
        |dir: &Path| -> Result<u64> { Ok(fs::metadata(dir.join("findings.safetensors"))?.len()) };
    assert!(size(&target)? * 10 < size(&sources[1])? * 6);
    Ok(())
}

#[test]
fn weights_that_are_not_finite_are_refused_with_their_file_and_tensor() -> Result<()> {
    let fixture = BundleFixture::new()?;
    let name = {
        let tensors = candle_core::safetensors::load(fixture.path(EMBEDDING), &Device::Cpu)?;
        let floats = tensors
            .iter()
            .filter(|(_, tensor)| tensor.dtype().is_float());
        let largest = floats.max_by_key(|(_, tensor)| tensor.elem_count());
        largest.context("a tensor")?.0.clone()
    };
    let good = fs::read(fixture.path(EMBEDDING))?;
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            fs::write(fixture.path(EMBEDDING), &good)?;
            // One value, the last of many.
            fixture.rewrite(|tensors| {
                let tensor = tensors.get_mut(&name).unwrap();
                let shape = tensor.shape().clone();
                let mut values = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
                let count = values.elem_count();
                let last = Tensor::new(&[value], &Device::Cpu).unwrap();
                values =
                    Tensor::cat(&[&values.narrow(0, 0, count - 1).unwrap(), &last], 0).unwrap();
                *tensor = values.reshape(shape).unwrap().to_dtype(dtype).unwrap();
            })?;
            let error = fixture.fault();
            ensure!(
                matches!(&error, BundleError::NotFinite { tensor, file }
                    if *tensor == name && file.ends_with(EMBEDDING)),
                "{dtype:?} {value}: {error}"
            );
        }
    }
    fs::write(fixture.path(EMBEDDING), &good)?;
    fixture.declare(EMBEDDING)?;
    fixture.open()?.verify()?;
    // It is remembered beside the hash, and looked at again when the file changes.
    let cache = fs::read_to_string(fixture.dir.path().join("cache/hashes.json"))?;
    ensure!(cache.contains("\"finite\":true"), "{cache}");
    Ok(())
}

#[test]
fn a_manifest_cannot_name_files_outside_its_bundle() -> Result<()> {
    let fixture = BundleFixture::new()?;
    let text = fs::read_to_string(fixture.path(MANIFEST_FILE))?;
    fs::write(
        fixture.path(MANIFEST_FILE),
        text.replace(EMBEDDING, "../embedding.safetensors"),
    )?;
    let error = fixture.fault();
    assert!(
        error.to_string().contains("../embedding.safetensors"),
        "{error}"
    );
    Ok(())
}

/// The tensors of the published checkpoints, as listed from the reference modules: `name<TAB>shape<TAB>dtype`.
fn published(table: &str) -> Result<BTreeMap<String, Vec<usize>>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/keys")
        .join(table);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let rows = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.contains("rotary_emb"));
    rows.map(|row| {
        let mut cells = row.split('\t');
        let (name, shape) = cells
            .next()
            .zip(cells.next())
            .with_context(|| row.to_owned())?;
        Ok((name.to_owned(), serde_json::from_str(shape)?))
    })
    .collect()
}

fn shapes(specs: Vec<TensorSpec>) -> BTreeMap<String, Vec<usize>> {
    specs
        .into_iter()
        .map(|spec| (spec.header.name, spec.header.shape))
        .collect()
}

#[test]
fn the_published_geometry_has_exactly_the_tensors_of_the_published_checkpoints() -> Result<()> {
    let configs = ComponentConfigs::of(Geometry::Published);
    let language = &configs.language;
    for (table, specs) in [
        ("alignment_checkpoint_4.tsv", configs.embedding.tensors()?),
        ("findings_classifier_ckpt.tsv", configs.findings.tensors()?),
        ("vicuna_7b.tsv", language.base_tensors(Dtype::F16)?),
        ("lora_adapter.tsv", language.adapter_tensors()?),
        ("chexbert.tsv", configs.scoring.tensors()?),
    ] {
        assert_eq!(shapes(specs), published(table)?, "{table}");
    }
    Ok(())
}

#[test]
fn networks_in_bf16_are_components_of_their_own_with_outputs_of_their_own() -> Result<()> {
    let fixture = BundleFixture::new()?;
    let outputs = |precision: &str| -> Result<(Bundle, Vec<f32>, Vec<f32>)> {
        let bundle = fixture.open()?.with_precision(&[precision.parse()?])?;
        let image = |side: usize| {
            let pixels = (0..3 * side * side).map(|pixel| (pixel as f32 * 0.01).sin().abs());
            Tensor::from_iter(pixels, &Device::Cpu)?.reshape((1, 3, side, side))
        };
        let embedder = ImageEmbedder::load(&bundle, &Device::Cpu)?;
        let tokens = embedder.embed(&image(embedder.input().side)?)?;
        let predictor = FindingsPredictor::load(&bundle, &Device::Cpu)?;
        let found = predictor.predict(&image(predictor.input().side)?)?;
        let findings = found.iter().flat_map(|report| &report.findings);
        let findings = findings.filter_map(|finding| finding.probability).collect();
        let labeler = ReportLabeler::load(&bundle, &Device::Cpu)?;
        labeler.label(&[labeler.encode("No pneumothorax.")?])?;
        Ok((bundle, tokens.flatten_all()?.to_vec1()?, findings))
    };
    let (plain, tokens, findings) = outputs("f32")?;
    let (rounded, rounded_tokens, rounded_findings) = outputs("bf16")?;
    assert_ne!(tokens, rounded_tokens);
    assert_ne!(findings, rounded_findings);
    let hash = |bundle: &Bundle, stage| bundle.manifest().component_hash(stage);
    for stage in [Stage::Embedding, Stage::Findings, Stage::Scoring] {
        let original = hash(&fixture.open()?, stage);
        assert_eq!(hash(&plain, stage), original, "{stage}");
        assert_ne!(hash(&rounded, stage), original, "{stage}");
        let (own, tokens, _) = outputs(&format!("{stage}=bf16"))?;
        assert_eq!(hash(&own, stage), hash(&rounded, stage), "{stage}");
        assert_eq!(
            tokens == rounded_tokens,
            stage == Stage::Embedding,
            "{stage}"
        );
    }
    Ok(())
}
