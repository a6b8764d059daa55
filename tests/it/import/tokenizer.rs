//! SentencePiece's own file gives the ids that the published program's tokenizer gave.
#![expect(clippy::print_stdout, reason = "whether it ran is this test's result")]

use std::process::Command;

use anyhow::{Context, Result, ensure};
use radialog_models::tokenizers::{LlamaTokenizer, sentencepiece};
use radialog_tests::benchmark::{peer_python, run};
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

/// Says that the comparison with the Python library is wanted.
const VARIABLE: &str = "RADIALOG_SENTENCEPIECE";
/// What is installed: the version that the published programs name, where it has a wheel, is 0.1.98.
const PACKAGES: [&str; 1] = ["sentencepiece==0.1.99"];
/// Reads a model's path and a list of texts, and prints their ids. It encodes as the slow tokenizer does.
const REFERENCE: &str = "import sys, json, sentencepiece as s
p = s.SentencePieceProcessor(model_file=sys.argv[1])
print(json.dumps([p.encode(t) for t in json.load(open(sys.argv[2]))]))";
/// Texts that are compared.
const TEXTS: usize = 20_000;

#[test]
fn generated_texts_have_the_ids_of_the_python_library() -> Result<()> {
    if std::env::var_os(VARIABLE).is_none() {
        println!("not run: set {VARIABLE}=1 where sentencepiece may be installed");
        return Ok(());
    }
    let roots = golden::roots()?;
    let models = roots
        .iter()
        .map(|root| root.join("tokenizers/llama/tokenizer.model"));
    let model = models
        .into_iter()
        .find(|path| path.is_file())
        .context("no tokenizer.model")?;
    let ours = LlamaTokenizer::from_json(&sentencepiece::to_json(&std::fs::read(&model)?)?)?;
    let texts: Vec<String> = (0..TEXTS as u64).map(generated).collect();
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("texts.json");
    std::fs::write(&file, serde_json::to_vec(&texts)?)?;
    let python = peer_python("sentencepiece", &PACKAGES)?;
    let ids = run(Command::new(python)
        .args(["-c", REFERENCE])
        .arg(&model)
        .arg(&file))?;
    let ids: Vec<Vec<u32>> = serde_json::from_str(&ids)?;
    for (text, ids) in texts.iter().zip(&ids) {
        ensure!(
            ours.encode_plain(text)? == *ids,
            "{text:?} has the ids {ids:?}"
        );
    }
    println!("{} texts have the ids of sentencepiece", texts.len());
    Ok(())
}

/// A text of words, runs of blanks and signs, digits, line ends, and characters of all planes.
fn generated(seed: u64) -> String {
    const WORDS: [&str; 16] = [
        "the",
        "heart",
        "effusion",
        "No",
        "pneumothorax.",
        "Cardiomediastinal",
        "x-ray",
        "USER:",
        "</s",
        "<unk",
        "aaaa",
        "IMG>",
        "naïve",
        "Ödem",
        "心臓",
        "рентген",
    ];
    const SIGNS: [char; 12] = [
        ' ', ' ', '\n', '\t', '=', '-', '.', '_', '#', '*', '\u{a0}', '\u{2581}',
    ];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = |end: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % end
    };
    let mut text = String::new();
    for _ in 0..next(12) {
        match next(5) {
            0 | 1 => text += WORDS[next(16) as usize],
            2 => {
                let sign = SIGNS[next(12) as usize];
                let run = 1 + next(20);
                (0..run).for_each(|_| text.push(sign));
            }
            3 => text += &next(1_000_000).to_string(),
            // A NUL ends a text for some readers of it.
            _ => text.extend(char::from_u32(1 + next(0x10_fffe) as u32)),
        }
        if next(3) > 0 {
            text.push(' ');
        }
    }
    text
}
