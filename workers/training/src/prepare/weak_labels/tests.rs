use super::*;

/// The label of one finding in a text.
fn label(text: &str, finding: Finding) -> Label {
    summary(&WeakLabeler::own().unwrap().mentions(text))[finding as usize]
}

/// Sentences of the Indiana University collection (Open-i), each with what it says.
#[test]
fn sentences_of_real_reports_are_read_as_a_person_reads_them() {
    use Finding::*;
    use Label::*;
    let cases = [
        (
            "No pneumothorax or pleural effusion.",
            vec![(Pneumothorax, Negative), (PleuralEffusion, Negative)],
        ),
        (
            "No focal consolidation, pneumothorax or large pleural effusion.",
            vec![(Consolidation, Negative), (PleuralEffusion, Negative)],
        ),
        (
            "There is no focal air space opacity to suggest a pneumonia.",
            vec![(LungOpacity, Negative), (Pneumonia, Negative)],
        ),
        ("Borderline cardiomegaly.", vec![(Cardiomegaly, Uncertain)]),
        ("Stable cardiomegaly.", vec![(Cardiomegaly, Positive)]),
        (
            "The heart is mildly enlarged.",
            vec![(Cardiomegaly, Positive)],
        ),
        (
            "The heart is not significantly enlarged.",
            vec![(Cardiomegaly, Negative)],
        ),
        (
            "The heart is normal in size.",
            vec![(Cardiomegaly, Negative)],
        ),
        (
            "The mediastinum is unremarkable.",
            vec![(EnlargedCardiomediastinum, Negative), (Cardiomegaly, Blank)],
        ),
        (
            "There is no mediastinal widening.",
            vec![(EnlargedCardiomediastinum, Negative)],
        ),
        (
            "Bronchovascular crowding without typical findings of pulmonary edema.",
            vec![(Edema, Negative)],
        ),
        (
            "Small volume effusions and basilar airspace disease.",
            vec![(PleuralEffusion, Positive), (LungOpacity, Positive)],
        ),
        ("Lungs are clear bilaterally.", vec![(LungOpacity, Blank)]),
        (
            "Cardiomegaly without lung infiltrates.",
            vec![(Cardiomegaly, Positive), (LungOpacity, Negative)],
        ),
        (
            "Left basilar atelectasis versus infiltrate.",
            vec![(Atelectasis, Uncertain), (LungOpacity, Uncertain)],
        ),
        (
            "Trace pericardial effusion.",
            vec![(PleuralEffusion, Blank)],
        ),
        ("Leads appear intact.", vec![(SupportDevices, Positive)]),
        ("Bony structures are intact.", vec![(Fracture, Negative)]),
        ("Pneumothorax has resolved.", vec![(Pneumothorax, Negative)]),
    ];
    for (text, expected) in cases {
        for (finding, expected) in expected {
            assert_eq!(label(text, finding), expected, "{finding} in: {text}");
        }
    }
}

#[test]
fn a_finding_that_is_stated_anywhere_is_positive_and_a_hedge_beats_a_denial() {
    assert_eq!(
        label("No effusion. Possible effusion.", Finding::PleuralEffusion),
        Label::Uncertain
    );
    assert_eq!(
        label(
            "No effusion. Small effusion. Possible effusion.",
            Finding::PleuralEffusion
        ),
        Label::Positive
    );
    assert_eq!(label("Clear.", Finding::NoFinding), Label::Blank);
}

#[test]
fn a_denial_ends_where_something_else_begins() {
    let text = "No pneumothorax, small left effusion.";
    assert_eq!(label(text, Finding::Pneumothorax), Label::Negative);
    assert_eq!(label(text, Finding::PleuralEffusion), Label::Positive);
    assert_eq!(
        label(
            "No pneumothorax with stable cardiomegaly.",
            Finding::Cardiomegaly
        ),
        Label::Positive
    );
    assert_eq!(
        label(
            "No interval change in the effusion.",
            Finding::PleuralEffusion
        ),
        Label::Positive
    );
}

#[test]
fn a_not_inside_of_a_hedge_denies_nothing() {
    assert_eq!(
        label("Pneumonia cannot be excluded.", Finding::Pneumonia),
        Label::Uncertain
    );
    assert_eq!(
        label("We can not exclude pneumonia.", Finding::Pneumonia),
        Label::Uncertain
    );
}

#[test]
fn every_mention_names_its_sentence() {
    let mentions = WeakLabeler::own()
        .unwrap()
        .mentions("The heart is normal in size. Small effusion.");
    assert_eq!(
        mentions[0],
        Mention {
            sentence: 0,
            finding: Finding::Cardiomegaly,
            label: Label::Negative
        }
    );
    assert_eq!(
        mentions[1],
        Mention {
            sentence: 1,
            finding: Finding::PleuralEffusion,
            label: Label::Positive
        }
    );
}

/// The sample impressions of the CheXpert labeler (Stanford ML Group, MIT licence) with the labels published beside them.
#[test]
fn the_published_sample_impressions_have_their_published_labels() {
    use Finding::*;
    use Label::*;
    let cases: [(&str, &[(Finding, Label)]); 4] = [
        (
            "Heart size normal and lungs are clear. No edema or pneumonia. No effusion",
            &[
                (Cardiomegaly, Negative),
                (Edema, Negative),
                (Pneumonia, Negative),
                (PleuralEffusion, Negative),
            ],
        ),
        (
            "1. Left pleural effusion with adjacent atelectasis. Right effusion is also present.\n\n2. Cardiomegaly without overt \
             edema.",
            &[
                (Cardiomegaly, Positive),
                (Edema, Negative),
                (Atelectasis, Positive),
                (PleuralEffusion, Positive),
            ],
        ),
        (
            "Minimal patchy airspace disease within the lingula, may reflect atelectasis or consolidation.",
            &[
                (LungOpacity, Positive),
                (Consolidation, Uncertain),
                (Atelectasis, Uncertain),
            ],
        ),
        (
            "1. Stable mild cardiomegaly. 2. Hyperexpanded but clear lungs.",
            &[(Cardiomegaly, Positive)],
        ),
    ];
    for (text, published) in cases {
        for finding in Finding::ALL {
            let expected = published
                .iter()
                .find(|(of, _)| *of == finding)
                .map_or(Blank, |(_, label)| *label);
            assert_eq!(label(text, finding), expected, "{finding} in: {text}");
        }
    }
}

#[test]
fn clear_lungs_are_no_denial_of_opacities_and_yet_contrary_to_them() {
    let rule = WeakLabeler::own().unwrap();
    assert_eq!(rule.sentence("The lungs are clear."), []);
    assert_eq!(
        rule.sentence_and_contraries("The lungs are clear."),
        [(Finding::LungOpacity, Label::Negative)]
    );
}
