//! The trees that people have: v1's in both spellings of its README and code, v2's model folder, and what is not whole.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use radialog_models::bundle::import::{ImportParts, find_parts};

/// Empty files: only names matter to the search.
fn tree(files: &[&str]) -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        fs::write(path, b"")?;
    }
    Ok(dir)
}

fn find(dir: &tempfile::TempDir) -> Result<(ImportParts, Vec<String>)> {
    Ok(find_parts(dir.path(), ImportParts::default())?)
}

const FINDINGS: &str =
    "findings_classifier/checkpoints/chexpert_train/ChexpertClassifier-epoch=06-val_f1=0.36.ckpt";
const CHEXBERT: &str = "chexbert/src/checkpoint/chexbert.pth";
const RG: &str = "checkpoints/vicuna-7b-img-report/checkpoint-11200";
const INS: &str = "checkpoints/vicuna-7b-img-instruct/checkpoint-4800";

#[test]
fn the_tree_of_v1_is_found_in_both_of_its_spellings() -> Result<()> {
    for outputs in ["pretraining/outputs", "outputs"] {
        let alignment = format!("{outputs}/stage1_pt_instruct_blip_origlr_img448/checkpoint_4.pth");
        let dir = tree(&[
            "biovil_t_image_model_proj_size_128.pt",
            &alignment,
            FINDINGS,
            CHEXBERT,
            "chexbert/bert-base-uncased/vocab.txt",
            &format!("{RG}/adapter_config.json"),
            &format!("{RG}/adapter_model.bin"),
            &format!("{INS}/adapter_config.json"),
            &format!("{INS}/adapter_model.bin"),
            "vicuna-7b-v1.3/config.json",
            "vicuna-7b-v1.3/pytorch_model.bin.index.json",
            "vicuna-7b-v1.3/tokenizer.model",
            "vicuna_prompts.json",
            ".git/config.json",
        ])?;
        let at = |path: &str| Some(dir.path().join(path));
        let adapters = [("rg", RG), ("ins", INS)]
            .map(|(name, path)| (name.parse().unwrap(), dir.path().join(path)));
        let expected = ImportParts {
            biovil: at("biovil_t_image_model_proj_size_128.pt"),
            alignment: at(&alignment),
            findings: at(FINDINGS),
            chexbert: at(CHEXBERT),
            base: at("vicuna-7b-v1.3"),
            adapters: adapters.into(),
            non_lora: None,
            tokenizer: None,
            bert_vocab: at("chexbert/bert-base-uncased/vocab.txt"),
            prompts: at("vicuna_prompts.json"),
        };
        let (mut parts, notes) = find(&dir)?;
        parts.adapters.sort_by(|one, other| other.0.cmp(&one.0));
        assert_eq!((parts, notes), (expected, Vec::new()));
    }
    Ok(())
}

#[test]
fn the_model_folder_of_v2_is_found_beside_its_base() -> Result<()> {
    let dir = tree(&[
        "radialog/adapter_config.json",
        "radialog/adapter_model.bin",
        "radialog/config.json",
        "radialog/non_lora_trainables.bin",
        "radialog/findings_classifier/checkpoints/chexpert_train/ChexpertClassifier.ckpt",
        "llava/config.json",
        "llava/model.safetensors.index.json",
        "llava/tokenizer.model",
    ])?;
    let (parts, notes) = find(&dir)?;
    assert!(notes.is_empty(), "{notes:?}");
    let names: Vec<PathBuf> = [&parts.base, &parts.non_lora, &parts.findings]
        .into_iter()
        .flatten()
        .map(|path| path.strip_prefix(dir.path()).unwrap().to_owned())
        .collect();
    let findings =
        "radialog/findings_classifier/checkpoints/chexpert_train/ChexpertClassifier.ckpt";
    assert_eq!(names, ["llava", "radialog", findings].map(PathBuf::from));
    assert_eq!(parts.adapters.len(), 1);
    Ok(())
}

#[test]
fn what_is_not_whole_is_left_out_with_its_reason() -> Result<()> {
    let dir = tree(&[
        "biovil_t_image_model_proj_size_128.pt",
        CHEXBERT,
        FINDINGS,
        &format!("{RG}/adapter_config.json"),
        &format!("{RG}/adapter_model.bin"),
    ])?;
    let (parts, notes) = find(&dir)?;
    assert_eq!(
        parts,
        ImportParts {
            findings: Some(dir.path().join(FINDINGS)),
            ..ImportParts::default()
        }
    );
    for (stage, flag) in [
        ("language", "--base"),
        ("scoring", "--bert-vocab"),
        ("embedding", "checkpoint_4.pth"),
    ] {
        let note = notes.iter().find(|note| note.starts_with(stage));
        assert!(
            note.is_some_and(|note| note.contains(flag)),
            "{stage}: {notes:?}"
        );
    }
    Ok(())
}

#[test]
fn two_files_that_could_be_one_part_are_both_named() -> Result<()> {
    let dir = tree(&["a/chexbert.pth", "b/chexbert.pth"])?;
    let error = find(&dir).unwrap_err().to_string();
    for words in ["a/chexbert.pth", "b/chexbert.pth", "--chexbert"] {
        assert!(error.contains(words), "{error}");
    }
    let given = ImportParts {
        chexbert: Some(dir.path().join("a/chexbert.pth")),
        bert_vocab: Some(dir.path().join("vocab.txt")),
        ..ImportParts::default()
    };
    assert_eq!(find_parts(dir.path(), given.clone())?.0, given);
    Ok(())
}
