//! What an imported bundle makes of images, for whoever has the release's own outputs of the same images: embeddings under each
//! projector that the release may have had, and predicted findings.

use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use radialog_schemas::{Finding, Stage};

use super::components::{Connector, EmbeddingComponent, FindingsPredictor, ImageEmbedder, WEIGHTS};
use super::{Bundle, BundleError};
use crate::ModelError;
use crate::preprocess::Preprocessed;
use crate::vision::projector_seed::{self, DEMO_SEED, TRAINING_SEED};

/// What the projector's names begin with in a bundle.
const PROJECTOR: &str = "visual_encoder.projector.";

/// The bundle's image networks.
pub struct Acceptance {
    embedders: Vec<(Projector, ImageEmbedder)>,
    predictor: Option<FindingsPredictor>,
}

/// The projectors that embeddings may have been made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projector {
    /// That of the bundle.
    Bundle,
    /// That which a seed makes: 42 in the published training and 16 in the published demo.
    Seed(u32),
}

/// How far two lists of numbers are from each other.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance {
    /// The largest absolute difference.
    pub largest: f32,
    /// The mean absolute difference.
    pub mean: f32,
    /// The standard deviation of the expected numbers, by which to judge the others.
    pub spread: f32,
}

impl Acceptance {
    /// Loads the networks of the opened stages on the CPU.
    ///
    /// # Errors
    /// A component that does not load.
    pub fn load(bundle: &Bundle, stages: &[Stage]) -> Result<Self, BundleError> {
        let embedders = match stages.contains(&Stage::Embedding) {
            true => embedders(bundle)?,
            false => Vec::new(),
        };
        let predictor = match stages.contains(&Stage::Findings) {
            true => Some(FindingsPredictor::load(bundle, &Device::Cpu)?),
            false => None,
        };
        Ok(Self {
            embedders,
            predictor,
        })
    }

    /// The image tokens of an image under each projector, row-major.
    ///
    /// # Errors
    /// An image that the network cannot take.
    pub fn embeddings(
        &self,
        image: &Preprocessed,
    ) -> Result<Vec<(Projector, Vec<f32>)>, ModelError> {
        let each = self.embedders.iter().map(|(projector, embedder)| {
            let input = image
                .tensor(embedder.input().side, &Device::Cpu)?
                .unsqueeze(0)?;
            let tokens = embedder.embed(&input)?.flatten_all()?.to_vec1()?;
            Ok((*projector, tokens))
        });
        each.collect()
    }

    /// The findings that are predicted in an image, in the published order, with their probabilities; nothing where the stage was
    /// not opened.
    ///
    /// What it does not assess has none.
    ///
    /// # Errors
    /// An image that the network cannot take.
    pub fn findings(&self, image: &Preprocessed) -> Result<Vec<(Finding, f64)>, ModelError> {
        let Some(predictor) = &self.predictor else {
            return Ok(Vec::new());
        };
        let input = image
            .tensor(predictor.input().side, &Device::Cpu)?
            .unsqueeze(0)?;
        let reports = predictor.predict(&input)?;
        let findings = reports.into_iter().flat_map(|report| report.findings);
        Ok(findings
            .filter_map(|finding| Some((finding.finding, f64::from(finding.probability?))))
            .collect())
    }
}

impl Distance {
    /// Between numbers and those that are expected. Nothing where they are not as many.
    pub fn between(found: &[f32], expected: &[f32]) -> Option<Self> {
        if found.len() != expected.len() || expected.is_empty() {
            return None;
        }
        let count = expected.len() as f64;
        let pairs = || found.iter().zip(expected);
        let difference = |(a, b): (&f32, &f32)| (a - b).abs();
        let mean = expected.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
        let squares = expected
            .iter()
            .map(|value| (f64::from(*value) - mean).powi(2));
        Some(Self {
            largest: pairs().map(difference).fold(0.0, f32::max),
            mean: (pairs().map(|pair| f64::from(difference(pair))).sum::<f64>() / count) as f32,
            spread: (squares.sum::<f64>() / count).sqrt() as f32,
        })
    }

    /// Whether the differences are those of another order of sums, or of another machine, and not of other weights: within a
    /// hundredth of the spread in the mean, and a fifth at one place.
    pub fn agrees(&self) -> bool {
        self.mean <= 0.01 * self.spread && self.largest <= 0.2 * self.spread
    }
}

impl std::fmt::Display for Projector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Projector::Bundle => f.write_str("the bundle's projector"),
            Projector::Seed(seed) => write!(f, "the projector of seed {seed}"),
        }
    }
}

fn embedders(bundle: &Bundle) -> Result<Vec<(Projector, ImageEmbedder)>, BundleError> {
    let stage = Stage::Embedding;
    let config: EmbeddingComponent = bundle.config(stage)?;
    let own = bundle
        .weights(stage, WEIGHTS)?
        .var_builder(DType::F32, &Device::Cpu);
    let load = |weights| ImageEmbedder::new(&config, weights).map_err(bundle.model_error(stage));
    let mut embedders = vec![(Projector::Bundle, load(own.clone())?)];
    let (input, output) = (2 * config.vision.vit_dim, config.vision.joint_feature_size);
    let seeds = matches!(config.connector, Connector::QFormer { .. })
        && projector_seed::fits(input, output);
    for seed in [TRAINING_SEED, DEMO_SEED].into_iter().filter(|_| seeds) {
        let projector =
            projector_seed::weights(seed, &Device::Cpu).map_err(bundle.model_error(stage))?;
        let other = OtherProjector {
            projector,
            rest: own.clone(),
        };
        let weights = VarBuilder::from_backend(Box::new(other), DType::F32, Device::Cpu);
        embedders.push((Projector::Seed(seed), load(weights)?));
    }
    Ok(embedders)
}

/// Weights with the projector of a seed.
struct OtherProjector {
    projector: VarBuilder<'static>,
    rest: VarBuilder<'static>,
}

impl OtherProjector {
    fn place<'a>(&self, name: &'a str) -> (&VarBuilder<'static>, &'a str) {
        match name.strip_prefix(PROJECTOR) {
            // Below `projector.`, which is a part of the seed's names, too.
            Some(_) => (&self.projector, &name["visual_encoder.".len()..]),
            None => (&self.rest, name),
        }
    }
}

impl SimpleBackend for OtherProjector {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        _: &Device,
    ) -> CandleResult<Tensor> {
        let (weights, name) = self.place(name);
        weights.get_with_hints_dtype(shape, name, init, dtype)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, _: &Device) -> CandleResult<Tensor> {
        let (weights, name) = self.place(name);
        weights.get_unchecked_dtype(name, dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        let (weights, name) = self.place(name);
        weights.contains_tensor(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_agrees_and_other_weights_do_not() {
        let expected: Vec<f32> = (0..1000).map(|i| (i as f32).sin()).collect();
        let moved = |by: f32| -> Vec<f32> { expected.iter().map(|value| value + by).collect() };
        assert!(Distance::between(&moved(1e-4), &expected).unwrap().agrees());
        assert!(!Distance::between(&moved(0.1), &expected).unwrap().agrees());
        assert!(Distance::between(&expected[1..], &expected).is_none());
    }
}
