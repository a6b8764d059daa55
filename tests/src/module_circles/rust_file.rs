//! The module paths in a Rust file, found without a parser: words and punctuation are all that a path is made of.

use std::collections::BTreeSet;

use super::ModulePath;

/// The words and the punctuation of a file without its comments, strings and tests.
pub(super) struct RustFile {
    tokens: Vec<Token>,
    test_children: Vec<String>,
}

#[derive(Clone, Debug)]
struct Token {
    text: String,
    line: usize,
}

impl RustFile {
    pub(super) fn parse(text: &str) -> Self {
        let (tokens, test_children) = without_tests(&tokens(text));
        Self {
            tokens,
            test_children,
        }
    }

    /// Children that are compiled for tests only.
    pub(super) fn test_children(&self) -> impl Iterator<Item = &str> {
        self.test_children.iter().map(String::as_str)
    }

    /// The modules that this file's code names, each with the line of a name; the file is the module `own`.
    pub(super) fn names(
        &self,
        own: &ModulePath,
        modules: &BTreeSet<&ModulePath>,
    ) -> Vec<(usize, ModulePath)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            if self.is_path_start(at) {
                let is_shown = self.is_public_use(at);
                let mut paths = Vec::new();
                at = self.read_path(at, &mut Vec::new(), &mut paths);
                for (line, path) in paths {
                    let is_child = path.first().is_some_and(|name| !is_anchor(name));
                    let Some(module) = resolve(&path, own, modules) else {
                        continue;
                    };
                    let is_reexport = is_shown && (is_child || module.starts_with(own));
                    if module != *own && !is_reexport {
                        found.push((line, module));
                    }
                }
            } else {
                at += 1;
            }
        }
        found
    }

    /// A word before `::`, or any word of a `use`, that no path goes on with.
    fn is_path_start(&self, at: usize) -> bool {
        let before = at.checked_sub(1).map_or("", |before| self.text(before));
        let starts_use = before == "use" && self.text(at) != "<";
        is_word(self.text(at))
            && !matches!(before, "::" | "." | "mod" | "fn")
            && !self.is_visibility(at)
            && (starts_use || self.text(at + 1) == "::")
    }

    /// Whether the path says only who may see an item: `pub(in path)`.
    fn is_visibility(&self, at: usize) -> bool {
        let text = |back: usize| at.checked_sub(back).map_or("", |index| self.text(index));
        text(1) == "in" && text(2) == "(" && text(3) == "pub"
    }

    /// Whether the path belongs to a `pub use` or `pub(...) use`.
    fn is_public_use(&self, at: usize) -> bool {
        let text = |back: usize| at.checked_sub(back).map_or("", |index| self.text(index));
        text(1) == "use" && matches!(text(2), "pub" | ")")
    }

    /// Reads a path with all its groups, and returns where it ends.
    fn read_path(
        &self,
        mut at: usize,
        before: &mut Vec<String>,
        paths: &mut Vec<(usize, Vec<String>)>,
    ) -> usize {
        let depth = before.len();
        loop {
            match self.text(at) {
                "{" => {
                    at += 1;
                    while !matches!(self.text(at), "}" | "") {
                        at = self.read_path(at, before, paths);
                        while !matches!(self.text(at), "," | "}" | "") {
                            at += 1;
                        }
                        if self.text(at) == "," {
                            at += 1;
                        }
                    }
                    at += 1;
                    break;
                }
                word if is_word(word) => {
                    before.push(word.to_owned());
                    let line = self.tokens[at].line;
                    at += 1;
                    if self.text(at) == "::"
                        && (is_word(self.text(at + 1)) || self.opens_group(at + 1))
                    {
                        at += 1;
                    } else {
                        paths.push((line, before.clone()));
                        break;
                    }
                }
                "*" => {
                    let line = self.tokens[at].line;
                    paths.push((line, before.clone()));
                    at += 1;
                    break;
                }
                _ => break,
            }
        }
        before.truncate(depth);
        at
    }

    fn opens_group(&self, at: usize) -> bool {
        matches!(self.text(at), "{" | "*")
    }

    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }
}

/// The innermost module that a path leads into, seen from `own`.
fn resolve(
    path: &[String],
    own: &ModulePath,
    modules: &BTreeSet<&ModulePath>,
) -> Option<ModulePath> {
    let mut module = own.clone();
    let mut rest = path;
    let mut is_anchored = false;
    while let [first, more @ ..] = rest {
        match first.as_str() {
            "crate" => module.clear(),
            "super" => drop(module.pop()?),
            "self" => {}
            _ => break,
        }
        (rest, is_anchored) = (more, true);
    }
    for name in rest {
        module.push(name.clone());
        if !modules.contains(&module) {
            module.pop();
            break;
        }
        is_anchored = true;
    }
    is_anchored.then_some(module)
}

fn is_anchor(word: &str) -> bool {
    matches!(word, "crate" | "self" | "super")
}

fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Splits a text into words and punctuation; `::` is one token.
fn tokens(text: &str) -> Vec<Token> {
    let (mut found, mut line, mut rest) = (Vec::new(), 1, text);
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = literal(rest) {
            length
        } else {
            let length = match first {
                _ if is_word(rest) => rest
                    .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
                    .unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                _ => first.len_utf8(),
            };
            if !first.is_whitespace() {
                let text = rest[..length].to_owned();
                found.push(Token { text, line });
            }
            length
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    found
}

/// The length of the string or character that a text starts with; a lifetime is none.
fn literal(text: &str) -> Option<usize> {
    let prefix = text.find(|letter| !matches!(letter, 'b' | 'c' | 'r' | '#'))?;
    let hashes = text[..prefix].matches('#').count();
    if text[..prefix].contains('r') && text[prefix..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let content = prefix + 1;
        return Some(content + text[content..].find(&end)? + end.len());
    }
    let quote = text[prefix..].chars().next()?;
    if hashes > 0 || !matches!(quote, '"' | '\'') {
        return None;
    }
    let mut letters = text[prefix + 1..].char_indices();
    let mut count = 0;
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => drop(letters.next()),
            _ if letter == quote => return Some(prefix + 1 + at + 1),
            _ => {}
        }
        count += 1;
        // `'\u{10ffff}'` is the longest.
        if quote == '\'' && count > 1 && !text[prefix + 1..].starts_with('\\') {
            return None;
        }
    }
    None
}

/// Leaves out items under `#[cfg(test)]`, and returns the names of modules among them.
fn without_tests(tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
    let (mut kept, mut children, mut at) = (Vec::new(), Vec::new(), 0);
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    while at < tokens.len() {
        let is_test = (0..)
            .zip(["#", "[", "cfg", "(", "test", ")", "]"])
            .all(|(offset, expected)| text(at + offset) == expected);
        if !is_test {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at += 7;
        let mut depth = 0;
        loop {
            match text(at) {
                "" => break,
                "mod" if depth == 0 => children.push(text(at + 1).to_owned()),
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            let ends = depth == 0 && matches!(text(at), ";" | "}");
            at += 1;
            if ends {
                break;
            }
        }
    }
    (kept, children)
}
