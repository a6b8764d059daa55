//! The language side alone: the grids of images come from the formula.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use radialog_models::language::{LanguageModel, LlamaConfig, LoraAdapter, LoraConfig};
use radialog_models::tokenizers::{BlankRule, ImageRule, TokenizerRules};
use radialog_tests::golden::{Case, Formula, FormulaWeights};
use serde::Deserialize;

use super::{Speaker, close, entries, llama, placed, tokenizer, tokens};

/// Ids of written texts under each rule, by name.
#[derive(Deserialize)]
struct Tokenization {
    texts: BTreeMap<String, String>,
    legacy_true: BTreeMap<String, Vec<i64>>,
    legacy_false: BTreeMap<String, Vec<i64>>,
    legacy_false_in_transformers_4_35_where_different: BTreeMap<String, Vec<i64>>,
}

/// The weights of several manifests; a tensor is in one of them.
struct Together(Vec<FormulaWeights>);

impl SimpleBackend for Together {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.part(name)?.get(shape, name, init, dtype, device)
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.part(name)?.get_unchecked(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.part(name).is_ok()
    }
}

impl Together {
    fn part(&self, name: &str) -> candle_core::Result<&FormulaWeights> {
        let found = self.0.iter().find(|part| part.contains_tensor(name));
        found.ok_or_else(|| candle_core::Error::msg(format!("no manifest has '{name}'")))
    }
}

/// The language model of a case, with its adapter and projector.
pub(super) fn load(case: &Case, config: &LlamaConfig) -> Result<LanguageModel> {
    let seed = case.field("/weights/seed")?;
    let open = |manifest| FormulaWeights::open(case.dir(), manifest, seed);
    let base = Together(vec![
        open("weights_manifest.json")?,
        open("projector_manifest.json")?,
    ]);
    let base = VarBuilder::from_backend(Box::new(base), DType::F32, Device::Cpu);
    let lora = LoraConfig {
        r: case.field("/config/lora/r")?,
        lora_alpha: case.field("/config/lora/alpha")?,
        target_modules: case.field("/config/lora/target_modules")?,
    };
    let adapter = Box::new(open("adapter_manifest.json")?);
    let adapter = VarBuilder::from_backend(adapter, DType::F32, Device::Cpu);
    let adapter = LoraAdapter::new(lora, adapter);
    Ok(LanguageModel::load(config, &base, Some(&adapter))?)
}

/// The geometry of a case's language model.
pub(super) fn geometry(case: &Case) -> Result<LlamaConfig> {
    llama(case, case.field("/config/tower_width")?)
}

/// The rules that a case was recorded with.
pub(super) fn rules(case: &Case) -> Result<TokenizerRules> {
    Ok(TokenizerRules::v2(case.field("/config/tokenizer_legacy")?))
}

/// Holds prompts, ids, states, logits and answers.
pub(in super::super) fn check(case: &Case) -> Result<()> {
    check_tokenization(case)?;
    let load = |config: &LlamaConfig| load(case, config);
    let speaker = Speaker::new(&geometry(case)?, &load)?;
    let tokenizer = tokenizer(case, rules(case)?)?;
    let file: String = case.field("/inputs/tokens")?;
    let entries = entries(case, &file)?;
    let pattern: Formula = case.field("/inputs/grids")?;
    let count = entries.values().flat_map(|entry| &entry.images).max();
    let images = (0..=*count.context("no grids")?).map(|place| {
        let name = pattern.name.replace("<i>", &place.to_string());
        tokens(
            &Formula {
                name,
                ..pattern.clone()
            }
            .tensor()?,
        )
    });
    let images: Vec<Tensor> = images.collect::<Result<_>>()?;
    for (name, recorded) in case.tensors("outputs.safetensors")? {
        let (entry, quantity) = name.split_once('.').context("an output of nothing")?;
        if entry == "projected" {
            let projected = speaker.projected(&images[quantity.parse::<usize>()?])?;
            close(case, &name, &projected, &recorded)?;
            continue;
        }
        let entry = entries.get(entry).with_context(|| name.clone())?;
        let rows = entry.rows(speaker.config(), &images)?;
        let actual = speaker
            .output(entry, &rows, quantity, &recorded)
            .with_context(|| name.clone())?;
        close(case, &name, &actual, &recorded)?;
    }
    for (name, entry) in &entries {
        let rows = entry.rows(speaker.config(), &images)?;
        entry
            .check_prompts(&rows, &tokenizer)
            .and_then(|()| speaker.check_answers(entry, &rows, Some(&tokenizer)))
            .with_context(|| format!("'{name}'"))?;
    }
    Ok(())
}

/// Holds the ids of every text under all three rules.
fn check_tokenization(case: &Case) -> Result<()> {
    let config = geometry(case)?;
    let recorded: Tokenization = case.json("tokenization.json")?;
    let newest = &recorded.legacy_false_in_transformers_4_35_where_different;
    let rules = [BlankRule::Added, BlankRule::TakenAgain, BlankRule::Absent];
    let tokenizers = rules.map(|after_special| {
        let image = ImageRule::Marker;
        tokenizer(
            case,
            TokenizerRules {
                image,
                after_special,
            },
        )
    });
    let [added, taken_again, absent] = tokenizers;
    let (added, taken_again, absent) = (added?, taken_again?, absent?);
    for (name, text) in &recorded.texts {
        let false_ids = recorded.legacy_false.get(name).context("no ids")?;
        let cases = [
            (&added, recorded.legacy_true.get(name).context("no ids")?),
            (&taken_again, false_ids),
            (&absent, newest.get(name).unwrap_or(false_ids)),
        ];
        for (rule, (tokenizer, expected)) in rules.iter().zip(cases) {
            let (ids, expected) = (tokenizer.encode(text)?, placed(expected, &config)?);
            ensure!(
                ids == expected,
                "{name} {rule:?}: {ids:?}, recorded {expected:?}"
            );
        }
    }
    Ok(())
}
