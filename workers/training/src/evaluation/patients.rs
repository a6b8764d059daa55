//! Who a study is of: studies of one patient are alike, and are drawn together where intervals are.

use std::collections::HashMap;

use super::id_digest::IdDigest;
pub(crate) use crate::data::table_check::PATIENT_COLUMNS;

/// Numbers for patients, from 0 on.
#[derive(Clone, Debug, Default)]
pub struct Patients {
    known: HashMap<IdDigest, u32>,
    next: u32,
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
}
