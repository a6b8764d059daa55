//! The words of a text as the caption toolkit counts them: Stanford's PTB tokenizer (CoreNLP 3.4.1) in lower case, without the
//! punctuation that pycocoevalcap drops. At each place the longest match of all rules is a token, as in Stanford's lexer.

use std::sync::LazyLock;

use regex::{Regex, RegexSet};

use abbreviations::{BEFORE_NUMBERS, ENDING, ENDING_AS_NAMES, GOING_ON, OPENING};
use ahead::{Ahead, DOMAIN_CHARACTER, FILE_CHARACTER, Far, TOP_DOMAINS, WEB_CHARACTER};
use untokenizable::is_untokenizable;

mod abbreviations;
mod ahead;
mod untokenizable;

/// Tokens that do not count. Brackets stay: pycocoevalcap looks for them in upper case.
const DROPPED: [&str; 17] = [
    "''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--",
    "...", ";",
];
/// Hyphens within words, as word processors write them; alone they are dropped.
const HYPHENS: [char; 3] = ['\u{58a}', '\u{2010}', '\u{2011}'];
/// Marks where a word may be parted; no word has them.
const SOFT_HYPHEN: char = '\u{ad}';
/// How an apostrophe is written.
const APOSTROPHE: &str = r"(?:['’\u{92}]|&apos;)";
/// What is written for one within a word.
const APOSTROPHE_LIKE: &str = r"(?:['’`‘‛\u{91}\u{92}]|&apos;)";
/// What names of files end with.
const FILE_EXTENSIONS: [&str; 35] = [
    "bat", "bmp", "c", "cgi", "class", "cpp", "dll", "doc", "docx", "exe", "gif", "gz", "h", "htm",
    "html", "jar", "java", "jpeg", "jpg", "mov", "mp3", "pdf", "php", "pl", "png", "ppt", "ps",
    "py", "sql", "tar", "txt", "wav", "x", "xml", "zip",
];
/// Words that are two.
const GROWN_TOGETHER: [&str; 6] = ["cannot", "gonna", "gotta", "lemme", "gimme", "wanna"];

/// What a rule's match becomes.
#[derive(Clone, Copy)]
enum Makes {
    /// Itself, blanks inside of it not breaking.
    Itself,
    /// Two tokens: a word that has grown together, cut behind this many characters.
    Two(usize),
    /// This token.
    Is(&'static str),
    /// Itself with a straight apostrophe: "it’s".
    Clitic,
    /// Quotation marks as one writes them on a typewriter; two of them are one token.
    Quotes,
    /// Itself, and the lexer then reads the full stop again.
    StopTwice,
    /// Itself. It may end far behind, and is looked for where one ends.
    Far(Far),
}

struct Rule {
    pattern: Regex,
    makes: Makes,
}

/// Rules, of equally long matches of which the first is taken.
struct Rules {
    rules: Vec<Rule>,
    /// Which of them match is found in one go: they are many, and few do. Never those that may end far behind, which are asked one by
    /// one where they may, and those that look for the end of a word, which no automaton does beside letters beyond ASCII.
    near: RegexSet,
}

impl Rules {
    fn new<const N: usize>(rules: [(String, Makes); N]) -> Self {
        // Anchored as all of them: with one that is not, a set reads each text to its end.
        const NEVER: &str = r"^[^\s\S]";
        let anchored = rules.map(|(pattern, makes)| (format!("^(?:{pattern})"), makes));
        let near = anchored.each_ref().map(|(pattern, makes)| match makes {
            Makes::Far(_) | Makes::Two(_) => NEVER,
            _ => pattern,
        });
        let near = RegexSet::new(near).unwrap_or_else(|error| unreachable!("{error}"));
        let rules = anchored.into_iter().map(|(pattern, makes)| Rule {
            pattern: constant(&pattern),
            makes,
        });
        Self {
            rules: rules.collect(),
            near,
        }
    }

    /// The rules that match at the beginning, or may.
    fn possible<'a>(&'a self, rest: &str, ahead: &'a Ahead) -> impl Iterator<Item = &'a Rule> {
        let near = self.near.matches(rest);
        let rules = self.rules.iter().enumerate();
        rules.filter_map(move |(place, rule)| {
            let is_possible = match rule.makes {
                Makes::Far(far) => ahead.allows(far),
                Makes::Two(_) => true,
                _ => near.matched(place),
            };
            is_possible.then_some(rule)
        })
    }
}

/// Rules for tokens that begin with a letter or digit; of equally long matches the first is taken. The first group, where a
/// rule has one, is the token, and what follows it is only looked at.
static WORDS: LazyLock<Rules> = LazyLock::new(|| {
    let (ending, going_on) = (ending(), any_case(GOING_ON));
    let (before_numbers, opening) = (any_case(BEFORE_NUMBERS), capitals(OPENING));
    Rules::new([
        (r"(?i)(cannot)\b".to_owned(), Makes::Two(3)),
        (
            r"(?i)(gonna|gotta|lemme|gimme|wanna)\b".to_owned(),
            Makes::Two(3),
        ),
        (format!(r"({ending}\.)\s+[A-Z]"), Makes::StopTwice),
        (format!(r"({ending}\.)"), Makes::Itself),
        (format!(r"({going_on}\.)"), Makes::Itself),
        (format!(r"({before_numbers}\.)\s?[0-9]"), Makes::Itself),
        (
            format!(r"([A-Za-z](?:\.[A-Za-z])+\.)\s+{opening}\s"),
            Makes::StopTwice,
        ),
        (r"([A-Za-z](?:\.[A-Za-z])+\.)".to_owned(), Makes::Itself),
        (format!(r"([A-Za-z])\.\s+{opening}\s"), Makes::Itself),
        (r"([A-Za-z]\.)".to_owned(), Makes::Itself),
        (
            r"([\p{L}\p{M}\u{ad}][\p{L}\p{Nd}\p{M}\u{ad}]*(?:[.!?]\p{L}[\p{L}\p{Nd}\p{M}]*)*)"
                .to_owned(),
            Makes::Itself,
        ),
        (
            r"([A-Za-z0-9][A-Za-z0-9.,\u{ad}]*(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9\u{ad}]+))+)"
                .to_owned(),
            Makes::Far(Far::Hyphenated),
        ),
        (
            r"([\p{L}\p{Nd}](?:[-_\u{58a}\u{2010}\u{2011}]?[\p{L}\p{Nd}])*)".to_owned(),
            Makes::Itself,
        ),
        (
            r"([A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2})"
                .to_owned(),
            Makes::Itself,
        ),
        (
            r"([0-9]{1,2}(?:-|\\?/)[0-9]{1,2}(?:-|\\?/)[0-9]{2,4})".to_owned(),
            Makes::Itself,
        ),
        (
            r"([0-9]{2,4}[- ])?[0-9]{2,4}[- ][0-9]{3,4}[- ]?[0-9]{3,5}".to_owned(),
            Makes::Itself,
        ),
        (
            r"((?:[0-9]{1,4}[- ])?[0-9]{1,4}\\?/[0-9]{1,4})".to_owned(),
            Makes::Itself,
        ),
        (r"([0-9]+(?:[.:,][0-9]+)*)".to_owned(), Makes::Itself),
        (r"([A-Za-z0-9](?:_?[A-Za-z0-9])*)".to_owned(), Makes::Itself),
        // A full stop before another mark ends no sentence, so that it is one of an abbreviation.
        (
            r"((?:[\p{L}\p{M}][\p{L}\p{Nd}\p{M}]*|[\p{L}\p{Nd}](?:[-_\u{58a}\u{2010}\u{2011}]?[\p{L}\p{Nd}])*)\.)[,;:]"
                .to_owned(),
            Makes::Itself,
        ),
        (r"([A-Z]+(?:(?:\+|&(?i:amp;)?)[A-Z]+)+)".to_owned(), Makes::Itself),
        (r"([A-Z]+\$)".to_owned(), Makes::Itself),
        (r"(x_[-^x=~<>'])".to_owned(), Makes::Itself),
        (r"([cCfF]#|[cC]\+\+)".to_owned(), Makes::Itself),
    ])
});

/// Rules for words with an apostrophe, which come before the others.
static APOSTROPHES: LazyLock<Rules> = LazyLock::new(|| {
    Rules::new([
        // What is behind "do" of "don't" is read again.
        (
            format!(r"([A-Za-z]+)[nN]{APOSTROPHE_LIKE}[tT]"),
            Makes::Itself,
        ),
        // Before a clitic.
        (
            format!(r"(\p{{L}}+)(?i:{APOSTROPHE}(?:s|m|d|re|ve|ll))"),
            Makes::Itself,
        ),
        // "O'Brien", "Ma'am", "Hawai'i".
        (
            format!(r"([A-HJ-XZn]{APOSTROPHE_LIKE}\p{{L}}{{2,}})"),
            Makes::Itself,
        ),
        (
            format!(r"(\p{{L}}+[aeiouyAEIOUY]{APOSTROPHE_LIKE}[aeiouA-Z]\p{{L}}*)"),
            Makes::Itself,
        ),
        (
            format!(
                r"([dDlLoO]{APOSTROPHE_LIKE}[\p{{L}}\p{{Nd}}]{{2,}}(?:[-_]?[\p{{L}}\p{{Nd}}])*)"
            ),
            Makes::Itself,
        ),
        (
            format!(r"([nN]{APOSTROPHE}[tT])(?:[^A-Za-z]|$)"),
            Makes::Is("n't"),
        ),
        (
            r"([nN][`‘‛\u{91}][tT])(?:[^A-Za-z]|$)".to_owned(),
            Makes::Is("n`t"),
        ),
        (format!(r"([lLdDjJ]{APOSTROPHE})"), Makes::Itself),
        (format!(r"([yY]{APOSTROPHE})\p{{L}}"), Makes::Itself),
        (
            format!(
                r"((?:(?i:dunkin|somethin|ol){APOSTROPHE}|(?i:c'mon|cont'd\.|e'er|ev'ry|li'l|nat'l|nor'easter|s'mores)))"
            ),
            Makes::Itself,
        ),
    ])
});

/// Rules for tokens that begin with anything else.
static SIGNS: LazyLock<Rules> = LazyLock::new(|| {
    Rules::new(
        [
            (
                r"(<(?:[!?][A-Za-z-][^>\r\n]*|/?[A-Za-z][A-Za-z0-9:.-]*(?: [^>\r\n]*)?/?)>)",
                Makes::Far(Far::Tag),
            ),
            (r"(?i)('t)(?:is|was)", Makes::Itself),
            (r"((?i:'(?:s|m|d|re|ve|ll)))(?:[^A-Za-z]|$)", Makes::Clitic),
            (
                r"((?i:(?:[’\u{92}]|&apos;)(?:s|m|d|re|ve|ll)))",
                Makes::Clitic,
            ),
            (
                r"((?i:(?:['’\u{92}]|&apos;)(?:em|till?)|'cause))",
                Makes::Itself,
            ),
            (
                r"((?:['’\u{92}]|&apos;)n(?:['’\u{92}]|&apos;))",
                Makes::Itself,
            ),
            (r"('n)(?:\s|$)", Makes::Itself),
            (r"((?:[’\u{92}]|&apos;)n)", Makes::Itself),
            (
                r"([-+]?(?:[0-9]+(?:[.:,][0-9]+)*|(?:[.:,][0-9]+)+))",
                Makes::Itself,
            ),
            (
                r"(\([0-9]{2,3}\)[  ]?[0-9]{3,4}[- ]?[0-9]{3,5})",
                Makes::Itself,
            ),
            (r"(['’][2-9]0s)", Makes::Itself),
            (r"((?:['’\u{92}]|&apos;)[0-9]{2})(?:\s|$)", Makes::Itself),
            (r"([¹²³⁰⁴-⁹]+|[₀-₉]+)", Makes::Itself),
            (
                r"([<>]?[:;=]['*o-]?[()@DOP\[\\\]dp{|])(?:[^A-Za-z0-9]|$)",
                Makes::Itself,
            ),
            // A face.
            (r"([-^=~<>']_[-^x=~<>'])", Makes::Itself),
            // As a tokenizer has written them.
            (r"(-(?i:lrb|rrb|lcb|rcb|lsb|rsb)-)", Makes::Itself),
            (r"(\.{3,5}|(?:\.[ ]){2,4}\.)", Makes::Is("...")),
            (r"(-{2,}|[–—])", Makes::Is("--")),
            (r"(…)", Makes::Is("...")),
            (r"([?!]{2,})", Makes::Itself),
            (r"([?!])", Makes::Is("?")),
            (r"(_+)", Makes::Itself),
            (r"(\*+|(?:\\\*){1,3})", Makes::Itself),
            (r"(#+)", Makes::Itself),
            (r"(@+)", Makes::Itself),
            (r"(#\p{L}+)", Makes::Itself),
            (r"(@[A-Za-z_][A-Za-z0-9_]*)", Makes::Itself),
            (r"(£)", Makes::Is("#")),
            (r"([€¤\u{80}])", Makes::Is("$")),
            (r"(¢)", Makes::Is("cents")),
            (r#"("|(?i:&quot;|&apos;)|''|')"#, Makes::Is("'")),
            (r"([`‘’‚‛“”„‟‹›«»\u{91}-\u{94}]{1,2})", Makes::Quotes),
            (r"(<<|>>)", Makes::Itself),
            (r"(\()", Makes::Is("-lrb-")),
            (r"(\))", Makes::Is("-rrb-")),
            (r"(\[)", Makes::Is("-lsb-")),
            (r"(\])", Makes::Is("-rsb-")),
            (r"(\{)", Makes::Is("-lcb-")),
            (r"(\})", Makes::Is("-rcb-")),
            (r"(?i)(&amp;)", Makes::Is("&")),
            (r"(?i)(&lt;)", Makes::Is("<")),
            (r"(?i)(&gt;)", Makes::Is(">")),
            (r"(½)", Makes::Is("1/2")),
            (r"(¼)", Makes::Is("1/4")),
            (r"(¾)", Makes::Is("3/4")),
            (r"(⅓)", Makes::Is("1/3")),
            (r"(⅔)", Makes::Is("2/3")),
        ]
        .map(|(pattern, makes)| (pattern.to_owned(), makes)),
    )
});

/// Addresses and names of files, whatever they begin with.
static ADDRESSES: LazyLock<Rules> = LazyLock::new(|| {
    let path = r#"/[^ \t\n\f\r"<>|()]+[^ \t\n\f\r"<>|.!?(){},-]"#;
    let host = r#"[^ \t\n\f\r"<>|(){}.\u{a0}]+"#;
    let extensions = FILE_EXTENSIONS.join("|");
    Rules::new([
        (
            r#"((?i:https?)://[^ \t\n\f\r"<>|()]+[^ \t\n\f\r"<>|.!?(){},-])"#.to_owned(),
            Makes::Itself,
        ),
        (
            format!(r"((?i:www)\.(?:{WEB_CHARACTER}+\.)+[A-Za-z]{{2,4}})"),
            Makes::Far(Far::Web),
        ),
        (
            format!(r"((?i:www)\.(?:{WEB_CHARACTER}+\.)+[A-Za-z]{{2,4}}{path})"),
            Makes::Far(Far::Web),
        ),
        (
            format!(r"((?:{DOMAIN_CHARACTER}+\.)+{TOP_DOMAINS}(?:{path})?)"),
            Makes::Far(Far::Domain),
        ),
        (
            format!(
                r#"((?:&lt;|<)?[A-Za-z0-9][^ \t\n\f\r"<>|(){{}}\u{{a0}}]*@(?:{host}\.)*{host}(?:&gt;|>)?)"#
            ),
            Makes::Far(Far::Mail),
        ),
        (
            format!(
                r"({FILE_CHARACTER}+(?:\.{FILE_CHARACTER}+)*\.(?i:{extensions}))(?:[ \t\n\r.?!,]|$)"
            ),
            Makes::Far(Far::File),
        ),
    ])
});

/// Words in any case.
fn any_case(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| regex::escape(word)).collect();
    format!("(?i:{})", words.join("|"))
}

/// Words that begin with a capital, or have only capitals.
fn capitals(words: &[&str]) -> String {
    let first = |word: &str| word[..1].to_uppercase() + &word[1..];
    let both = words
        .iter()
        .flat_map(|word| [first(word), word.to_uppercase()]);
    let words: Vec<String> = both.map(|word| regex::escape(&word)).collect();
    format!("(?:{})", words.join("|"))
}

fn ending() -> String {
    format!("(?:{}|{})", any_case(ENDING), capitals(ENDING_AS_NAMES))
}

fn compiled(pattern: &str) -> Regex {
    constant(&format!("^(?:{pattern})"))
}

fn constant(pattern: &str) -> Regex {
    // The patterns are constants: the tests below compile them.
    Regex::new(pattern).unwrap_or_else(|error| unreachable!("{error}"))
}

/// Splits a text into the toolkit's tokens, in lower case, punctuation dropped. A token can have blanks that do not break
/// ("2 1/2"), as Stanford's.
pub fn ptb_words(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    // What the lexer does not know ends a token, and is none.
    match text.is_ascii() {
        true => split(text, &mut tokens),
        false => text
            .split(is_untokenizable)
            .for_each(|part| split(part, &mut tokens)),
    }
    tokens.retain(|token| !DROPPED.contains(&token.as_str()));
    tokens
}

fn split(text: &str, tokens: &mut Vec<String>) {
    let mut rest = text;
    let mut ahead = Ahead::default();
    while let Some(first) = rest.chars().next() {
        if first.is_whitespace() {
            rest = &rest[first.len_utf8()..];
            continue;
        }
        if let Some(word) = plain(rest) {
            tokens.push(word.to_ascii_lowercase());
            rest = &rest[word.len()..];
            continue;
        }
        ahead.look(text, text.len() - rest.len());
        rest = &rest[next(rest, first, &ahead, tokens)..];
    }
}

/// The word at the beginning if it is one of letters before white space or before a comma and white space, which all rules but
/// those of [`GROWN_TOGETHER`] agree about.
fn plain(rest: &str) -> Option<&str> {
    let is_letter = |byte: &u8| byte.is_ascii_alphabetic();
    let length = rest.bytes().take_while(is_letter).count();
    let (word, after) = rest.split_at(length);
    let after = after.strip_prefix(',').unwrap_or(after);
    let ends = after.is_empty() || after.starts_with([' ', '\n']);
    let is_grown = || {
        GROWN_TOGETHER
            .iter()
            .any(|grown| grown.eq_ignore_ascii_case(word))
    };
    (length > 0 && ends && !is_grown()).then_some(word)
}

/// A quotation mark as one writes it on a typewriter.
fn typed(mark: char) -> String {
    let typed = match mark {
        '‘' | '‛' | '‹' | '\u{91}' => "`",
        '’' | '›' | '\u{92}' => "'",
        '“' | '«' | '\u{93}' => "``",
        '”' | '»' | '\u{94}' => "''",
        mark => return mark.to_string(),
    };
    typed.to_owned()
}

/// Whether a word may begin with this character: a letter, a digit, or a mark whose letter is missing.
fn begins_word(first: char) -> bool {
    static MARK: LazyLock<Regex> = LazyLock::new(|| compiled(r"\p{M}"));
    let is_mark = || MARK.is_match(first.encode_utf8(&mut [0; 4]));
    first.is_alphabetic() || first.is_ascii_digit() || !first.is_ascii() && is_mark()
}

/// Adds the token at the beginning, of which is known what lies ahead; returns how many bytes it took.
fn next(rest: &str, first: char, ahead: &Ahead, tokens: &mut Vec<String>) -> usize {
    let rules = match begins_word(first) {
        true => &*WORDS,
        false => &*SIGNS,
    };
    // What no rule of these can match is not asked about: most words are plain.
    let tables = [
        ahead.has_apostrophe.then(|| &*APOSTROPHES),
        Some(rules),
        ahead.has_address.then(|| &*ADDRESSES),
    ];
    let mut best: Option<(usize, &Rule)> = None;
    let possible = |table: &'static Rules| table.possible(rest, ahead);
    for rule in tables.into_iter().flatten().flat_map(possible) {
        // What is only looked at counts for the choice of the rule, as in a lexer.
        if let Some(found) = rule.pattern.find(rest)
            && best.is_none_or(|(length, _)| found.len() > length)
        {
            best = Some((found.len(), rule));
        }
    }
    let best = best.and_then(|(whole, rule)| {
        let found = rule.pattern.captures(rest)?;
        Some((found.get(1).map_or(whole, |group| group.len()), rule))
    });
    let lower = |text: &str| {
        let text = text.to_lowercase().replace(' ', "\u{a0}");
        // Brackets inside of a token, as in a telephone number.
        let text = text.replace('(', "-lrb-").replace(')', "-rrb-");
        text.replace("&amp;", "&").replace(SOFT_HYPHEN, "")
    };
    let Some((length, rule)) = best else {
        if first != SOFT_HYPHEN && !HYPHENS.contains(&first) {
            tokens.push(lower(&rest[..first.len_utf8()]));
        }
        return first.len_utf8();
    };
    let token = &rest[..length];
    match rule.makes {
        Makes::Itself | Makes::Far(_) => tokens.push(lower(token)),
        Makes::Is(token) => tokens.push(token.to_owned()),
        Makes::Quotes => tokens.push(token.chars().map(typed).collect()),
        Makes::Clitic => {
            let letters = token.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
            let letters = letters.strip_prefix("apos;").unwrap_or(letters);
            tokens.push(format!("'{}", lower(letters)));
        }
        Makes::Two(at) => tokens.extend([lower(&token[..at]), lower(&token[at..])]),
        Makes::StopTwice => {
            tokens.push(lower(token));
            tokens.push(".".to_owned());
        }
    }
    length
}

#[cfg(test)]
mod tests;
