//! The words of a text as the caption toolkit counts them: Stanford's PTB tokenizer (CoreNLP 3.4.1) in lower case, without the
//! punctuation that pycocoevalcap drops. At each place the longest match of all rules is a token, as in Stanford's lexer.
//! Rules for web addresses, money and languages other than English are left out.

use std::sync::LazyLock;

use regex::Regex;

/// Tokens that do not count. Brackets stay: pycocoevalcap looks for them in upper case.
const DROPPED: [&str; 17] = [
    "''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--",
    "...", ";",
];
/// Abbreviations whose full stop ends a sentence, too, if a capital follows: Stanford then makes two tokens of it.
const CLOSING: &str = r"(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec|Mon|Tue|Tues|Wed|Thu|Thurs|Fri|Inc|Cos?|Corp|Ltd|Plc|[Dd]ept|[Uu]niv|Assn|Intl|etc|[Ee]tc|al|seq|C[Tt]|P[Aa]|Ph\.D|Ed\.D|Bros|Esq|[Ee]xt)";
/// Abbreviations that go on: titles, "vs." and the like.
const GOING_ON: &str = r"(?:Mrs?|Ms|Miss|Drs?|Profs?|Sens?|Reps?|Attys?|Lt|Col|Gen|Messrs|Govs?|Adm|Rev|Maj|Sgt|Cpl|Pvt|Capt|Ste?|Ave|Pres|Lieut|Hon|Brig|Co?mdr|Pfc|Spc|Supts?|Det|[Jj]r|[Ss]r|vs|[Vv]s|Mt|ave|ext|dr|mr|mrs|ms|st|Alex|Wm|Jos|Cie|a\.k\.a|cf|dept)";
/// Words that begin a sentence, after which an initial is no initial.
const OPENING: &str = r"(?:About|According|Additionally|After|An|A|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|More|Mr\.|Ms\.|Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|When|While|What|Yet|You)";

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
    /// Itself, and the lexer then reads the full stop again.
    StopTwice,
    /// Itself without its last two characters: "don't".
    BeforeNot,
}

struct Rule {
    pattern: Regex,
    makes: Makes,
}

/// Rules for tokens that begin with a letter or digit; of equally long matches the first is taken. The first group, where a
/// rule has one, is the token, and what follows it is only looked at.
static WORDS: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let not = r"(?:'|’)[Tt]\b";
    [
        (r"(?i)(cannot)\b".to_owned(), Makes::Two(3)),
        (
            r"(?i)(gonna|gotta|lemme|gimme|wanna)\b".to_owned(),
            Makes::Two(3),
        ),
        (format!(r"([A-Za-z]*[nN]{not})"), Makes::BeforeNot),
        (format!(r"({CLOSING}\.)\s+[A-Z]"), Makes::StopTwice),
        (format!(r"({CLOSING}\.)(?:[^.]|$)"), Makes::Itself),
        (format!(r"({GOING_ON}\.)"), Makes::Itself),
        (
            r"((?i:nos?|art|fig|figs|p|pp)\.)\s?[0-9]".to_owned(),
            Makes::Itself,
        ),
        (
            format!(r"([A-Za-z](?:\.[A-Za-z])+\.)\s+{OPENING}\s"),
            Makes::StopTwice,
        ),
        (r"([A-Za-z](?:\.[A-Za-z])+\.)".to_owned(), Makes::Itself),
        (format!(r"([A-Za-z])\.\s+{OPENING}\s"), Makes::Itself),
        (r"([A-Za-z]\.)".to_owned(), Makes::Itself),
        (
            r"([A-CE-KM-NP-Za-ce-km-np-z]['’][A-Za-z]{3,})".to_owned(),
            Makes::Itself,
        ),
        (
            r"([dDoOlLjJ]['’][A-Za-z]{2,}[A-Za-z0-9]*)".to_owned(),
            Makes::Itself,
        ),
        (
            r"([\p{L}\u{ad}][\p{L}\p{Nd}\p{M}\u{ad}]*(?:[.!?]\p{L}[\p{L}\p{Nd}\p{M}]*)*)"
                .to_owned(),
            Makes::Itself,
        ),
        (
            r"([A-Za-z0-9][A-Za-z0-9.,]*(?:-[A-Za-z0-9]+)+)".to_owned(),
            Makes::Itself,
        ),
        (
            r"([A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2})"
                .to_owned(),
            Makes::Itself,
        ),
        (
            r"([0-9]{1,2}[-/][0-9]{1,2}[-/][0-9]{2,4})".to_owned(),
            Makes::Itself,
        ),
        (
            r"([0-9]{2,4}[- ])?[0-9]{2,4}[- ][0-9]{3,4}[- ]?[0-9]{3,5}".to_owned(),
            Makes::Itself,
        ),
        (
            r"((?:[0-9]{1,4}[- ])?[0-9]{1,4}/[0-9]{1,4})".to_owned(),
            Makes::Itself,
        ),
        (r"([0-9]+(?:[.:,][0-9]+)*)".to_owned(), Makes::Itself),
        (r"([A-Za-z0-9]+[A-Za-z0-9]*)".to_owned(), Makes::Itself),
    ]
    .map(|(pattern, makes)| Rule {
        pattern: compiled(&pattern),
        makes,
    })
    .into()
});

/// Rules for tokens that begin with anything else.
static SIGNS: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    [
        (
            r"(<(?:[!?][A-Za-z-][^>\r\n]*|/?[A-Za-z][A-Za-z0-9:.-]*(?: [^>\r\n]*)?/?)>)",
            Makes::Itself,
        ),
        (r"(?i)('t)(?:is|was)\b", Makes::Itself),
        (
            r"((?i:['’](?:s|m|d|re|ve|ll)))(?:[^A-Za-z0-9]|$)",
            Makes::Itself,
        ),
        (
            r"([-+]?(?:[0-9]+(?:[.:,][0-9]+)*|(?:[.:,][0-9]+)+))",
            Makes::Itself,
        ),
        (
            r"(\([0-9]{2,3}\)[  ]?[0-9]{3,4}[- ]?[0-9]{3,5})",
            Makes::Itself,
        ),
        (r"(['’][2-9]0s)", Makes::Itself),
        (
            r"([<>]?[:;=][-o*']?[()DPdpO\\:{@|\[\]])(?:[^A-Za-z]|$)",
            Makes::Itself,
        ),
        (r"(\.{3,5}|(?:\.[ ]){2,4}\.)", Makes::Is("...")),
        (r"(-{2,}|[–—])", Makes::Is("--")),
        (r"([?!]+)", Makes::Is("?")),
        (r"(_+)", Makes::Itself),
        (r"(\*+)", Makes::Itself),
        (r"(#[A-Za-z_][A-Za-z0-9_]*)", Makes::Itself),
        (r"(@[A-Za-z_][A-Za-z0-9_]*)", Makes::Itself),
        (r#"("|''|``|[“”‘’'`«»])"#, Makes::Is("'")),
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
    .map(|(pattern, makes)| Rule {
        pattern: compiled(pattern),
        makes,
    })
    .into()
});

fn compiled(pattern: &str) -> Regex {
    // The patterns are constants: the tests below compile them.
    Regex::new(&format!("^(?:{pattern})")).unwrap_or_else(|error| unreachable!("{error}"))
}

/// Splits a text into the toolkit's tokens, in lower case, punctuation dropped. A token can have blanks that do not break
/// ("2 1/2"), as Stanford's.
pub fn ptb_words(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
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
        rest = &rest[next(rest, first, &mut tokens)..];
    }
    tokens.retain(|token| !DROPPED.contains(&token.as_str()));
    tokens
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

/// Adds the token at the beginning; returns how many bytes it took.
fn next(rest: &str, first: char, tokens: &mut Vec<String>) -> usize {
    let rules = if first.is_alphabetic() || first.is_ascii_digit() {
        &*WORDS
    } else {
        &*SIGNS
    };
    let mut best: Option<(usize, usize, &Rule)> = None;
    for rule in rules {
        let Some(found) = rule.pattern.captures(rest) else {
            continue;
        };
        let whole = found[0].len();
        // What is only looked at counts for the choice of the rule, as in a lexer.
        if best.is_none_or(|(length, ..)| whole > length) {
            best = Some((whole, found.get(1).map_or(whole, |group| group.len()), rule));
        }
    }
    let lower = |text: &str| {
        let text = text.to_lowercase().replace(' ', "\u{a0}");
        // Brackets inside of a token, as in a telephone number.
        text.replace('(', "-lrb-").replace(')', "-rrb-")
    };
    let Some((_, length, rule)) = best else {
        tokens.push(lower(&rest[..first.len_utf8()]));
        return first.len_utf8();
    };
    let token = &rest[..length];
    match rule.makes {
        Makes::Itself => tokens.push(lower(token)),
        Makes::Is(token) => tokens.push(token.to_owned()),
        Makes::Two(at) => tokens.extend([lower(&token[..at]), lower(&token[at..])]),
        Makes::StopTwice => {
            tokens.push(lower(token));
            tokens.push(".".to_owned());
        }
        Makes::BeforeNot => {
            // "n't", whichever apostrophe.
            let at = token.char_indices().rev().nth(2).map_or(0, |(at, _)| at);
            if at > 0 {
                tokens.push(lower(&token[..at]));
            }
            tokens.push("n't".to_owned());
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use super::ptb_words;

    #[test]
    fn words_are_split_as_by_stanfords_lexer_and_punctuation_is_dropped() {
        for (text, words) in [
            (
                "The 9-mm (nodule), it's; don't. cannot",
                "the 9-mm -lrb- nodule -rrb- it 's do n't can not",
            ),
            (
                "Dr. Smith approx. 2 cm. Approx. p.m. and No. 7 vs. no.",
                "dr. smith approx 2 cm approx p.m. and no. 7 vs. no",
            ),
            (
                "pneumonia.The lungs PA/lateral. 12/03/2012 12:30 5x3",
                "pneumonia.the lungs pa/lateral 12/03/2012 12:30 5x3",
            ),
            (
                "... . -- \"quoted\" ___ <s> 50% A/P",
                "quoted ___ <s> 50 % a/p",
            ),
            ("", ""),
        ] {
            assert_eq!(ptb_words(text).join(" "), words, "{text}");
        }
    }
}
