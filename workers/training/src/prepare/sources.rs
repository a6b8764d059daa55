//! The published collections, as their publishers give them.

mod folder;
pub(crate) mod mimic_cxr;
pub(crate) mod nih;
pub(crate) mod open_i;
mod patient_split;
pub(crate) mod radlabels;
