//! What the shapes of published files tell of a network, and what they do not.

use super::error::ImportError;
use super::sources::Source;
use crate::vision::VisionConfig;

/// The geometry of an image encoder; `shape` gives the shape of a convolution by its name in BioViL-T's file.
pub(super) fn vision_of(
    published: VisionConfig,
    shape: impl Fn(&str) -> Result<[usize; 4], ImportError>,
) -> Result<VisionConfig, ImportError> {
    let [stem_width, ..] = shape("encoder.encoder.conv1.weight")?;
    let [vit_dim, ..] = shape("encoder.backbone_to_vit.weight")?;
    Ok(VisionConfig {
        stem_width,
        vit_dim,
        ..published
    })
}

/// The number of attention heads, which no shape tells: the published number at the published width, else what a
/// `config.json` beside the file says.
pub(super) fn heads(
    source: &Source,
    width: usize,
    published: (usize, usize),
) -> Result<usize, ImportError> {
    #[derive(serde::Deserialize)]
    struct Heads {
        num_attention_heads: usize,
    }
    if width == published.0 {
        return Ok(published.1);
    }
    let config = source.path.with_file_name("config.json");
    let read = std::fs::read(&config).ok();
    let heads = read.and_then(|text| serde_json::from_slice::<Heads>(&text).ok());
    heads.map(|heads| heads.num_attention_heads).ok_or_else(|| {
        let reason = format!(
            "its width is {width} and not the published {}, so that its number of attention heads is unknown: write it \
             beside the file into '{}', as {{\"num_attention_heads\": NUMBER}}",
            published.0,
            config.display()
        );
        ImportError::unusable(&source.path)(reason)
    })
}
