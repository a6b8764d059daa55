//! Generated report, and the radiologist's where there is one, to CheXbert labels.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use candle_core::Device;
use radialog_models::bundle::components::ReportLabeler;
use radialog_models::bundle::{Bundle, BundleError};
use radialog_models::comparisons::comparison_marks;
use radialog_runtime::objects::Objects;
use radialog_runtime::stage::{Feed, StageWork};
use radialog_schemas::{
    ComparisonMark, ContentHash, ErrorCode, Failure, GeneratedReport, Labels, ReportLabels, Stage,
    Task, Work,
};

use crate::{StageOptions, batch, input};

/// The scoring stage: reports to CheXbert labels, and to marks of what compares with an earlier image.
pub struct ScoringStage {
    component: ContentHash,
    labeler: Arc<ReportLabeler>,
    batch_limit: usize,
}

/// The texts of one study to label, as token ids of CheXbert's tokenizer, and what is found in the report itself.
pub struct EncodedReports {
    report: Vec<u32>,
    reference: Option<Vec<u32>>,
    comparisons: Vec<ComparisonMark>,
}

impl ScoringStage {
    /// Loads the scoring component onto the device.
    ///
    /// # Errors
    /// A component that is missing or does not load.
    pub fn load(
        bundle: &Bundle,
        device: &Device,
        options: &StageOptions,
    ) -> Result<Self, BundleError> {
        Ok(Self {
            component: bundle.manifest().component_hash(Stage::Scoring),
            labeler: Arc::new(ReportLabeler::load(bundle, device)?),
            batch_limit: options.batch_limit,
        })
    }

    fn label(&self, inputs: &[&EncodedReports]) -> Vec<Result<Bytes, Failure>> {
        let texts = |texts: &&EncodedReports| {
            std::iter::once(texts.report.clone()).chain(texts.reference.clone())
        };
        let flat: Vec<Vec<u32>> = inputs.iter().flat_map(texts).collect();
        let mut labels = match self.labeler.label(&flat) {
            Ok(labels) => labels.into_iter(),
            Err(error) => return vec![Err(Failure::from(error)); inputs.len()],
        };
        let mut next = || -> Result<Labels, Failure> {
            labels.next().ok_or_else(|| {
                Failure::new(ErrorCode::Model, "the labeler returned too few labels")
            })
        };
        let answer = |texts: &&EncodedReports| {
            let (report, reference) = (
                next()?,
                texts.reference.as_ref().map(|_| next()).transpose()?,
            );
            Ok(input::to_json(&ReportLabels {
                report,
                reference,
                comparisons: Some(texts.comparisons.clone()),
            }))
        };
        inputs.iter().map(answer).collect()
    }
}

#[async_trait]
impl StageWork for ScoringStage {
    type Input = EncodedReports;

    fn stage(&self) -> Stage {
        Stage::Scoring
    }

    fn component(&self) -> &ContentHash {
        &self.component
    }

    fn batch_limit(&self) -> usize {
        self.batch_limit
    }

    async fn fetch(&self, task: &Task, objects: &dyn Objects) -> Result<EncodedReports, Failure> {
        let Work::Scoring { report, reference } = &task.work else {
            return Err(input::wrong_stage(Stage::Scoring));
        };
        let report: GeneratedReport = input::fetch_json(objects, report).await?;
        let reference = match reference {
            None => None,
            Some(key) => Some((key.clone(), input::fetch_object(objects, key).await?)),
        };
        let labeler = self.labeler.clone();
        input::compute(move || {
            let encode = |text: &str| {
                labeler
                    .encode(text)
                    .map_err(|error| Failure::new(ErrorCode::Model, error))
            };
            let reference = reference.map(|(key, text)| {
                encode(std::str::from_utf8(&text).map_err(|error| input::corrupt(&key, error))?)
            });
            Ok(EncodedReports {
                report: encode(&report.text)?,
                reference: reference.transpose()?,
                comparisons: comparison_marks(&report.text),
            })
        })
        .await
    }

    fn run(&self, feed: &mut dyn Feed<EncodedReports>) {
        batch::run_batches(feed, self.batch_limit, |inputs| self.label(inputs));
    }
}
