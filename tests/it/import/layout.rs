//! The trees that people have: v1's in both spellings of its README and code, v2's model folder, and what is not whole.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use radialog_models::bundle::import::{Import, ImportPart, ImportParts, PartSelection, find_parts};
use radialog_models::bundle::{Geometry, System};
use radialog_tests::patience::InTime;
use radialog_tests::processes::radialog;
use radialog_tests::release::{Release, write_release};
use radialog_tests::torch_file::{TorchFormat, TorchTensor, TorchType, write_torch};

use super::options;

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
    Ok(find_parts(
        dir.path(),
        ImportParts::default(),
        &PartSelection::default(),
    )?)
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
    assert_eq!(
        find_parts(dir.path(), given.clone(), &PartSelection::default())?.0,
        given
    );
    Ok(())
}

/// The files of an adapter of v1 in a folder.
fn adapter(folder: &str) -> [String; 2] {
    ["adapter_config.json", "adapter_model.bin"].map(|name| format!("{folder}/{name}"))
}

#[test]
fn the_other_adapter_of_v1_is_taken_beside_one_that_is_named_and_the_rest_is_said() -> Result<()> {
    let older = "checkpoints/vicuna-7b-img-report/checkpoint-9000";
    let files = [RG, INS, older].map(adapter).concat();
    let mut files: Vec<&str> = files.iter().map(String::as_str).collect();
    files.extend([
        "vicuna/config.json",
        "vicuna/model.safetensors",
        "vicuna/tokenizer.model",
    ]);
    let dir = tree(&files)?;
    let given = |name: &str| -> Result<ImportParts> {
        Ok(ImportParts {
            adapters: vec![(name.parse()?, dir.path().join(RG))],
            ..ImportParts::default()
        })
    };
    let error = find(&dir).unwrap_err().to_string();
    assert!(error.contains("--adapter NAME=DIR"), "{error}");
    let (parts, notes) = find_parts(dir.path(), given("rg")?, &PartSelection::default())?;
    let names: Vec<&str> = parts
        .adapters
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["rg", "ins"]);
    assert!(
        notes.len() == 1 && notes[0].contains("checkpoint-9000"),
        "{notes:?}"
    );
    let (parts, notes) = find_parts(dir.path(), given("mine")?, &PartSelection::default())?;
    assert_eq!((parts.adapters.len(), notes.len()), (1, 2), "{notes:?}");
    Ok(())
}

#[test]
fn a_linked_folder_is_followed_once_and_a_circle_ends() -> Result<()> {
    let elsewhere = tree(&["config.json", "model.safetensors", "tokenizer.model"])?;
    let dir = tree(&[FINDINGS])?;
    let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, dir.path().join(name));
    link(elsewhere.path(), "vicuna-7b-v1.3")?;
    link(elsewhere.path(), "the-same-again")?;
    link(dir.path(), "circle")?;
    let (parts, notes) = find(&dir)?;
    assert!(notes.is_empty(), "{notes:?}");
    let base = parts.base.unwrap();
    assert_eq!(base.canonicalize()?, elsewhere.path().canonicalize()?);
    assert_eq!(parts.findings, Some(dir.path().join(FINDINGS)));
    Ok(())
}

#[test]
fn a_folder_that_is_not_there_or_a_file_is_named_as_such() -> Result<()> {
    let dir = tree(&[FINDINGS])?;
    for (path, words) in [("nowhere", "no such folder"), (FINDINGS, "it is a file")] {
        let error = find_parts(
            &dir.path().join(path),
            ImportParts::default(),
            &PartSelection::default(),
        );
        let error = error.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    Ok(())
}

#[test]
fn v1s_alignment_without_an_image_encoder_is_left_out_with_its_reason() -> Result<()> {
    let dir = tree(&[FINDINGS])?;
    let alignment = dir.path().join("checkpoint_4.pth");
    let tensors = [TorchTensor {
        name: "Qformer.bert.embeddings.LayerNorm.weight".into(),
        shape: vec![1],
        dtype: TorchType::Float,
    }];
    write_torch(
        &alignment,
        TorchFormat::Zip,
        Some("model"),
        &tensors,
        &mut |_, out| Ok(out.write_all(&[0; 4])?),
    )?;
    let (parts, notes) = find(&dir)?;
    assert_eq!(parts.alignment, None);
    assert!(
        notes.len() == 1 && notes[0].contains("--biovil"),
        "{notes:?}"
    );
    Ok(())
}

/// v1's tree and v2's model folder with its base, in one folder, as `bundle fetch` of both would leave them.
fn both_systems() -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    write_release(Release::V1, Geometry::Tiny, dir.path())?;
    write_release(Release::V2, Geometry::Tiny, dir.path())?;
    Ok(dir)
}

#[test]
fn one_of_two_systems_in_a_folder_is_taken_when_it_is_named() -> Result<()> {
    let dir = both_systems()?;
    let error = find(&dir).unwrap_err().to_string();
    for words in [
        "checkpoint_4.pth",
        "--system v1",
        "--system v2",
        "--without alignment",
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
    for (system, base, connector, adapters) in [
        (System::V1, "vicuna-7b-v1.3", "v1: image encoder", 2),
        (System::V2, "llava-v1.5-7b", "v2: image encoder", 1),
    ] {
        let selection = PartSelection {
            system: Some(system),
            ..PartSelection::default()
        };
        let (parts, notes) = find_parts(dir.path(), ImportParts::default(), &selection)?;
        assert_eq!(parts.base, Some(dir.path().join(base)));
        assert_eq!(parts.adapters.len(), adapters, "{parts:?}");
        assert!(parts.findings.is_some() && parts.chexbert.is_some());
        let said = notes.iter().filter(|note| note.contains("(--system v"));
        assert!(said.count() > 1, "{notes:?}");
        let import = Import::plan(&parts, options())?;
        let embedding = &import.reports()[0].geometry;
        assert!(embedding.starts_with(connector), "{embedding}");
        assert_eq!(import.stages().count(), 4);
    }
    Ok(())
}

#[test]
fn a_part_of_one_system_that_is_named_leaves_the_others_out() -> Result<()> {
    let dir = tree(&[
        "a/checkpoint_4.pth",
        "b/non_lora_trainables.bin",
        "biovil_t_image_model_proj_size_128.pt",
    ])?;
    let given = ImportParts {
        non_lora: Some(dir.path().join("b")),
        ..ImportParts::default()
    };
    let (parts, notes) = find_parts(dir.path(), given, &PartSelection::default())?;
    assert!(parts.alignment.is_none() && parts.biovil.is_some());
    assert!(
        notes.len() == 1 && notes[0].contains("checkpoint_4.pth' is left out: --non-lora"),
        "{notes:?}"
    );
    Ok(())
}

#[test]
fn parts_that_are_not_wanted_are_left_out_and_said() -> Result<()> {
    let dir = both_systems()?;
    let selection = PartSelection {
        system: None,
        without: [
            ImportPart::NonLora,
            ImportPart::Adapter,
            ImportPart::Findings,
            ImportPart::Base,
        ]
        .into(),
    };
    let (parts, notes) = find_parts(dir.path(), ImportParts::default(), &selection)?;
    assert!(parts.alignment.is_some() && parts.biovil.is_some());
    assert_eq!(
        (parts.non_lora, parts.findings, parts.base),
        (None, None, None)
    );
    assert!(parts.adapters.is_empty());
    for words in [
        "radialog' is left out: --without non-lora",
        "vicuna-7b-img-report/checkpoint-11200' is left out: --without adapter",
        "ChexpertClassifier.ckpt' is left out: --without findings",
        "llava-v1.5-7b' is left out: --without base",
    ] {
        assert!(
            notes.iter().any(|note| note.contains(words)),
            "{words}: {notes:?}"
        );
    }
    Ok(())
}

#[test]
fn a_part_that_is_named_and_left_out_is_refused() -> Result<()> {
    let dir = tree(&[FINDINGS])?;
    let from = dir.path().display().to_string();
    for (more, words) in [
        (
            &["--findings", "x.ckpt", "--without", "findings"][..],
            "contradict",
        ),
        (
            &["--system", "v1", "--non-lora", "x.bin"],
            "is a part of v2",
        ),
        (
            &["--without", "lungs"],
            "possible values: biovil, alignment",
        ),
    ] {
        let mut command = radialog(&["bundle", "import", "bundle", "--from", &from])?;
        let output = command.args(more).output_in_time()?;
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{message}");
        assert!(message.contains(words), "{words}: {message}");
    }
    Ok(())
}
