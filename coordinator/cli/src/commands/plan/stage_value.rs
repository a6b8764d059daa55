//! Flags of the form `STAGE=VALUE`.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use radialog_schemas::{PerStage, Stage, StageSet};

use crate::exit::UsageError;

/// A value for one stage.
#[derive(Clone, Debug)]
pub(super) struct StageValue<T> {
    pub(super) stage: Stage,
    pub(super) value: T,
}

impl<T: FromStr> FromStr for StageValue<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (stage, value) = text
            .split_once('=')
            .ok_or_else(|| format!("'{text}' is not of the form STAGE=VALUE, e.g. language=2"))?;
        let stage = stage.parse()?;
        let value = value
            .parse()
            .map_err(|_| format!("'{value}' is no number"))?;
        Ok(Self { stage, value })
    }
}

/// The values that were given, each stage's once, for stages of the run only, and within these bounds.
pub(super) fn given<T: Copy + Display + PartialOrd>(
    flag: &str,
    values: &[StageValue<T>],
    bounds: RangeInclusive<T>,
    stages: &StageSet,
) -> Result<PerStage<Option<T>>, UsageError> {
    let mut given = PerStage::from_fn(|_| None);
    for StageValue { stage, value } in values {
        if !stages.contains(*stage) {
            return Err(UsageError(format!(
                "--{flag} {stage}: the run has no such stage"
            )));
        }
        if !bounds.contains(value) {
            return Err(UsageError(format!(
                "--{flag} {stage}={value} is not from {} to {}",
                bounds.start(),
                bounds.end()
            )));
        }
        if given.get_mut(*stage).replace(*value).is_some() {
            return Err(UsageError(format!("--{flag} names {stage} twice")));
        }
    }
    Ok(given)
}

/// The same, with a value for what was not given.
pub(super) fn by_stage<T: Copy + Display + PartialOrd>(
    flag: &str,
    values: &[StageValue<T>],
    bounds: RangeInclusive<T>,
    stages: &StageSet,
    otherwise: T,
) -> Result<PerStage<T>, UsageError> {
    let given = given(flag, values, bounds, stages)?;
    Ok(PerStage::from_fn(|stage| {
        given.get(stage).unwrap_or(otherwise)
    }))
}
