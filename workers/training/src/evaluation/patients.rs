//! Who a study is of: studies of one patient are alike, and are drawn together where intervals are.

use std::collections::HashMap;

use radialog_schemas::Finding;

use super::classification::{FEW, few_words};
use super::id_digest::IdDigest;

/// Numbers for patients, from 0 on.
#[derive(Clone, Debug, Default)]
pub struct Patients {
    known: HashMap<IdDigest, u32>,
    next: u32,
}

/// Of each finding, the first patients who have it not, and the first who have it, by number: as many as it takes to know that
/// they are not few. Of few patients a score is chance as much as quality, and all resamples that define one that rests on a
/// single patient have that one.
#[derive(Clone, Debug, Default)]
pub(crate) struct PatientsByFinding([[Vec<u32>; 2]; Finding::ALL.len()]);

impl PatientsByFinding {
    /// Counts a study of this patient, as far as it is known what is true of it.
    pub(crate) fn add(&mut self, truth: &[Option<bool>; Finding::ALL.len()], patient: u32) {
        for (sides, truth) in self.0.iter_mut().zip(truth) {
            let Some(truth) = truth else { continue };
            let side = &mut sides[usize::from(*truth)];
            if side.len() < FEW && !side.contains(&patient) {
                side.push(patient);
            }
        }
    }

    /// The number of patients who have a finding, or of those who have it not, whichever are fewer, up to [`FEW`]; 0 where a
    /// finding has one answer only, or none.
    pub(crate) fn fewest(&self, finding: Finding) -> usize {
        let [without, with] = &self.0[finding as usize];
        without.len().min(with.len())
    }

    /// The number of patients who have a finding, up to [`FEW`]: F1, precision and recall rest on them, whoever has it not.
    pub(crate) fn with(&self, finding: Finding) -> usize {
        let [_, with] = &self.0[finding as usize];
        with.len()
    }

    /// Names the findings of which there is too little for a score that means much; those that nobody is known not to have, too.
    pub(crate) fn few_words(&self) -> Option<String> {
        let patients = Finding::ALL.map(|finding| match self.fewest(finding) {
            0 => (finding, self.with(finding)),
            fewest => (finding, fewest),
        });
        let has_any = |&(finding, _): &(Finding, usize)| self.with(finding) > 0;
        few_words(patients.into_iter().filter(has_any))
    }
}

impl Patients {
    /// The number of a patient of this name; a study whose patient is not known is of one of its own.
    pub fn number(&mut self, name: Option<&str>) -> u32 {
        let next = self.next;
        let number = match name.map(str::trim).filter(|name| !name.is_empty()) {
            None => next,
            Some(name) => {
                let name = of_mimic(name).unwrap_or(name);
                *self.known.entry(IdDigest::of(name)).or_insert(next)
            }
        };
        self.next = next.max(number + 1);
        number
    }

    /// The number of studies whose patient is not known.
    pub fn others(&self) -> u64 {
        u64::from(self.next) - self.named()
    }

    /// The number of patients that are known by name.
    pub fn named(&self) -> u64 {
        self.known.len() as u64
    }
}

/// The patient whose folder of MIMIC-CXR's tree a path leads through, as `files/p10/p10000032/s50414267/...`.
pub fn of_path(path: &str) -> Option<&str> {
    path.split('/').find_map(of_mimic)
}

/// The number of a patient as tables of MIMIC-CXR have it; its folders are called `p` and the number.
fn of_mimic(name: &str) -> Option<&str> {
    let digits = name.strip_prefix('p')?;
    (digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit())).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn studies_of_a_patient_have_one_number_and_those_of_nobody_one_each() {
        let mut patients = Patients::default();
        let of_folder = of_path("files/p10/p10000032/s50414267/x.jpg");
        assert_eq!(of_folder, Some("10000032"));
        let names = [
            of_folder,
            None,
            Some("p10000032"),
            Some(" "),
            Some("b"),
            None,
        ];
        assert_eq!(names.map(|name| patients.number(name)), [0, 1, 0, 2, 3, 4]);
        assert_eq!((patients.named(), patients.others()), (2, 3));
        assert_eq!(of_path("p1/x.png"), None);
    }

    #[test]
    fn patients_are_counted_once_and_few_of_them_are_named() {
        let mut patients = PatientsByFinding::default();
        assert_eq!(patients.few_words(), None);
        // Edema in four images of two patients, pneumonia in thirty of as many, all else in none; of lung lesions it is known
        // that one has it, of devices that many have.
        for image in 0..60_u32 {
            let truth = Finding::ALL.map(|finding| match finding {
                Finding::Edema => Some(image < 4),
                Finding::Pneumonia => Some(image % 2 == 0),
                Finding::LungLesion => (image == 0).then_some(true),
                Finding::SupportDevices => Some(true),
                _ => Some(false),
            });
            patients.add(&truth, if image < 4 { image / 2 } else { image });
        }
        let fewest = |finding| patients.fewest(finding);
        let findings = [Finding::Edema, Finding::Pneumonia, Finding::Fracture];
        assert_eq!(findings.map(fewest), [2, FEW, 0]);
        assert_eq!(findings.map(|finding| patients.with(finding)), [2, FEW, 0]);
        let one_sided = [Finding::LungLesion, Finding::SupportDevices];
        assert_eq!(one_sided.map(fewest), [0, 0]);
        assert_eq!(one_sided.map(|finding| patients.with(finding)), [1, FEW]);
        let words = patients.few_words().unwrap();
        let named = "fewer than 10 patients with, or without, Lung Lesion (1), Edema (2): ";
        assert!(
            words.starts_with(named) && words.contains("intervals over so few are too narrow"),
            "{words}"
        );
    }
}
