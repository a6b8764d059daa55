use std::path::Path;

use super::super::{ReferenceSection, TextStore};
use super::*;

#[test]
fn what_a_labeler_failed_on_is_named_where_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let predictions = write("predictions.csv", "id,report\na,Edema.\nb,Clear.\n");
    let references = write("references.csv", "id,findings\nx,No.\nb,Clear.\na,Fine.\n");
    let mut store = TextStore::new().unwrap();
    let predictions = PredictionFile::read(&predictions, &mut store).unwrap();
    let section = ReferenceSection::Findings;
    let wanted = || predictions.names();
    let references = References::read(&[references], section, wanted, &mut store).unwrap();
    let options = MatchOptions::default();
    let mut corpus = Corpus::of(predictions, Some(references), &options).unwrap();
    corpus.faults = Faults::default();
    let nothing = corpus.take_labels("by the bundle", |_| Ok::<_, io::Error>(None));
    nothing.unwrap();
    let place = |fault: &InputFault| {
        let name = Path::new(&*fault.file).file_name().unwrap();
        (
            name.to_string_lossy().into_owned(),
            fault.line,
            fault.id.clone(),
        )
    };
    let faults: io::Result<Vec<InputFault>> = corpus.faults.iter().collect();
    let places: Vec<_> = faults.unwrap().iter().map(place).collect();
    let expected = [
        ("predictions.csv", 3, "b"),
        ("references.csv", 3, "b"),
        ("predictions.csv", 2, "a"),
        ("references.csv", 4, "a"),
    ];
    let expected = expected.map(|(file, line, id)| (file.to_owned(), line, id.to_owned()));
    assert_eq!(places, expected);
}

#[test]
fn an_equal_row_of_a_reference_that_is_scored_is_no_reference_without_a_prediction() {
    let (unused, repeated) = (
        FaultKind::ReferenceWithoutPrediction,
        FaultKind::RepeatedReference,
    );
    for (predictions, references, expected) in [
        (
            "id,report\na,Edema.\n",
            "id,findings\na,Fine.\na,Fine.\nb,No.\nb,No.\n",
            vec![(3, repeated), (4, unused), (5, unused)],
        ),
        // A row an image: the prediction belongs to the second by the image's name.
        (
            "id,report\nb,Edema.\n",
            "id,image,report\n1,a.png,Fine.\n1,b.png,Fine.\n",
            vec![(2, unused)],
        ),
        (
            "id,report\na,Edema.\n",
            "id,image,report\n1,a.png,Fine.\n1,b.png,Edema.\n",
            vec![(3, unused)],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let predictions = write("predictions.csv", predictions);
        let references = write("references.csv", references);
        let mut store = TextStore::new().unwrap();
        let predictions = PredictionFile::read(&predictions, &mut store).unwrap();
        let section = ReferenceSection::Findings;
        let wanted = || predictions.names();
        let references = References::read(&[references], section, wanted, &mut store).unwrap();
        let options = MatchOptions::default();
        let corpus = Corpus::of(predictions, Some(references), &options).unwrap();
        let faults: io::Result<Vec<InputFault>> = corpus.faults.iter().collect();
        let faults = faults.unwrap();
        let found: Vec<_> = faults
            .iter()
            .map(|fault| (fault.line, fault.kind))
            .collect();
        assert_eq!(found, expected);
    }
}
