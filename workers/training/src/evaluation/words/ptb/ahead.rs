//! What lies ahead in a text, looked at once for all tokens before it. Tokens that may end far behind, as addresses, would else be
//! looked for from each place on to the end of the text, and a text of so many places takes their number times its length.

use std::sync::LazyLock;

use regex::Regex;

use super::{FILE_EXTENSIONS, SOFT_HYPHEN, compiled};

/// The characters that an apostrophe, or what is written for one, begins with.
const LIKE_APOSTROPHES: [char; 8] = ['\'', '’', '`', '‘', '‛', '\u{91}', '\u{92}', '&'];

/// A character of a label of a web address, of a domain, as the lexer has it without capitals, digits and hyphens, and of the name of
/// a file.
pub(super) const WEB_CHARACTER: &str = r#"[^ \t\n\f\r"<>|.!?(){},]"#;
pub(super) const DOMAIN_CHARACTER: &str = r#"[^ \t\n\f\r"`'<>|.!?(){},-_$]"#;
pub(super) const FILE_CHARACTER: &str = r"[\p{L}\p{Nd}]";
/// What a domain ends with.
pub(super) const TOP_DOMAINS: &str = "(?i:com|net|org|edu)";

/// A token that may end far behind its beginning. Where [`Ahead`] allows one and its first characters fit, it is there, so that what
/// is read for it is taken, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Far {
    /// A hyphen behind letters, digits, dots and commas.
    Hyphenated,
    /// A tag, which ends with > in its line.
    Tag,
    /// An e-mail address.
    Mail,
    /// An address that begins with www.
    Web,
    /// A domain, without capitals, digits and hyphens.
    Domain,
    /// The name of a file.
    File,
}

/// What lies ahead of a place.
#[derive(Default)]
pub(super) struct Ahead {
    /// The place.
    from: usize,
    /// Where the next blank is.
    blank: usize,
    /// Whether anything before it may be an apostrophe, and whether an address may begin before it.
    pub(super) has_apostrophe: bool,
    pub(super) has_address: bool,
    /// Where the letters, digits, dots and commas end, and whether a hyphen and more of them is there.
    number: usize,
    has_hyphen: bool,
    /// Where the line or the tag ends.
    line: usize,
    has_tag_end: bool,
    /// Where the characters end that may stand in an e-mail address, and behind the last @ among them that a host follows.
    mail: usize,
    at: usize,
    web: Labels,
    domain: Labels,
    file: Labels,
}

/// Labels that single dots part.
#[derive(Default)]
struct Labels {
    /// Where they end.
    end: usize,
    /// Where the last one begins that ends a token, behind its dot.
    last: usize,
}

/// How the labels of a name with dots look (of a host, a file), and what the last one begins with.
struct DottedName {
    labels: Regex,
    last: Regex,
}

impl DottedName {
    fn new(character: &str, last: &str) -> Self {
        Self {
            labels: compiled(&format!(r"\.?{character}+(?:\.{character}+)*\.?")),
            last: compiled(last),
        }
    }
}

static WEB: LazyLock<DottedName> = LazyLock::new(|| DottedName::new(WEB_CHARACTER, "[A-Za-z]{2}"));

static DOMAIN: LazyLock<DottedName> =
    LazyLock::new(|| DottedName::new(DOMAIN_CHARACTER, TOP_DOMAINS));

static FILE: LazyLock<DottedName> = LazyLock::new(|| {
    let extensions = FILE_EXTENSIONS.join("|");
    let last = format!(r"(?i:{extensions})(?:[ \t\n\r.?!,]|$)");
    DottedName::new(FILE_CHARACTER, &last)
});

impl Ahead {
    /// Goes on to a place of the text. Each part of it is read again only behind its end.
    pub(super) fn look(&mut self, text: &str, from: usize) {
        self.from = from;
        let to = |ends: &dyn Fn(char) -> bool| {
            let end = text[from..].find(ends);
            end.map_or(text.len(), |at| from + at)
        };
        if from >= self.blank {
            self.blank = to(&|c| matches!(c, ' ' | '\t' | '\n' | '\r'));
            let part = &text[from..self.blank];
            self.has_apostrophe = part.contains(LIKE_APOSTROPHES);
            self.has_address = may_be_address(part);
        }
        if from >= self.number {
            let goes_on = |c: char| c.is_ascii_alphanumeric() || c == SOFT_HYPHEN;
            self.number = to(&|c| !(goes_on(c) || matches!(c, '.' | ',')));
            let behind = text[self.number..].strip_prefix('-');
            self.has_hyphen = behind.is_some_and(|behind| behind.starts_with(goes_on));
        }
        if from >= self.line {
            let end = to(&|c| matches!(c, '>' | '\r' | '\n'));
            self.has_tag_end = text[end..].starts_with('>');
            self.line = (end + 1).min(text.len());
        }
        if from >= self.mail {
            let ends = |c: char| c.is_ascii_whitespace() || "\"<>|(){}\u{a0}".contains(c);
            self.mail = to(&ends);
            let part = &text[from..self.mail];
            let has_host = |at: &usize| !matches!(part.as_bytes().get(at + 1), None | Some(b'.'));
            let mut signs = part.rmatch_indices('@').map(|(at, _)| at);
            self.at = signs.find(has_host).map_or(0, |at| from + at + 1);
        }
        if self.has_address {
            self.web.look(text, from, &WEB);
            self.domain.look(text, from, &DOMAIN);
            self.file.look(text, from, &FILE);
        }
    }

    /// As if everything lay ahead of every place.
    #[cfg(test)]
    pub(super) fn everything() -> Self {
        let labels = || Labels {
            end: usize::MAX,
            last: usize::MAX,
        };
        Self {
            has_apostrophe: true,
            has_address: true,
            has_hyphen: true,
            has_tag_end: true,
            at: usize::MAX,
            web: labels(),
            domain: labels(),
            file: labels(),
            ..Self::default()
        }
    }

    /// Whether such a token may begin at the place.
    pub(super) fn allows(&self, far: Far) -> bool {
        match far {
            Far::Hyphenated => self.has_hyphen,
            Far::Tag => self.has_tag_end,
            // An address may begin with a bracket, which it does not have inside.
            Far::Mail => self.from < self.at || self.from == self.mail,
            Far::Web => self.web.has_more(self.from + "www.".len()),
            Far::Domain => self.domain.has_more(self.from),
            Far::File => self.file.has_more(self.from),
        }
    }
}

impl Labels {
    fn look(&mut self, text: &str, from: usize, rule: &DottedName) {
        if from < self.end {
            return;
        }
        let found = rule.labels.find(&text[from..]);
        self.end = from + found.map_or(0, |found| found.end());
        let dots = text[from..self.end].rmatch_indices('.');
        let mut begins = dots.map(|(at, dot)| from + at + dot.len());
        self.last = begins
            .find(|at| rule.last.is_match(&text[*at..]))
            .unwrap_or(0);
    }

    /// Whether a label and its dot are between this place and the last one that ends a token.
    fn has_more(&self, from: usize) -> bool {
        from + 1 < self.last
    }
}

/// Whether an address or the name of a file may begin here: what comes before the next blank has a dot or an @ with something behind.
fn may_be_address(part: &str) -> bool {
    let mut bytes = part.as_bytes().windows(2);
    bytes.any(|pair| match pair[0] {
        b'.' => !b"\"<>|().,!?;:".contains(&pair[1]),
        b'@' => true,
        _ => pair == b"//",
    })
}
