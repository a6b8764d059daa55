//! A radiology report cut into its sections, as the original's parser does it for MIMIC-CXR. Its oddities are kept, since
//! the published data sets were made with them: a header needs a line of its own start, one blank and capitals; digits or
//! lower case make it text.

mod names;

/// The section of a text without any header.
const FULL_REPORT: &str = "full report";
/// What stands before the first header.
const PREAMBLE: &str = "preamble";
/// What follows the first empty line of the last section, where a report has neither findings nor impression.
const LAST_PARAGRAPH: &str = "last_paragraph";
/// Such an empty line: in MIMIC-CXR every line starts with a blank.
const PARAGRAPH_BREAK: &str = "\n \n";

/// One section of a radiology report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section<'a> {
    /// Normalised name, e.g. `findings`.
    pub name: String,
    /// The text as it stands in the report, blanks and newlines included.
    pub text: &'a str,
    /// Where it starts, in characters; after a last paragraph was cut off, the original's own count.
    pub start: usize,
}

/// The sections that the data sets are made of; empty where a report has none of that name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Impression.
    pub impression: String,
    /// Findings.
    pub findings: String,
    /// Last paragraph of a report without both.
    pub last_paragraph: String,
    /// Comparison.
    pub comparison: String,
}

/// A header: from its newline to the white space behind its colon.
struct Header<'a> {
    start: usize,
    name: &'a str,
    name_start: usize,
    end: usize,
}

impl Report {
    /// Cuts a report into the four sections; of several with the same name the last one counts.
    pub fn of(text: &str) -> Self {
        let sections = sections(text);
        let last = |name: &str| {
            let found = sections.iter().rev().find(|section| section.name == name);
            found.map_or_else(String::new, |section| strip(section.text).to_owned())
        };
        Self {
            impression: last("impression"),
            findings: last("findings"),
            last_paragraph: last(LAST_PARAGRAPH),
            comparison: last("comparison"),
        }
    }
}

/// Cuts a report into all of its sections, in order.
pub fn sections(text: &str) -> Vec<Section<'_>> {
    let mut sections = cut(text);
    sections.retain(|section| !(is_main(&section.name) && strip(section.text).is_empty()));
    if !sections.iter().any(|section| is_main(&section.name))
        && let Some(last) = sections.last_mut()
        && let Some((kept, rest)) = last.text.split_once(PARAGRAPH_BREAK)
    {
        last.text = kept;
        let start = last.start + kept.chars().count();
        sections.push(Section {
            name: LAST_PARAGRAPH.to_owned(),
            text: rest,
            start,
        });
    }
    sections
}

/// Without the white space at both ends, as Python sees white space.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

fn cut(text: &str) -> Vec<Section<'_>> {
    let Some(first) = header(text, 0) else {
        return vec![Section {
            name: FULL_REPORT.to_owned(),
            text,
            start: 0,
        }];
    };
    let before = &text[..first.name_start];
    let mut sections = vec![Section {
        name: PREAMBLE.to_owned(),
        text: before,
        start: 0,
    }];
    // Characters before byte `counted`, so that a long report is counted once.
    let (mut characters, mut counted) = (0, 0);
    let mut next = Some(first);
    while let Some(current) = next {
        let start = current.end;
        characters += text[counted..start].chars().count();
        counted = start;
        // The line that a header stands on cannot hold another; where the header ends in its newline, the line below is
        // taken for it.
        let skipped = text[start..].find('\n').unwrap_or(0);
        next = header(text, start + skipped);
        let end = next.as_ref().map_or(text.len(), |header| header.start);
        let name = names::normalise(&current.name.to_lowercase());
        sections.push(Section {
            name,
            text: &text[start..end],
            start: characters,
        });
    }
    sections
}

/// The first header that starts at byte `from` or later.
fn header(text: &str, from: usize) -> Option<Header<'_>> {
    let mut search = from;
    while let Some(found) = text[search..].find("\n ") {
        let start = search + found;
        let name_start = start + 2;
        let rest = &text[name_start..];
        let length = rest.bytes().take_while(|&byte| in_name(byte)).count();
        let mut behind = rest[length..].chars();
        if length > 0
            && behind.next() == Some(':')
            && let Some(space) = behind.next().filter(|&c| is_space(c))
        {
            let end = name_start + length + 1 + space.len_utf8();
            return Some(Header {
                start,
                name: &rest[..length],
                name_start,
                end,
            });
        }
        search = start + 1;
    }
    None
}

fn in_name(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b' ' | b'(' | b')' | b'/' | b',' | b'-')
}

fn is_main(name: &str) -> bool {
    matches!(name, "impression" | "findings")
}

/// Python counts the four separator controls as white space, too.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        sections(text)
            .into_iter()
            .map(|section| section.name)
            .collect()
    }

    #[test]
    fn digits_and_lower_case_make_no_header() {
        assert_eq!(names("x\n PROCEDURE 1: a\n Findings: b"), ["full report"]);
    }

    #[test]
    fn the_last_findings_section_counts_and_is_stripped() {
        let report = Report::of("x\n FINDINGS: one\n FINDINGS:  two \n");
        assert_eq!(report.findings, "two");
        assert_eq!(report.impression, "");
    }

    #[test]
    fn blank_findings_are_as_good_as_none() {
        let text = "x\n FINDINGS: \n COMPARISON: none.\n \n Clear lungs.";
        assert_eq!(names(text), ["preamble", "comparison", "last_paragraph"]);
        assert_eq!(Report::of(text).last_paragraph, "Clear lungs.");
    }
}
