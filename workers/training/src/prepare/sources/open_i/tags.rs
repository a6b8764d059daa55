//! The tags of the Indiana University collection (Open-i) as CheXpert findings: `Head/qualifier/qualifier`. Only a positive
//! statement follows from a tag; what no tag names is not denied.

use radialog_schemas::Finding;

/// The tag of a study without any finding.
const NORMAL: &str = "normal";
/// The tag of a study that nobody has tagged.
const UNTAGGED: &str = "no indexing";

/// The findings that a study's tags state, or nothing where it has no tags.
pub(super) fn findings<'a>(tags: impl Iterator<Item = &'a str>) -> Option<Vec<Finding>> {
    let tags: Vec<String> = tags
        .map(|tag| tag.trim().to_lowercase())
        .filter(|tag| !tag.is_empty())
        .collect();
    if tags.is_empty() || tags.iter().any(|tag| tag == UNTAGGED) {
        return None;
    }
    let stated: Vec<Finding> = tags.iter().flat_map(|tag| of_tag(tag)).collect();
    Some(
        Finding::ALL
            .into_iter()
            .filter(|finding| stated.contains(finding))
            .collect(),
    )
}

fn of_tag(tag: &str) -> Vec<Finding> {
    let mut parts = tag.split('/').map(str::trim);
    let head = parts.next().unwrap_or_default();
    let qualifiers: Vec<&str> = parts.collect();
    let any = |words: &[&str]| {
        qualifiers
            .iter()
            .any(|qualifier| words.iter().any(|word| qualifier.contains(word)))
    };
    let when = |is: bool, finding: Finding| if is { vec![finding] } else { Vec::new() };
    match head {
        NORMAL => vec![Finding::NoFinding],
        "mediastinum" => when(
            any(&["prominent", "enlarged"]) && !any(&["lymph", "blood vessels"]),
            Finding::EnlargedCardiomediastinum,
        ),
        "cardiomegaly" => vec![Finding::Cardiomegaly],
        "cardiac shadow" => when(any(&["enlarged"]), Finding::Cardiomegaly),
        "opacity" => when(
            !any(&["bone", "ribs", "breast", "abdomen", "neck"]),
            Finding::LungOpacity,
        ),
        "airspace disease" | "infiltrate" | "lung diseases, interstitial" => {
            vec![Finding::LungOpacity]
        }
        "density" => when(any(&["lung", "retrocardiac"]), Finding::LungOpacity),
        "cicatrix" if any(&["pleura"]) => vec![Finding::PleuralOther],
        "cicatrix" => when(any(&["lung"]), Finding::LungOpacity),
        "markings" => when(any(&["interstitial"]), Finding::LungOpacity),
        "lung" => when(
            any(&["interstitial"]) && any(&["prominent"]),
            Finding::LungOpacity,
        ),
        "nodule" | "mass" => when(
            !any(&["breast", "bone", "neck", "mediastinum", "abdomen"]),
            Finding::LungLesion,
        ),
        "cavitation" => vec![Finding::LungLesion],
        "pulmonary edema" | "pulmonary congestion" | "heart failure" => vec![Finding::Edema],
        "consolidation" => vec![Finding::Consolidation],
        "pneumonia" => vec![Finding::Pneumonia],
        "pulmonary atelectasis" => vec![Finding::Atelectasis],
        "pneumothorax" => vec![Finding::Pneumothorax],
        "hydropneumothorax" | "hemopneumothorax" => {
            vec![Finding::Pneumothorax, Finding::PleuralEffusion]
        }
        "pleural effusion" | "hemothorax" => vec![Finding::PleuralEffusion],
        "thickening" => when(any(&["pleura"]), Finding::PleuralOther),
        "fractures, bone" => vec![Finding::Fracture],
        "catheters, indwelling"
        | "implanted medical device"
        | "medical device"
        | "tube, inserted"
        | "stents" => {
            vec![Finding::SupportDevices]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_name_findings_and_their_qualifiers_decide() {
        let of = |tags: &str| findings(tags.split(';'));
        assert_eq!(of("normal"), Some(vec![Finding::NoFinding]));
        assert_eq!(
            of("Cardiomegaly/borderline;Pulmonary Artery/enlarged"),
            Some(vec![Finding::Cardiomegaly])
        );
        assert_eq!(of("Opacity/ribs/left"), Some(vec![]));
        assert_eq!(
            of("Density/retrocardiac;Opacity/lung"),
            Some(vec![Finding::LungOpacity])
        );
        assert_eq!(
            of("Hydropneumothorax"),
            Some(vec![Finding::Pneumothorax, Finding::PleuralEffusion])
        );
        assert_eq!(of("Mediastinum/lymph nodes/enlarged"), Some(vec![]));
    }

    #[test]
    fn a_study_without_tags_has_no_labels_at_all() {
        assert_eq!(findings(["No Indexing"].into_iter()), None);
        assert_eq!(findings(std::iter::empty()), None);
    }
}
