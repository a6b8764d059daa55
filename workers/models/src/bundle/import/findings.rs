//! The findings classifier, from the checkpoint that Lightning wrote.

use radialog_schemas::Stage;
use safetensors::Dtype;

use super::error::ImportError;
use super::geometry::vision_of;
use super::parts::ImportParts;
use super::planned::{PlannedComponent, PlannedFile};
use super::reasons::why_not_of_biovil;
use super::report::ComponentReport;
use super::sources::Source;
use crate::bundle::components::{Component, FindingsComponent};
use crate::checkpoint::open_file;
use crate::findings::{FindingsConfig, TextRule};
use crate::vision::VisionConfig;

/// What the names of a bundle begin with; Lightning's do, too.
const NETWORK: &str = "model.";

/// The image encoder in it.
const ENCODER: &str = "model.biovil_encoder.";

/// The component that the parts make, if they make one.
pub(super) fn plan(
    parts: &ImportParts,
) -> Result<Option<(PlannedComponent, ComponentReport)>, ImportError> {
    let Some(path) = &parts.findings else {
        return Ok(None);
    };
    let file = open_file(path, &["state_dict", "model_state_dict"])?;
    let source = Source::new(path, file, |name| {
        let name = name.strip_prefix("module.").unwrap_or(name);
        let inner = name.strip_prefix(NETWORK).unwrap_or(name);
        Some(format!("{NETWORK}{inner}"))
    })?;
    let config = config(&source)?;
    let mut report = ComponentReport::new(Stage::Findings);
    report.geometry = format!(
        "image encoder of stem {}, {} channels, hidden layer of {}",
        config.vision.stem_width, config.vision.joint_feature_size, config.fc_hidden
    );
    let component = FindingsComponent {
        classifier: config,
        text_rule: TextRule::default(),
        calibration: None,
        assessed: None,
    };
    let weights = component.weights(Dtype::F32);
    let weights = weights.map_err(ImportError::geometry(path))?;
    let planned = PlannedComponent {
        stage: Stage::Findings,
        config: component.config(),
        files: PlannedFile::of_source(weights, &source)?,
        tokenizer: None,
        settings: Vec::new(),
    };
    source.report(&mut report, |name| match name.strip_prefix(ENCODER) {
        Some(inner) => why_not_of_biovil(inner),
        None => name
            .contains("pos_weight")
            .then_some("weights of the training's loss"),
    });
    Ok(Some((planned, report)))
}

fn config(source: &Source) -> Result<FindingsConfig, ImportError> {
    let published = FindingsConfig::published();
    let vision = vision_of(published.vision, |name| {
        source.shape(&format!("{ENCODER}{name}"))
    })?;
    let [joint_feature_size, ..] =
        source.shape::<4>(&format!("{ENCODER}projector.model.0.weight"))?;
    let vision = VisionConfig {
        joint_feature_size,
        ..vision
    };
    let [fc_hidden, inputs] = source.shape("model.fc1.weight")?;
    // The hidden layer reads a square of averaged patches.
    let grid = vision.trunk_grid();
    let side = (1..=grid).find(|side| joint_feature_size * side * side == inputs);
    let side = side.filter(|side| grid.is_multiple_of(*side)).ok_or_else(|| {
        let reason = format!(
            "its hidden layer has {inputs} inputs, which is no square of averages of {grid} x {grid} patches with \
             {joint_feature_size} channels"
        );
        ImportError::unusable(&source.path)(reason)
    })?;
    Ok(FindingsConfig {
        vision,
        pool: grid / side,
        fc_hidden,
    })
}
