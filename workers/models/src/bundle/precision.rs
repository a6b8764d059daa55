//! The numbers that a component computes from, where they are to be others than those it is stored in. They change its outputs,
//! so a choice becomes part of the component's configuration, and of the hash by which outputs are named.

use std::fmt;
use std::str::FromStr;

use candle_core::DType;
use radialog_schemas::Stage;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::weight_types::WeightTypes;

/// The field of a component's configuration.
const FIELD: &str = "precision";

/// The numbers that the matrices of a component are in memory, by the name that the command line has for them. Sums are in f32
/// on a CPU, whatever these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Precision {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Half precision with the range of f32.
    Bf16,
    /// The quantised types that the bundle has them in.
    Quantised(WeightTypes),
}

/// A precision for one stage, or for every stage that can have it: `bf16`, or `language=bf16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrecisionChoice {
    stage: Option<Stage>,
    precision: Precision,
}

impl PrecisionChoice {
    /// Single precision for every stage.
    pub const F32: Self = Self {
        stage: None,
        precision: Precision::F32,
    };
}

/// A choice that a bundle cannot honour.
#[derive(Debug, thiserror::Error)]
pub enum PrecisionError {
    /// A word that is no precision.
    #[error("'{0}' is no precision: give one of {all}", all = Precision::names())]
    Unknown(String),
    /// A stage that is none.
    #[error(
        "'{0}' is no stage: give embedding, findings, language or scoring, as in language=bf16"
    )]
    UnknownStage(String),
    /// A stage that computes in f32 and bf16 only.
    #[error("the {stage} stage computes in f32 or bf16 only, not in {precision}")]
    Stage {
        /// The stage.
        stage: Stage,
        /// What was chosen.
        precision: Precision,
    },
    /// Two choices for one stage.
    #[error("{0} and {1} are both given: give one for each stage, or one for all")]
    Twice(PrecisionChoice, PrecisionChoice),
    /// No stage of the bundle can have it, or the stage is not in the bundle.
    #[error("the bundle has no stage for precision {0}: leave it out")]
    NoStage(PrecisionChoice),
}

impl Precision {
    const NUMBERS: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// The type of numbers; none for blocks.
    pub fn dtype(self) -> Option<DType> {
        match self {
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::Bf16 => Some(DType::BF16),
            Self::Quantised(_) => None,
        }
    }

    /// Whether a stage has it.
    fn is_for(self, stage: Stage) -> bool {
        stage == Stage::Language || matches!(self, Self::F32 | Self::Bf16)
    }

    /// What the configuration of a component says for the networks of an image or of CheXbert; f32 where it says nothing.
    ///
    /// # Errors
    /// A word that is no precision, or one that these networks do not have.
    pub(super) fn of_network(stage: Stage, config: &Value) -> Result<Self, PrecisionError> {
        let Some(stored) = config.get(FIELD) else {
            return Ok(Self::F32);
        };
        let name = stored
            .as_str()
            .map_or_else(|| stored.to_string(), str::to_owned);
        let precision: Self = name.parse()?;
        match precision.is_for(stage) {
            true => Ok(precision),
            false => Err(PrecisionError::Stage { stage, precision }),
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        let quantised = WeightTypes::ALL.map(Self::Quantised);
        Self::NUMBERS.into_iter().chain(quantised)
    }

    fn names() -> String {
        let names: Vec<String> = Self::all().map(|one| one.to_string()).collect();
        names.join(", ")
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Quantised(types) => types.name(),
        })
    }
}

impl FromStr for Precision {
    type Err = PrecisionError;

    fn from_str(name: &str) -> Result<Self, PrecisionError> {
        Self::all()
            .find(|one| one.to_string() == name)
            .ok_or_else(|| PrecisionError::Unknown(name.to_owned()))
    }
}

impl TryFrom<String> for Precision {
    type Error = PrecisionError;

    fn try_from(name: String) -> Result<Self, PrecisionError> {
        name.parse()
    }
}

impl From<Precision> for String {
    fn from(precision: Precision) -> Self {
        precision.to_string()
    }
}

impl PrecisionChoice {
    /// The choices in the order in which they apply: what is for every stage, then what names its stage.
    ///
    /// # Errors
    /// Two for every stage, or two for one.
    pub fn in_order(choices: &[Self]) -> Result<Vec<Self>, PrecisionError> {
        for (place, &choice) in choices.iter().enumerate() {
            let mut others = choices[..place].iter();
            if let Some(&other) = others.find(|other| other.stage == choice.stage) {
                return Err(PrecisionError::Twice(other, choice));
            }
        }
        let mut ordered = choices.to_vec();
        ordered.sort_by_key(|choice| choice.stage.is_some());
        Ok(ordered)
    }

    /// Checks that a worker of this stage has a use for it. A choice that names its stage may be meant for others.
    ///
    /// # Errors
    /// A stage that computes in others only.
    pub fn check(self, stage: Stage) -> Result<(), PrecisionError> {
        let precision = self.precision;
        match self.stage.is_some() || precision.is_for(stage) {
            true => Ok(()),
            false => Err(PrecisionError::Stage { stage, precision }),
        }
    }

    /// Writes it into the configuration of a stage's component, and says whether it is for this stage.
    pub(super) fn apply(self, stage: Stage, config: &mut Value) -> bool {
        let is_for = self.stage.is_none_or(|own| own == stage) && self.precision.is_for(stage);
        if is_for && let Some(config) = config.as_object_mut() {
            // What a configuration of these stages does not name is f32, and outputs keep the names that they have.
            if stage != Stage::Language && self.precision == Precision::F32 {
                config.remove(FIELD);
            } else {
                config.insert(FIELD.to_owned(), self.precision.to_string().into());
            }
        }
        is_for
    }
}

impl fmt::Display for PrecisionChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stage {
            Some(stage) => write!(f, "{stage}={}", self.precision),
            None => self.precision.fmt(f),
        }
    }
}

impl FromStr for PrecisionChoice {
    type Err = PrecisionError;

    fn from_str(text: &str) -> Result<Self, PrecisionError> {
        let (stage, precision) = match text.split_once('=') {
            None => (None, text.parse()?),
            Some((name, precision)) => {
                let stage = Stage::ALL.into_iter().find(|stage| stage.name() == name);
                let stage = stage.ok_or_else(|| PrecisionError::UnknownStage(name.to_owned()))?;
                (Some(stage), precision.parse::<Precision>()?)
            }
        };
        if let Some(stage) = stage.filter(|&stage| !precision.is_for(stage)) {
            return Err(PrecisionError::Stage { stage, precision });
        }
        Ok(Self { stage, precision })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_a_stage_counts_wherever_it_stands_and_none_is_named_twice() {
        let ordered = |text: &str| {
            let choices: Vec<PrecisionChoice> =
                text.split(',').map(|one| one.parse().unwrap()).collect();
            let ordered = PrecisionChoice::in_order(&choices).map_err(|error| error.to_string())?;
            Ok::<_, String>(ordered.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let both = ["bf16", "language=q8_0"].map(str::to_owned).to_vec();
        assert_eq!(ordered("bf16,language=q8_0"), Ok(both.clone()));
        assert_eq!(ordered("language=q8_0,bf16"), Ok(both));
        for text in [
            "language=f32,language=bf16",
            "f32,bf16",
            "bf16,findings=f32,bf16",
        ] {
            assert!(
                ordered(text).unwrap_err().contains("are both given"),
                "{text}"
            );
        }
    }

    #[test]
    fn choices_are_read_as_they_are_written_and_what_no_stage_has_is_refused() {
        for text in ["f32", "bf16", "q4_k_m", "language=q8_0", "findings=f32"] {
            let choice: PrecisionChoice = text.parse().unwrap();
            assert_eq!(choice.to_string(), text);
        }
        for (text, words) in [
            ("fp16", "f32, f16, bf16, q8_0, q6_k, q4_k_m, q4_0"),
            ("speech=f32", "'speech' is no stage"),
            (
                "findings=q8_0",
                "findings stage computes in f32 or bf16 only",
            ),
            ("language=", "'' is no precision"),
        ] {
            let error = text.parse::<PrecisionChoice>().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_worker_refuses_what_its_stage_cannot_have_unless_it_is_meant_for_another() {
        let check = |text: &str, stage| text.parse::<PrecisionChoice>().unwrap().check(stage);
        assert!(check("q8_0", Stage::Language).is_ok());
        assert!(check("q8_0", Stage::Findings).is_err());
        assert!(check("language=q8_0", Stage::Findings).is_ok());
        assert!(check("f32", Stage::Findings).is_ok());
        assert!(check("bf16", Stage::Findings).is_ok());
        assert!(check("f16", Stage::Scoring).is_err());
    }

    #[test]
    fn an_image_stage_in_bf16_is_another_component_and_in_f32_the_same() {
        let of = |config: &Value| Precision::of_network(Stage::Embedding, config);
        let stored = serde_json::json!({"vision": {}});
        let mut config = stored.clone();
        let choice = |text: &str| text.parse::<PrecisionChoice>().unwrap();
        assert!(choice("f32").apply(Stage::Embedding, &mut config));
        assert!(!choice("findings=bf16").apply(Stage::Embedding, &mut config));
        assert_eq!(config, stored);
        assert_eq!(of(&config).unwrap(), Precision::F32);
        assert!(choice("bf16").apply(Stage::Embedding, &mut config));
        assert_ne!(config, stored);
        assert_eq!(of(&config).unwrap(), Precision::Bf16);
        assert!(choice("embedding=f32").apply(Stage::Embedding, &mut config));
        assert_eq!(config, stored);
        assert!(of(&serde_json::json!({"precision": "q8_0"})).is_err());
    }
}
