//! The bytes that an import will write.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::quantized::GgmlDType;

use super::Import;
use super::planned::PlannedFile;
use super::staging::Leftover;
use super::tensor::PlannedTensor;
use crate::bundle::writer::SafetensorsWriter;
use crate::free_space::SpaceNeeded;
use crate::tensors::TensorHeader;

/// Room for the manifest, the record of the import and the notes of its progress: some hundred bytes a file.
const RECORDS: u64 = 1 << 20;

/// The tensors of a file in the order in which they are written: wide types first, so that every tensor starts at a multiple
/// of its element's size.
pub(super) fn ordered(file: &PlannedFile) -> Vec<&PlannedTensor> {
    let mut tensors: Vec<_> = file.tensors.iter().collect();
    tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.header.dtype.bitsize()));
    tensors
}

/// What a file's header says: shapes, and the types of those that are quantised.
pub(super) fn header(
    tensors: &[&PlannedTensor],
) -> (Vec<TensorHeader>, BTreeMap<String, GgmlDType>) {
    let headers = tensors.iter().map(|tensor| tensor.header.clone());
    let types = tensors
        .iter()
        .filter_map(|tensor| Some((tensor.header.name.clone(), tensor.ggml?)));
    (headers.collect(), types.collect())
}

/// Bytes of a file.
fn size(file: &PlannedFile) -> u64 {
    let (headers, types) = header(&ordered(file));
    SafetensorsWriter::size(&headers, &types)
}

/// The bytes of all files, without those of which `is_kept` says, of a file and its size, that they are there already.
pub(super) fn needed(import: &Import, is_kept: impl Fn(&PlannedFile, u64) -> bool) -> u64 {
    let mut needed = RECORDS;
    for part in &import.components {
        let sizes = part.files.iter().map(|file| (file, size(file)));
        let written = sizes.filter(|(file, size)| !is_kept(file, *size));
        needed += written.map(|(_, size)| size).sum::<u64>();
        let tokenizer = part.tokenizer.as_ref();
        needed += tokenizer.map_or(0, |(_, json)| json.len() as u64);
    }
    needed
}

/// What an import into `place` needs, by what an interrupted one has left there: files that are as large as they are to be
/// count as whole here, since their content is compared later.
pub(super) fn look(import: &Import, place: &Path) -> SpaceNeeded {
    let leftover = Leftover::of(place);
    let needed = needed(import, |file, size| leftover.is_finished(&file.name, size));
    SpaceNeeded::look(place, needed.saturating_sub(leftover.unfinished))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use radialog_schemas::Stage;
    use safetensors::Dtype;
    use serde_json::Value;

    use super::super::planned::PlannedComponent;
    use super::super::tensor::TensorSource;
    use super::super::{ImportError, ImportOptions};
    use super::*;

    /// An import of one file with one matrix of zeros.
    fn import(shape: [usize; 2]) -> Import {
        let header = TensorHeader {
            name: "weight".into(),
            shape: shape.to_vec(),
            dtype: Dtype::F32,
        };
        let zeros = TensorSource::Made(Arc::new(vec![0.0; 6]));
        Import {
            options: ImportOptions {
                name: "tiny".into(),
                version: "1".into(),
                license: "none".into(),
                dtype: None,
                merge: None,
                projector_seed: 42,
            },
            components: vec![PlannedComponent {
                stage: Stage::Findings,
                config: Value::Null,
                files: vec![PlannedFile {
                    usage: "weights".into(),
                    name: "findings.safetensors".into(),
                    tensors: vec![PlannedTensor::new(header, zeros).unwrap()],
                }],
                tokenizer: None,
                settings: Vec::new(),
            }],
            reports: Vec::new(),
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_before_a_folder_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("bundle");
        // Four petabytes.
        let import = import([1 << 25, 1 << 25]);
        let needed = import.space(&place).needed;
        assert!(needed > 4 << 50);
        let error = import.write(&place, &mut |_| {}).unwrap_err();
        assert!(matches!(error, ImportError::NoSpace(_)), "{error:?}");
        let message = error.to_string();
        let needed = format!("needs {needed} bytes");
        for words in ["bundle'", &needed, "free"] {
            assert!(message.contains(words), "{words}: {message}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_needed_is_what_is_written_and_less_where_an_import_was_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("bundle");
        let import = import([2, 3]);
        let needed = import.space(&place).needed - RECORDS;
        import.write(&place, &mut |_| {}).unwrap();
        let file = place.join("findings.safetensors");
        assert_eq!(std::fs::metadata(&file).unwrap().len(), needed);

        let other = dir.path().join("other");
        let staging = dir.path().join(".other.import");
        std::fs::create_dir(&staging).unwrap();
        let cut = staging.join("findings.safetensors.partial");
        std::fs::write(cut, [0; 10]).unwrap();
        let rest = import.space(&other).needed - RECORDS;
        assert_eq!(rest, needed - 10, "what is cut off is written over");
    }
}
