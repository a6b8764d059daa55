//! `radialog bundle check`: the outputs of a bundle against files in the form of the release's.

use std::fs;
use std::path::Path;
use std::process::Output;

use anyhow::{Result, ensure};
use candle_core::Device;
use radialog_models::bundle::components::{FindingsPredictor, ImageEmbedder};
use radialog_models::bundle::{Bundle, RandomBundle};
use radialog_models::preprocess::{ImageLimits, Preprocessed, SHORT_SIDE};
use radialog_tests::fixtures::xrays;
use radialog_tests::patience::InTime;
use radialog_tests::processes::radialog;
use serde_json::json;

/// Image tokens, their shape, and the names of the findings of an image.
type ImageOutputs = (Vec<f32>, (usize, usize), Vec<String>);

/// What a bundle says about an image.
fn outputs(bundle: &Bundle, path: &Path) -> Result<ImageOutputs> {
    let image = Preprocessed::from_bytes(&fs::read(path)?, &ImageLimits::default(), SHORT_SIDE)?;
    let embedder = ImageEmbedder::load(bundle, &Device::Cpu)?;
    let predictor = FindingsPredictor::load(bundle, &Device::Cpu)?;
    let input = |side| -> Result<_> { Ok(image.tensor(side, &Device::Cpu)?.unsqueeze(0)?) };
    let tokens = embedder.embed(&input(embedder.input().side)?)?.squeeze(0)?;
    let shape = tokens.dims2()?;
    let reports = predictor.predict(&input(predictor.input().side)?)?;
    let present = reports[0].findings.iter().filter(|finding| finding.present);
    let names = present.map(|finding| finding.finding.name().to_owned());
    Ok((tokens.flatten_all()?.to_vec1()?, shape, names.collect()))
}

/// A pickle of a dictionary of float32 arrays, as numpy writes it in protocol 3.
fn pickle(arrays: &[(String, (usize, usize), Vec<f32>)]) -> Vec<u8> {
    let text = |text: &str| {
        [
            b"X",
            &(text.len() as u32).to_le_bytes()[..],
            text.as_bytes(),
        ]
        .concat()
    };
    let number = |number: usize| [b"J", &(number as i32).to_le_bytes()[..]].concat();
    let mut pickle = b"\x80\x03}(".to_vec();
    for (name, (rows, columns), values) in arrays {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        pickle.extend(text(name));
        pickle.extend(
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R(K\x01",
        );
        pickle.extend([number(*rows), number(*columns)].concat());
        pickle.extend(b"\x86cnumpy\ndtype\nX\x02\0\0\0f4K\0K\x01\x87R(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89B");
        pickle.extend((bytes.len() as u32).to_le_bytes());
        pickle.extend(bytes);
        pickle.extend(b"tb");
    }
    pickle.extend(b"u.");
    pickle
}

#[test]
fn a_release_that_agrees_is_told_from_one_that_does_not() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    RandomBundle::tiny(7).write(&at("bundle"))?;
    let bundle = Bundle::open(&at("bundle"))?;
    let mut images: Vec<_> = fs::read_dir(xrays())?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    images.retain(|path| {
        path.extension()
            .is_some_and(|end| end == "png" || end == "jpg")
    });
    images.sort();
    images.truncate(2);
    let (mut arrays, mut predictions) = (Vec::new(), serde_json::Map::new());
    for path in &images {
        let (tokens, shape, findings) = outputs(&bundle, path)?;
        let id = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        predictions.insert(id.clone(), json!(findings));
        arrays.push((id, shape, tokens));
    }
    let check = || -> Result<Output> {
        let mut command = radialog(&["bundle", "check"])?;
        command
            .arg(at("bundle"))
            .arg("--images")
            .arg(xrays())
            .arg("--embeddings")
            .arg(at("embeddings.pkl"))
            .arg("--predictions")
            .arg(at("predictions.json"));
        Ok(command.output_in_time()?)
    };
    fs::write(at("embeddings.pkl"), pickle(&arrays))?;
    fs::write(at("predictions.json"), json!(predictions).to_string())?;
    let output = check()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(
        said.contains("embedding: agrees: 2 images")
            && said.contains("fits: the bundle's projector"),
        "{said}"
    );
    ensure!(said.contains("findings: agrees: 2 of 2 images"), "{said}");

    for (_, _, tokens) in &mut arrays {
        tokens.reverse();
    }
    for findings in predictions.values_mut() {
        *findings = match findings
            .as_array()
            .is_some_and(|names| names.iter().any(|name| name == "Edema"))
        {
            true => json!([]),
            false => json!(["Edema"]),
        };
    }
    fs::write(at("embeddings.pkl"), pickle(&arrays))?;
    fs::write(at("predictions.json"), json!(predictions).to_string())?;
    let output = check()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(1), "{said}");
    ensure!(
        said.contains("embedding: DOES NOT AGREE") && said.contains("fits: no projector"),
        "{said}"
    );
    ensure!(
        said.contains("findings: DOES NOT AGREE") && said.contains("Edema"),
        "{said}"
    );
    Ok(())
}
