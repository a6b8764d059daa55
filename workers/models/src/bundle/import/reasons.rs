//! Why a bundle does not have a tensor of a published file, by its name there.

/// What the image encoder's names begin with in `checkpoint_4.pth`.
const ENCODER: &str = "visual_encoder.";

/// What the projector's names begin with in BioViL-T's file.
const PROJECTOR: &str = "projector.";

pub(super) fn why_not_in_v1(name: &str) -> Option<&'static str> {
    let text = [
        "Qformer.",
        "vision_proj.",
        "text_proj.",
        "itm_head.",
        "temp",
    ];
    if text.iter().any(|part| name.starts_with(part)) {
        return Some("the side of texts, which only training reads");
    }
    why_not_of_biovil(name.strip_prefix(ENCODER).unwrap_or(name))
}

pub(super) fn why_not_of_biovil(name: &str) -> Option<&'static str> {
    let unread = [
        (
            "vit_pooler",
            "the comparison with a previous image, which RaDialog does not make",
        ),
        (
            "encoder.encoder.fc.",
            "ImageNet's classes, which nobody reads",
        ),
        ("num_batches_tracked", "a counter of training"),
        (
            PROJECTOR,
            "a projector that this version of RaDialog does not use",
        ),
    ];
    let found = unread.into_iter().find(|(part, _)| name.contains(part));
    found.map(|(_, why)| why).or_else(|| {
        name.starts_with("encoder.")
            .then_some("the other file has it, which is read over this one")
    })
}

pub(super) fn why_not_of_base(name: &str) -> Option<&'static str> {
    let unread = [
        ("rotary_emb", "frequencies that are computed"),
        (
            "mm_projector",
            "the projector of CLIP's images, which RaDialog replaces",
        ),
        ("lm_head", "the output head is the embedding"),
    ];
    let found = unread.into_iter().find(|(part, _)| name.contains(part));
    found.map(|(_, why)| why)
}

pub(super) fn why_not_of_projector(name: &str) -> Option<&'static str> {
    match name.contains("vision_tower") {
        true => Some("the image encoder's part"),
        false => why_not_of_base(name),
    }
}

/// Why the image encoder does not take a tensor of v2's other trained weights.
pub(super) fn why_not_of_tower(name: &str) -> Option<&'static str> {
    match name.contains("vision_tower") {
        true if name.contains("pos_embed") => Some("positions that are computed"),
        true => why_not_of_biovil(name),
        false if name.contains("mm_projector") => Some("the language model's part"),
        false => why_not_of_base(name),
    }
}
