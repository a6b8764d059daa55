//! What can go wrong inside the models, in words that name the tensor, the shapes and the file.

use std::path::{Path, PathBuf};

use radialog_schemas::{ErrorCode, Failure};

/// The words that candle puts before a tensor's name when a weight has another shape than the network asks for.
const SHAPE_MISMATCH: &str = "shape mismatch for ";

/// A failure of a network, its weights or its input.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The network asks for a tensor that the weights do not hold.
    #[error("tensor '{tensor}' is missing in {}: use weights made for this geometry", place(.file))]
    WeightMissing {
        /// Full name, as in the checkpoint.
        tensor: String,
        /// The file that should hold it, where known.
        file: Option<PathBuf>,
    },
    /// A tensor of the weights does not have the shape that the geometry asks for.
    #[error(
        "tensor '{tensor}' in {} has shape {found:?}, expected {expected:?}: use weights made for this geometry",
        place(.file)
    )]
    WeightShape {
        /// Full name, as in the checkpoint.
        tensor: String,
        /// The shape that the geometry asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
        /// The file that holds it, where known.
        file: Option<PathBuf>,
    },
    /// A tensor of the weights has a value that is not a number.
    #[error("tensor '{tensor}' has a value that is not a number: use weights of another training")]
    WeightNotANumber {
        /// Full name, as in the checkpoint.
        tensor: String,
    },
    /// A geometry whose numbers do not fit together.
    #[error("geometry: {0}")]
    Geometry(String),
    /// An input that the network cannot take.
    #[error("input: {0}")]
    Input(String),
    /// Any other failure of the tensor library.
    #[error("{0}")]
    Candle(candle_core::Error),
}

impl ModelError {
    /// Names the file in an error about a weight; other errors stay as they are.
    pub fn in_file(mut self, path: &Path) -> Self {
        if let ModelError::WeightMissing { file, .. } | ModelError::WeightShape { file, .. } =
            &mut self
        {
            file.get_or_insert_with(|| path.to_owned());
        }
        self
    }
}

impl From<candle_core::Error> for ModelError {
    fn from(error: candle_core::Error) -> Self {
        use candle_core::Error;
        match error {
            Error::WithBacktrace { inner, .. } | Error::Context { inner, .. } => Self::from(*inner),
            Error::WithPath { inner, path } => Self::from(*inner).in_file(&path),
            Error::CannotFindTensor { path } => ModelError::WeightMissing {
                tensor: path,
                file: None,
            },
            Error::UnexpectedShape { msg, expected, got } if msg.starts_with(SHAPE_MISMATCH) => {
                ModelError::WeightShape {
                    tensor: msg[SHAPE_MISMATCH.len()..].to_owned(),
                    expected: expected.into_dims(),
                    found: got.into_dims(),
                    file: None,
                }
            }
            error => ModelError::Candle(error),
        }
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        Failure::new(ErrorCode::Model, error)
    }
}

fn place(file: &Option<PathBuf>) -> String {
    file.as_ref().map_or_else(
        || "the weights".to_owned(),
        |path| format!("'{}'", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device, Tensor};
    use candle_nn::VarBuilder;

    use super::*;

    fn weights() -> VarBuilder<'static> {
        let tensor = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        VarBuilder::from_tensors(
            HashMap::from([("a.weight".to_owned(), tensor)]),
            DType::F32,
            &Device::Cpu,
        )
    }

    #[test]
    fn a_missing_weight_names_tensor_and_file() {
        let error = ModelError::from(weights().pp("a").get(3, "bias").unwrap_err())
            .in_file(Path::new("w.safetensors"));
        assert!(
            error
                .to_string()
                .starts_with("tensor 'a.bias' is missing in 'w.safetensors'"),
            "{error}"
        );
    }

    #[test]
    fn a_weight_of_another_shape_names_both_shapes() {
        let error = ModelError::from(weights().pp("a").get((3, 2), "weight").unwrap_err());
        assert!(
            error
                .to_string()
                .contains("'a.weight' in the weights has shape [2, 3], expected [3, 2]"),
            "{error}"
        );
    }
}
