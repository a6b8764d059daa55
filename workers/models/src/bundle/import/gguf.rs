//! A base language model in one GGUF file: geometry, tensors and tokenizer are all in it.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::error::ImportError;
use super::sources::Source;
use crate::checkpoint::gguf::{Gguf, GgufLlama};
use crate::checkpoint::{Checkpoint, OpenedCheckpoint, refuse_pointer};
use crate::language::LlamaConfig;

/// The end of a file's name.
const EXTENSION: &str = "gguf";

/// An opened file.
pub(super) struct GgufBase {
    llama: Arc<GgufLlama>,
}

impl GgufBase {
    /// Whether this is such a file, by its content or, so that opening it says what is wrong, by its name.
    pub(super) fn is_one(path: &Path) -> bool {
        path.is_file() && (Self::is_named(path) || Self::begins_so(path))
    }

    /// Whether the name says so.
    pub(super) fn is_named(path: &Path) -> bool {
        path.extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case(EXTENSION))
    }

    /// Whether the content begins so. What cannot be read does not.
    pub(super) fn begins_so(path: &Path) -> bool {
        let mut start = [0; Gguf::START];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
        read.is_ok() && Gguf::recognises(&start)
    }

    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        refuse_pointer(path)?;
        let llama = GgufLlama::new(Gguf::open(path)?)?;
        Ok(Self {
            llama: Arc::new(llama),
        })
    }

    /// The geometry; the file says nothing about images.
    pub(super) fn config(&self) -> &LlamaConfig {
        self.llama.config()
    }

    /// The tensors under the names of Hugging Face.
    pub(super) fn source(&self) -> Result<Source, ImportError> {
        let path = self.llama.gguf().file();
        let checkpoint: Arc<dyn Checkpoint + Send + Sync> = self.llama.clone();
        let opened = OpenedCheckpoint {
            checkpoint,
            files: vec![path.to_owned()],
            section: None,
            index: None,
            left_out: Vec::new(),
        };
        Source::new(path, opened, |name| Some(name.to_owned()))
    }

    /// The content of a `tokenizer.json`.
    pub(super) fn tokenizer(&self) -> Result<String, ImportError> {
        Ok(self.llama.gguf().tokenizer()?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::PathBuf;

    use candle_core::quantized::gguf_file::Value;
    use candle_core::{DType, Device, Tensor};
    use radialog_schemas::{AdapterName, Stage};
    use safetensors::Dtype;

    use super::super::quantized;
    use super::super::report::ComponentReport;
    use super::super::tensor::{PlannedTensor, TensorSource};
    use super::super::{BaseType, Import, ImportOptions, ImportParts, PartSelection, find_parts};
    use super::*;
    use crate::bundle::components::LanguagePipeline;
    use crate::bundle::{Bundle, HashCache};
    use crate::checkpoint::gguf::tests::written::{TinyLlama, values};
    use crate::language::llama::SequenceChunk;
    use crate::tensors::TensorHeader;

    fn options(dtype: Option<BaseType>) -> ImportOptions {
        ImportOptions {
            name: "tiny".into(),
            version: "1".into(),
            license: "none".into(),
            dtype,
            merge: None,
            projector_seed: 42,
        }
    }

    fn parts(base: PathBuf) -> ImportParts {
        ImportParts {
            base: Some(base),
            ..ImportParts::default()
        }
    }

    fn import(llama: &TinyLlama, dtype: Option<BaseType>) -> (tempfile::TempDir, Bundle) {
        import_with(llama, Vec::new(), options(dtype))
    }

    fn import_with(
        llama: &TinyLlama,
        adapters: Vec<(AdapterName, PathBuf)>,
        options: ImportOptions,
    ) -> (tempfile::TempDir, Bundle) {
        let dir = tempfile::tempdir().unwrap();
        let base = llama.write(dir.path());
        let place = dir.path().join("bundle");
        let parts = ImportParts {
            adapters,
            ..parts(base)
        };
        let plan = Import::plan(&parts, options).unwrap();
        plan.write(&place, &mut |_| {}).unwrap();
        let bundle = Bundle::open_with(
            &place,
            &[Stage::Language],
            &HashCache::at(dir.path().join("hashes.json")),
        )
        .unwrap();
        (dir, bundle)
    }

    fn logits(bundle: &Bundle) -> Vec<f32> {
        let language = LanguagePipeline::load(bundle, &Device::Cpu).unwrap();
        let ids = language.tokenizer.encode("lungs").unwrap();
        assert_eq!(ids.len(), 3, "the tokenizer that the file carries");
        let mut cache = language.model.cache(8).unwrap();
        let mut chunks = [SequenceChunk {
            cache: &mut cache,
            len: ids.len(),
        }];
        let input = language.model.embed(&ids, &[]).unwrap();
        let hidden = language.model.forward(&input, &mut chunks).unwrap();
        let logits = language.model.logits(&hidden).unwrap();
        logits.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_file_becomes_a_bundle_of_text_that_stays_quantised_or_is_widened_as_asked() {
        let llama = TinyLlama::new();
        let (_dir, quantized) = import(&llama, None);
        let types = &quantized.summary().components[0].quantized;
        let expected = [("Q4_1".to_owned(), 14), ("Q8_0".to_owned(), 1)];
        assert_eq!(*types, expected.into());
        quantized.verify().unwrap();
        let (_dir, widened) = import(&llama, Some(BaseType::F32));
        assert!(widened.summary().components[0].quantized.is_empty());
        let apart = apart(&logits(&quantized), &logits(&widened));
        assert!(apart > 0.0 && apart < 0.05, "{apart}");
    }

    /// An adapter of both layers' last matrices, with an image projection, as PEFT writes it.
    fn write_adapter(dir: &Path) {
        let settings =
            serde_json::json!({"r": 2, "lora_alpha": 4, "target_modules": ["down_proj"]});
        std::fs::write(dir.join("adapter_config.json"), settings.to_string()).unwrap();
        let of_layer = |layer: usize| {
            let name = |part| format!("model.layers.{layer}.mlp.down_proj.{part}.weight");
            [
                (name("lora_A"), values(&[2, 96], layer as f32)),
                (name("lora_B"), values(&[64, 2], 0.5)),
            ]
        };
        let projection = [("weight", &[64, 8][..]), ("bias", &[64])].map(|(part, shape)| {
            let name = format!("model.img_proj_layer.{part}");
            (name, values(shape, 0.3))
        });
        let tensors = (0..2).flat_map(of_layer).chain(projection);
        let tensors = tensors.map(|(name, tensor)| (format!("base_model.model.{name}"), tensor));
        let tensors: HashMap<String, Tensor> = tensors.collect();
        let file = dir.join("adapter_model.safetensors");
        candle_core::safetensors::save(&tensors, file).unwrap();
    }

    /// How far two answers are apart, as a share of the second one's length.
    fn apart(one: &[f32], other: &[f32]) -> f32 {
        let pairs = one.iter().zip(other);
        let (apart, whole) = pairs.fold((0f32, 0f32), |(apart, whole), (one, other)| {
            (apart + (one - other).powi(2), whole + other.powi(2))
        });
        (apart / whole).sqrt()
    }

    #[test]
    fn an_adapter_that_is_folded_in_answers_as_it_does_beside_the_base() {
        let llama = TinyLlama::new();
        let dir = tempfile::tempdir().unwrap();
        write_adapter(dir.path());
        let name: AdapterName = "rg".parse().unwrap();
        let adapters = || vec![(name.clone(), dir.path().to_owned())];
        let merging = |dtype| ImportOptions {
            merge: Some(name.clone()),
            ..options(dtype)
        };
        let (_dir, base) = import(&llama, Some(BaseType::F32));
        let (_dir, beside) = import_with(&llama, adapters(), options(Some(BaseType::F32)));
        let (_dir, merged) = import_with(&llama, adapters(), merging(Some(BaseType::F32)));
        let beside = logits(&beside);
        let changed = apart(&logits(&base), &beside);
        let found = apart(&logits(&merged), &beside);
        assert!(
            changed > 1e-3,
            "the adapter changes the answer by {changed}"
        );
        assert!(found < 1e-3 * changed, "{found} of {changed}");

        // What is folded into has no blocks any more, the rest keeps them.
        let (_dir, merged) = import_with(&llama, adapters(), merging(None));
        let types = &merged.summary().components[0].quantized;
        let expected = [("Q4_1".to_owned(), 12), ("Q8_0".to_owned(), 1)];
        assert_eq!(*types, expected.into());
        merged.verify().unwrap();
        let found = apart(&logits(&merged), &beside);
        assert!(found < 0.05, "{found}");
    }

    #[test]
    fn a_plan_says_what_stays_quantised_and_that_the_model_sees_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let base = TinyLlama::new().write(dir.path());
        let plan = Import::plan(&parts(base), options(None)).unwrap();
        let notes = plan.reports()[0].notes.join("; ");
        assert!(notes.contains("14 in Q4_1, 1 in Q8_0"), "{notes}");
        assert!(notes.contains("text alone"), "{notes}");
    }

    #[test]
    fn a_plan_says_which_matrices_are_widened_and_what_that_costs() {
        let dir = tempfile::tempdir().unwrap();
        let base = TinyLlama::new().write(dir.path());
        let plan = Import::plan(&parts(base), options(Some(BaseType::F16))).unwrap();
        let notes = plan.reports()[0].notes.join("; ");
        for words in [
            "15 quantised matrices are widened to f16, since --dtype asks for it",
            "of a CPU, which holds them as f16",
            "model.layers.*.mlp.down_proj.weight (2)",
            "model.embed_tokens.weight",
        ] {
            assert!(notes.contains(words), "{words}: {notes}");
        }
        assert!(!notes.contains("stay quantised"), "{notes}");
    }

    #[test]
    fn a_file_is_known_by_its_content_and_one_that_has_the_name_alone_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let written = TinyLlama::new().write(dir.path());
        let base = dir.path().join("weights-without-an-ending");
        std::fs::rename(written, &base).unwrap();
        let damaged = dir.path().join("damaged.gguf");
        std::fs::write(&damaged, "<html>not found</html>").unwrap();
        let (found, notes) = find_parts(
            dir.path(),
            ImportParts::default(),
            &PartSelection::default(),
        )
        .unwrap();
        assert_eq!(found.base.as_deref(), Some(base.as_path()));
        assert!(
            notes.iter().any(|note| note.contains("damaged.gguf")),
            "{notes:?}"
        );
        let plan = Import::plan(&found, options(None)).unwrap();
        let notes = plan.reports()[0].notes.join("; ");
        assert!(notes.contains("stay quantised"), "{notes}");
        let error = Import::plan(&parts(damaged), options(None));
        let message = error.map(drop).unwrap_err().to_string();
        assert!(message.contains("damaged.gguf"), "{message}");
        // The hub's cache has a file once under its name and once under that of its content.
        let link = dir.path().join("model.gguf");
        std::os::unix::fs::symlink(&base, &link).unwrap();
        let (found, _) = find_parts(
            dir.path(),
            ImportParts::default(),
            &PartSelection::default(),
        )
        .unwrap();
        assert_eq!(found.base, Some(link));
    }

    #[test]
    fn another_architecture_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut llama = TinyLlama::new();
        llama.set("general.architecture", Value::String("gemma2".into()));
        let base = llama.write(dir.path());
        let error = Import::plan(&parts(base), options(None))
            .map(|_| ())
            .unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("tiny.gguf") && message.contains("gemma2"),
            "{message}"
        );
    }

    #[test]
    fn an_adapter_is_folded_into_the_numbers_that_the_blocks_stand_for() {
        let dir = tempfile::tempdir().unwrap();
        let gguf = GgufBase::open(&TinyLlama::new().write(dir.path())).unwrap();
        let name = "model.layers.1.mlp.down_proj.weight";
        let header = |shape: [usize; 2]| TensorHeader {
            name: name.to_owned(),
            shape: shape.into(),
            dtype: Dtype::F32,
        };
        let source = gguf.source().unwrap();
        let base = source.take(name, &header([64, 96])).unwrap().unwrap();
        assert_eq!(base.header.shape, [64, 60], "bytes");
        let values = |tensor: &PlannedTensor| {
            let mut bytes = Vec::new();
            let mut write = |piece: &[u8]| {
                bytes.extend_from_slice(piece);
                Ok(())
            };
            tensor.write(&mut write).unwrap();
            let numbers = bytes.as_chunks::<4>().0.iter();
            numbers
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect::<Vec<f32>>()
        };
        let base = base.into_numbers();
        let widened = values(&base);
        assert_eq!(widened.len(), 64 * 96);
        let made = |shape: [usize; 2], value: f32| {
            let values = vec![value; shape[0] * shape[1]];
            PlannedTensor::new(header(shape), TensorSource::Made(values.into())).unwrap()
        };
        let merged = TensorSource::Merged {
            base: Box::new(base),
            down: Box::new(made([2, 96], 0.5)),
            up: Box::new(made([64, 2], 0.25)),
            scale: 2.0,
        };
        let merged = PlannedTensor::new(header([64, 96]), merged).unwrap();
        let (dtype, sum) = (merged.header.dtype, values(&merged));
        assert_eq!(dtype, Dtype::F32);
        for (sum, widened) in sum.iter().zip(&widened) {
            assert!((sum - widened - 0.5).abs() < 1e-6);
        }
        let half = merged.stored_as(Dtype::F16);
        assert_eq!(half.header.size(), 64 * 96 * DType::F16.size_in_bytes());
        let mut report = ComponentReport::new(Stage::Language);
        quantized::note(&[half], Some(&"rg".parse().unwrap()), &mut report);
        let note = report.notes.join("; ");
        for words in [
            "the adapter 'rg' is folded into them",
            "which holds them as f32: model.layers.*.mlp.down_proj.weight",
        ] {
            assert!(note.contains(words), "{note}");
        }
    }
}
