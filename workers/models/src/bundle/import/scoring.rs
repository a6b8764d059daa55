//! CheXbert with its vocabulary.

use std::fs;
use std::path::{Path, PathBuf};

use radialog_schemas::Stage;
use safetensors::Dtype;

use super::error::ImportError;
use super::geometry::heads;
use super::parts::ImportParts;
use super::planned::{PlannedComponent, PlannedFile};
use super::report::ComponentReport;
use super::sources::Source;
use crate::bundle::components::{Component, ScoringComponent};
use crate::checkpoint::open_file;
use crate::chexbert::ChexbertConfig;
use crate::tokenizers::{BertTokenizer, file};

/// What the names of a bundle begin with; those of training on several cards do, too.
const NETWORK: &str = "module.";

/// Special tokens of BERT.
const SPECIALS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// The component that the parts make, if they make one.
pub(super) fn plan(
    parts: &ImportParts,
) -> Result<Option<(PlannedComponent, ComponentReport)>, ImportError> {
    let Some(path) = &parts.chexbert else {
        return Ok(None);
    };
    let vocabulary = parts.bert_vocab.as_ref().ok_or_else(|| {
        let reason = "CheXbert reads texts by the vocabulary of bert-base-uncased, which is not in this file: give its \
                      vocab.txt or tokenizer.json (--bert-vocab)";
        ImportError::unusable(path)(reason)
    })?;
    let file = open_file(path, &["model_state_dict", "state_dict"])?;
    let source = Source::new(path, file, |name| {
        let inner = name.strip_prefix(NETWORK).unwrap_or(name);
        Some(format!("{NETWORK}{inner}"))
    })?;
    let chexbert = config(&source)?;
    let (json, tokens, vocabulary) = tokenizer(vocabulary)?;
    if tokens != chexbert.vocab_size {
        let reason = format!(
            "it has {tokens} tokens and CheXbert {}: it is of another model",
            chexbert.vocab_size
        );
        return Err(ImportError::unusable(&vocabulary)(reason));
    }
    let mut report = ComponentReport::new(Stage::Scoring);
    report.geometry = format!(
        "BERT of {} layers and width {}, {tokens} tokens",
        chexbert.num_hidden_layers, chexbert.hidden_size
    );
    let component = ScoringComponent { chexbert };
    let weights = component.weights(Dtype::F32);
    let weights = weights.map_err(ImportError::geometry(path))?;
    let planned = PlannedComponent {
        stage: Stage::Scoring,
        config: component.config(),
        files: PlannedFile::of_source(weights, &source)?,
        tokenizer: component.tokenizer().map(|name| (name, json)),
        settings: vec![vocabulary.clone()],
    };
    source.report(&mut report, |name| {
        let unread = [
            (
                "pooler",
                "BERT's own summary of a text, which CheXbert does not read",
            ),
            ("position_ids", "numbers that are counted"),
        ];
        let found = unread.into_iter().find(|(part, _)| name.contains(part));
        found.map(|(_, why)| why)
    });
    report.used.push((vocabulary, format!("{tokens} tokens")));
    Ok(Some((planned, report)))
}

fn config(source: &Source) -> Result<ChexbertConfig, ImportError> {
    let published = ChexbertConfig::published();
    let embeddings = "module.bert.embeddings";
    let layers = "module.bert.encoder.layer";
    let [vocab_size, hidden_size] =
        source.shape(&format!("{embeddings}.word_embeddings.weight"))?;
    let [max_position_embeddings, _] =
        source.shape(&format!("{embeddings}.position_embeddings.weight"))?;
    let [intermediate_size, _] = source.shape(&format!("{layers}.0.intermediate.dense.weight"))?;
    Ok(ChexbertConfig {
        vocab_size,
        hidden_size,
        num_hidden_layers: source.layers(layers),
        num_attention_heads: heads(
            source,
            hidden_size,
            (published.hidden_size, published.num_attention_heads),
        )?,
        intermediate_size,
        max_position_embeddings,
        ..published
    })
}

/// The content of a `tokenizer.json`, how many tokens it has, and the file that it was read from.
fn tokenizer(path: &Path) -> Result<(String, usize, PathBuf), ImportError> {
    let path = match path.is_dir() {
        true => {
            let names = ["vocab.txt", "tokenizer.json"].map(|name| path.join(name));
            let found = names.into_iter().find(|file| file.is_file());
            found.ok_or_else(|| {
                ImportError::unusable(path)("it has neither vocab.txt nor tokenizer.json")
            })?
        }
        false => path.to_owned(),
    };
    let text = fs::read_to_string(&path).map_err(ImportError::unusable(&path))?;
    let json = match path.extension().is_some_and(|end| end == "json") {
        true => text,
        false => {
            let pieces: Vec<String> = text.lines().map(str::to_owned).collect();
            let mut seen = std::collections::HashSet::new();
            if let Some(piece) = pieces.iter().find(|piece| !seen.insert(piece.as_str())) {
                let reason = format!("it has '{piece}' twice");
                return Err(ImportError::unusable(&path)(reason));
            }
            file::bert(&pieces, &SPECIALS)
        }
    };
    let tokenizer = BertTokenizer::from_json(&json).map_err(ImportError::tokenizer(&path))?;
    Ok((json, tokenizer.len(), path))
}
