//! A report of the Open-i collection as its publisher hands it out: one XML file a study (`NLMCXR_reports`, folder
//! `ecgen-radiology`).

use std::fs;
use std::path::Path;

use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::reader::Reader;

use super::OpenIStudy;
use crate::error::TrainingError;

/// Reads one file.
pub(super) fn read(path: &Path) -> Result<OpenIStudy, TrainingError> {
    let text = fs::read_to_string(path).map_err(TrainingError::io("read", path))?;
    let study = parse(&text).map_err(TrainingError::content(path))?;
    if study.id.is_empty() {
        let reason = "no <uId id=\"CXR…\"/>: this is no report of the Open-i collection (folder ecgen-radiology)";
        return Err(TrainingError::content(path)(reason));
    }
    Ok(study)
}

fn parse(text: &str) -> Result<OpenIStudy, quick_xml::Error> {
    let mut reader = Reader::from_str(text);
    let mut study = OpenIStudy::default();
    let (mut major, mut automatic) = (Vec::new(), Vec::new());
    let mut label = String::new();
    let mut content = String::new();
    loop {
        match reader.read_event()? {
            Event::Start(start) => {
                content.clear();
                label = attribute(&start, "Label")?;
            }
            Event::Empty(start) if start.name().as_ref() == b"uId" => {
                study.id = attribute(&start, "id")?
            }
            Event::Text(piece) => content += &piece.xml10_content()?,
            Event::CData(piece) => content += &piece.xml10_content()?,
            Event::GeneralRef(reference) => content += &resolved(&reference)?,
            Event::End(end) => {
                let value = std::mem::take(&mut content);
                match end.name().as_ref() {
                    b"AbstractText" => *study.section(&label) += value.trim(),
                    b"major" => major.push(value),
                    b"automatic" => automatic.push(value),
                    _ => {}
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    // Annotators gave the major terms; the automatic ones are a program's and stand in where there are none.
    study.tags = if major.is_empty() { automatic } else { major };
    Ok(study)
}

impl OpenIStudy {
    fn section(&mut self, label: &str) -> &mut String {
        match label {
            "FINDINGS" => &mut self.findings,
            "IMPRESSION" => &mut self.impression,
            "INDICATION" => &mut self.indication,
            _ => &mut self.rest,
        }
    }
}

fn attribute(start: &BytesStart<'_>, name: &str) -> Result<String, quick_xml::Error> {
    let found = start.try_get_attribute(name)?;
    found.map_or(Ok(String::new()), |found| {
        Ok(found
            .normalized_value(XmlVersion::Implicit1_0)?
            .into_owned())
    })
}

/// `&amp;`, `&#169;` and the like; a reference that nobody defined stays as it is.
fn resolved(reference: &BytesRef<'_>) -> Result<String, quick_xml::Error> {
    if let Some(character) = reference.resolve_char_ref()? {
        return Ok(character.to_string());
    }
    let name = reference.decode()?;
    Ok(resolve_predefined_entity(&name).map_or_else(|| format!("&{name};"), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_and_tags_of_a_publisher_file_are_read() {
        let study = parse(
            r#"<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR9"/><MedlineCitation><Article><Abstract>
              <AbstractText Label="COMPARISON"/><AbstractText Label="INDICATION">pain</AbstractText>
              <AbstractText Label="FINDINGS">Lungs &amp; pleura clear.</AbstractText>
              <AbstractText Label="IMPRESSION">&lt;2 cm nodule&#46;</AbstractText></Abstract></Article></MedlineCitation>
              <MeSH><major>Nodule/lung</major><automatic>Nodule</automatic></MeSH></eCitation>"#,
        )
        .unwrap();
        assert_eq!(
            (study.id.as_str(), study.findings.as_str()),
            ("CXR9", "Lungs & pleura clear.")
        );
        assert_eq!(
            (study.impression.as_str(), study.indication.as_str()),
            ("<2 cm nodule.", "pain")
        );
        assert_eq!(study.tags, ["Nodule/lung"]);
    }

    #[test]
    fn a_broken_file_is_refused() {
        assert!(parse("<eCitation><uId id=\"CXR9\"/></wrong>").is_err());
    }
}
