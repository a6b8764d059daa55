//! Which column of a user's table is what: named by the user, or recognised.

use std::collections::BTreeSet;

use radialog_schemas::table::{Header, listed, plain_name};
use radialog_schemas::{Finding, counted};

use super::cells::finding;
use crate::evaluation::subgroups::GROUPS;

/// The names by which columns are recognised, whatever their case, spaces and underscores.
const IMAGE: &[&str] = &[
    "image",
    "imagepath",
    "imagefile",
    "path",
    "file",
    "filename",
    "filepath",
    "img",
    "imageindex",
    "imagename",
    "imageid",
];
const REPORT: &[&str] = &[
    "report",
    "findings",
    "text",
    "reporttext",
    "findingssection",
    "caption",
    "reference",
];
const PATIENT: &[&str] = &[
    "patientid",
    "patient",
    "subjectid",
    "subject",
    "patientnumber",
    "patientno",
    "patientnr",
    "mrn",
    "pid",
];
const STUDY: &[&str] = &["studyid", "study", "accessionnumber", "accession"];
const SPLIT: &[&str] = &["split", "subset", "partition", "set"];
const LABELS: &[&str] = &["labels", "label", "findinglabels", "nihlabels"];

/// The columns that a user names; what is not named is recognised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnNames {
    /// The image's file.
    pub image: Option<String>,
    /// The radiologist's text.
    pub report: Option<String>,
    /// The patient.
    pub patient: Option<String>,
    /// The side.
    pub split: Option<String>,
    /// Several findings in one cell.
    pub labels: Option<String>,
    /// The label of one finding.
    pub findings: Vec<(Finding, String)>,
    /// Sex, age, view and source.
    pub groups: [Option<String>; GROUPS.len()],
}

/// Where the columns of a table are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// The image's file.
    pub image: usize,
    /// The radiologist's text.
    pub report: Option<usize>,
    /// Whether the user has named that column.
    pub report_is_named: bool,
    /// The patient, or the study where no column names patients.
    pub patient: Option<usize>,
    /// Whether `patient` is the study.
    pub patient_is_study: bool,
    /// The side.
    pub split: Option<usize>,
    /// Several findings in one cell.
    pub labels: Option<usize>,
    /// Whether the user has named that column.
    pub labels_are_named: bool,
    /// The label of each finding that has a column; where there is one, it comes before what `labels` says.
    pub findings: Vec<(Finding, usize)>,
    /// Sex, age, view and source, where they have columns.
    pub groups: [Option<usize>; GROUPS.len()],
}

impl ColumnNames {
    /// Finds the columns of a table.
    ///
    /// # Errors
    /// Every column that is named and not there; several of one name or one finding; no column of images, or none to learn from.
    pub fn find(&self, header: &Header) -> Result<Columns, Vec<String>> {
        let mut faults = Vec::new();
        let there = header.listed();
        // A column that the user has named as one thing is not recognised as another. What figures are told by is so, since it
        // may be the split too, and what names images may name patients.
        let own = [
            &self.image,
            &self.report,
            &self.patient,
            &self.split,
            &self.labels,
        ];
        let own = own.into_iter().flatten();
        let own = own.chain(self.findings.iter().map(|(_, name)| name));
        let taken: BTreeSet<usize> = own.filter_map(|name| header.column(name)).collect();
        let is_free = |column: &usize| !taken.contains(column);
        let of_patients = self.patient.as_ref().and_then(|name| header.column(name));
        let mut find = |named: &Option<String>, flag: &str, known: &[&str]| {
            let found = match named {
                Some(name) => match header.namesakes(name) {
                    namesakes if namesakes.is_empty() => header.column(name).into_iter().collect(),
                    namesakes => namesakes,
                },
                None => {
                    let may_be = |column: &usize| {
                        is_free(column) || (flag == "--image" && of_patients == Some(*column))
                    };
                    let alike = |known: &&str| -> Vec<usize> {
                        header.alike(known).into_iter().filter(may_be).collect()
                    };
                    let mut found = known.iter().map(alike);
                    found.find(|found| !found.is_empty()).unwrap_or_default()
                }
            };
            if let (Some(name), []) = (named, &found[..]) {
                faults.push(format!("{flag}: no column '{name}'; it has {there}"));
            }
            if found.len() > 1 {
                let places: Vec<String> = found
                    .iter()
                    .map(|column| format!("'{}' ({})", header.names()[*column], column + 1))
                    .collect();
                faults.push(format!(
                    "columns {} have one name: leave one of them, or name one that is spelled as no other with {flag}",
                    places.join(", ")
                ));
            }
            found.first().copied()
        };
        let image = find(&self.image, "--image", IMAGE);
        let mut columns = Columns {
            image: image.unwrap_or_default(),
            report: find(&self.report, "--report", REPORT),
            report_is_named: self.report.is_some(),
            patient: find(&self.patient, "--patient", PATIENT),
            split: find(&self.split, "--split", SPLIT),
            labels: find(&self.labels, "--labels", LABELS),
            labels_are_named: self.labels.is_some(),
            groups: std::array::from_fn(|group| {
                let (kind, known) = GROUPS[group];
                find(&self.groups[group], &format!("--{kind}"), known)
            }),
            ..Columns::default()
        };
        if columns.patient.is_none() {
            columns.patient = find(&None, "--patient", STUDY);
            columns.patient_is_study = columns.patient.is_some();
        }
        let named: BTreeSet<Finding> = self.findings.iter().map(|(finding, _)| *finding).collect();
        for (finding, name) in &self.findings {
            let column = find(&Some(name.clone()), "--finding", &[]);
            columns
                .findings
                .extend(column.map(|column| (*finding, column)));
        }
        for (column, name) in header.names().iter().enumerate() {
            let finding = finding(name).filter(|_| self.labels.is_none());
            let finding = finding.filter(|finding| !named.contains(finding) && is_free(&column));
            columns
                .findings
                .extend(finding.map(|finding| (finding, column)));
        }
        for finding in Finding::ALL {
            let of = columns.findings.iter().filter(|(of, _)| *of == finding);
            let of: Vec<String> = of
                .map(|(_, column)| format!("'{}'", header.names()[*column]))
                .collect();
            if of.len() > 1 {
                faults.push(format!(
                    "columns {} are all {finding}: name one with --finding \"{finding}=COLUMN\"",
                    of.join(", ")
                ));
            }
        }
        if image.is_none() && self.image.is_none() {
            faults.push(format!(
                "no column of images is recognised: name it with --image; it has {there}"
            ));
        }
        if columns.report.is_none() && columns.labels.is_none() && columns.findings.is_empty() {
            faults.push(format!(
                "no column of reports or labels is recognised: name one with --report, --labels or --finding; it has {there}"
            ));
        }
        match faults.is_empty() {
            true => Ok(columns),
            false => Err(faults),
        }
    }
}

impl Columns {
    /// What each column was taken for, in words.
    pub fn words(&self, header: &Header) -> String {
        let name = |column: usize| header.names().get(column).cloned().unwrap_or_default();
        let patient = match self.patient_is_study {
            true => "study (as patient)",
            false => "patient",
        };
        let roles = [
            ("image", Some(self.image)),
            ("report", self.report),
            (patient, self.patient),
            ("split", self.split),
            ("labels", self.labels),
        ];
        let mut words: Vec<String> = roles
            .into_iter()
            .filter_map(|(role, column)| Some(format!("{role} = {}", name(column?))))
            .collect();
        let groups = GROUPS.iter().zip(self.groups);
        words.extend(
            groups.filter_map(|((kind, _), column)| Some(format!("{kind} = {}", name(column?)))),
        );
        if !self.findings.is_empty() {
            let (count, others) = (self.findings.len(), self.renamed(header));
            let others = match others.is_empty() {
                true => String::new(),
                false => format!(" ({})", others.join(", ")),
            };
            let columns = counted(count, "column", "columns");
            words.push(format!("{columns} of single findings{others}"));
        }
        words.join(", ")
    }

    /// The names of the columns that are not read, for a message; none where all are, or the others have no name.
    pub fn unread(&self, header: &Header) -> Option<String> {
        let singles = self.findings.iter().map(|(_, column)| *column);
        let read: BTreeSet<usize> = [Some(self.image), self.report, self.patient, self.split]
            .into_iter()
            .chain([self.labels])
            .chain(self.groups)
            .flatten()
            .chain(singles)
            .collect();
        let names = header.names().iter().enumerate();
        let names = names.filter(|(column, _)| !read.contains(column));
        let names = listed(names.map(|(_, name)| name.as_str()));
        (!names.is_empty()).then_some(names)
    }

    /// The findings whose columns are called otherwise, each with its column.
    fn renamed(&self, header: &Header) -> Vec<String> {
        let name = |column: usize| header.names().get(column).map_or("", String::as_str);
        let singles = self.findings.iter();
        let others = singles
            .filter(|(finding, column)| plain_name(finding.name()) != plain_name(name(*column)));
        others
            .map(|(finding, column)| format!("{finding} = {}", name(*column)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_recognised_by_usual_names_and_taken_as_named() {
        let header = Header::new([
            "Subject ID",
            "Path",
            "Report_Text",
            "Effusion",
            "edema",
            "heart",
        ]);
        let columns = ColumnNames::default().find(&header).unwrap();
        let found = [(Finding::PleuralEffusion, 3), (Finding::Edema, 4)];
        assert_eq!(
            (columns.image, columns.report, columns.patient),
            (1, Some(2), Some(0))
        );
        assert_eq!(columns.findings, found);
        let named = ColumnNames {
            findings: vec![(Finding::Cardiomegaly, "heart".to_owned())],
            ..ColumnNames::default()
        };
        assert!(
            named
                .find(&header)
                .unwrap()
                .findings
                .contains(&(Finding::Cardiomegaly, 5))
        );
    }

    #[test]
    fn several_columns_of_one_finding_are_refused_until_one_is_named() {
        let header = Header::new(["image", "Edema", "edema", "Mass", "Nodule", "Fracture"]);
        let faults = ColumnNames::default().find(&header).unwrap_err();
        assert_eq!(faults.len(), 2, "{faults:?}");
        for (fault, columns) in faults.iter().zip(["'Mass', 'Nodule'", "'Edema', 'edema'"]) {
            assert!(fault.contains(columns), "{fault}");
        }
        let named = ColumnNames {
            findings: vec![
                (Finding::Edema, "edema".to_owned()),
                (Finding::LungLesion, "Mass".to_owned()),
            ],
            ..ColumnNames::default()
        };
        assert_eq!(named.find(&header).unwrap().findings.len(), 3);
    }

    #[test]
    fn several_columns_of_one_name_are_refused_until_one_is_spelled_as_named() {
        let header = Header::new(["image", "Report", "report", "Edema", "id", "id"]);
        let faults = ColumnNames::default().find(&header).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        for part in ["'Report' (2), 'report' (3)", "--report"] {
            assert!(faults[0].contains(part), "{part}: {faults:?}");
        }
        let named = |report: &str, patient: Option<&str>| ColumnNames {
            report: Some(report.to_owned()),
            patient: patient.map(str::to_owned),
            ..ColumnNames::default()
        };
        let found = named("report", None).find(&header).unwrap();
        assert_eq!(found.report, Some(2));
        let faults = named("Report", Some("id")).find(&header).unwrap_err();
        assert!(
            faults.len() == 1 && faults[0].contains("'id' (5), 'id' (6)"),
            "{faults:?}"
        );
    }

    #[test]
    fn a_column_of_names_stays_beside_columns_of_single_findings() {
        let header = Header::new(["image", "Finding Labels", "Fracture"]);
        let columns = ColumnNames::default().find(&header).unwrap();
        assert_eq!((columns.labels, columns.findings.len()), (Some(1), 1));
    }

    #[test]
    fn a_column_that_is_named_as_one_thing_is_not_recognised_as_another() {
        let header = Header::new(["image", "findings", "set", "Edema"]);
        let columns = ColumnNames::default().find(&header).unwrap();
        assert_eq!((columns.report, columns.split), (Some(1), Some(2)));
        let named = ColumnNames {
            labels: Some("Findings".to_owned()),
            groups: [None, None, None, Some("set".to_owned())],
            ..ColumnNames::default()
        };
        let columns = named.find(&header).unwrap();
        assert_eq!((columns.report, columns.labels), (None, Some(1)));
        // Figures take nothing away, and each image may be a patient.
        assert_eq!((columns.split, columns.groups[3]), (Some(2), Some(2)));
        let named = ColumnNames {
            patient: Some("image".to_owned()),
            ..ColumnNames::default()
        };
        let columns = named.find(&header).unwrap();
        assert_eq!((columns.image, columns.patient), (0, Some(0)));
        let named = ColumnNames {
            report: Some("Edema".to_owned()),
            ..ColumnNames::default()
        };
        assert!(named.find(&header).unwrap().findings.is_empty());
    }

    #[test]
    fn what_columns_were_taken_for_and_which_are_not_read_is_said() {
        let header = Header::new(["image", "Infiltration", "edema", "Pleuraerguss", "", "ward"]);
        let columns = ColumnNames::default().find(&header).unwrap();
        assert_eq!(
            columns.words(&header),
            "image = image, 2 columns of single findings (Lung Opacity = Infiltration)"
        );
        let unread = columns.unread(&header);
        assert_eq!(unread.as_deref(), Some("Pleuraerguss, ward"));
        let header = Header::new(["ImageID", "edema", "", "MRN"]);
        let columns = ColumnNames::default().find(&header).unwrap();
        assert_eq!(columns.unread(&header), None);
        assert_eq!((columns.image, columns.patient), (0, Some(3)));
    }

    #[test]
    fn every_column_that_is_missing_is_told() {
        let named = ColumnNames {
            split: Some("fold".to_owned()),
            ..ColumnNames::default()
        };
        let faults = named.find(&Header::new(["a", "b"])).unwrap_err().join("\n");
        for part in ["--split: no column 'fold'", "--image", "--report"] {
            assert!(faults.contains(part), "{part}: {faults}");
        }
    }
}
