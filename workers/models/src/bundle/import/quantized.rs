//! What an import says about quantised matrices: how many stay as they are, which are widened and why, and the disk and
//! memory that either takes.

use std::collections::BTreeMap;

use radialog_schemas::AdapterName;
use safetensors::Dtype;

use super::report::ComponentReport;
use super::tensor::PlannedTensor;
use crate::ggml;

/// The tensor whose type all that is not quantised has in memory.
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Matrices that are widened for one reason.
#[derive(Default)]
struct Widened {
    /// By the name with a star for the layer's number.
    names: BTreeMap<String, usize>,
    /// Bytes of their blocks.
    stored: usize,
    /// Bytes of the bundle's file.
    written: usize,
    elements: usize,
}

/// Writes down what becomes of the base's quantised matrices; nothing where it has none. `merged` is the adapter that is
/// folded in.
pub(super) fn note(
    tensors: &[PlannedTensor],
    merged: Option<&AdapterName>,
    report: &mut ComponentReport,
) {
    let mut kept = BTreeMap::<String, usize>::new();
    let (mut stored, mut elements) = (0, 0);
    let mut widened = BTreeMap::<(bool, String), Widened>::new();
    for tensor in tensors {
        let Some((dtype, bytes, count)) = tensor.quantized() else {
            continue;
        };
        if tensor.ggml.is_some() {
            *kept.entry(ggml::name(dtype)).or_default() += 1;
            stored += bytes;
            elements += count;
            continue;
        }
        let reason = (tensor.is_merged(), name_of(tensor.header.dtype));
        let group = widened.entry(reason).or_default();
        *group.names.entry(starred(&tensor.header.name)).or_default() += 1;
        group.stored += bytes;
        group.written += tensor.header.size();
        group.elements += count;
    }
    // The language model is loaded in the type of its embedding, and in f32 (f16 on a GPU) where that is quantised.
    let embedding = tensors
        .iter()
        .find(|tensor| tensor.header.name == EMBEDDING);
    let dense = embedding.filter(|tensor| tensor.ggml.is_none());
    let dense = dense.map(|tensor| tensor.header.dtype);
    if !kept.is_empty() {
        let types = kept
            .iter()
            .map(|(name, count)| format!("{count} in {name}"));
        let gpu = dense.unwrap_or(Dtype::F16);
        report.notes.push(format!(
            "matrices stay quantised ({}): {} on disk and in the memory of a CPU; a GPU widens them to {}, {}, and a training to \
             f32, {}",
            types.collect::<Vec<_>>().join(", "),
            mib(stored),
            name_of(gpu),
            mib(elements * width(gpu)),
            mib(elements * width(Dtype::F32))
        ));
    }
    let cpu = dense.unwrap_or(Dtype::F32);
    for ((is_merged, dtype), group) in widened {
        let reason = match merged.filter(|_| is_merged) {
            Some(name) => {
                format!("the adapter '{name}' is folded into them, and a sum has no blocks")
            }
            None => "--dtype asks for it".to_owned(),
        };
        let count: usize = group.names.values().sum();
        let names = group.names.iter().map(|(name, count)| match count {
            1 => name.clone(),
            count => format!("{name} ({count})"),
        });
        report.notes.push(format!(
            "{count} quantised matrices are widened to {dtype}, since {reason}: {} on disk instead of {}, and {} in the memory \
             of a CPU, which holds them as {}: {}",
            mib(group.written),
            mib(group.stored),
            mib(group.elements * width(cpu)),
            name_of(cpu),
            names.collect::<Vec<_>>().join(", ")
        ));
    }
}

fn mib(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn width(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

fn name_of(dtype: Dtype) -> String {
    dtype.to_string().to_lowercase()
}

/// A tensor's name for all layers.
fn starred(name: &str) -> String {
    let parts = name.split('.').map(|part| match part.parse::<usize>() {
        Ok(_) => "*",
        Err(_) => part,
    });
    parts.collect::<Vec<_>>().join(".")
}
