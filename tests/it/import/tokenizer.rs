//! SentencePiece's own file gives the ids that the published program's tokenizer gave.

use anyhow::{Context, Result, ensure};
use radialog_models::tokenizers::{LlamaTokenizer, sentencepiece};
use radialog_tests::golden;

use crate::parity;

#[test]
fn a_sentencepiece_file_gives_every_recorded_id() -> Result<()> {
    for root in golden::roots()? {
        let path = root.join("tokenizers/llama/tokenizer.model");
        if !path.is_file() {
            continue;
        }
        let json = sentencepiece::to_json(&std::fs::read(&path)?)?;
        let ours = LlamaTokenizer::from_json(&json)?;
        ensure!((ours.len(), ours.image_id()) == (32_001, 32_000));
        let cases = golden::cases(&root)?;
        let case = cases.iter().find(|case| case.kind() == "tokenizers");
        parity::tokenizers::check_texts(case.context("no case of tokenizers")?, &ours)?;
    }
    Ok(())
}
