//! Which modules of a crate name which others, read from its source files, and the circles in that: two modules that need
//! each other can only be understood, moved and tested together.
//!
//! A module is a file. It needs another one where its code has a path into it: `crate::`, `self::`, `super::`, or the name of
//! one of its own children, in a `use` or anywhere else. Tests (`#[cfg(test)]`) and comments do not count, and neither do
//! `mod child;` and `pub use child::Type;`, which show what a module is made of.
//!
//! **A child may name its own parent while the parent uses it.** In Rust a `name.rs` is the door of the folder `name/`, and
//! holds what its files share; one type whose methods stand in several files, or a runner that is split by its steps, has
//! no other form. All other circles count, also those through a parent: who names a child that needs its parent needs that
//! parent, too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use rust_file::RustFile;

mod rust_file;

/// The path of a module below its crate, e.g. `["gateway", "sse"]`; the crate's root is empty.
pub type ModulePath = Vec<String>;

/// A place in a file at which one module needs another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// The module whose code it is.
    pub from: ModulePath,
    /// The module that the code names.
    pub to: ModulePath,
    /// The file, as it was found.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
}

impl Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |path: &ModulePath| match path.is_empty() {
            true => "the crate's root".to_owned(),
            false => path.join("::"),
        };
        let (from, to) = (name(&self.from), name(&self.to));
        write!(
            f,
            "{from} needs {to} ({}:{})",
            self.file.display(),
            self.line
        )
    }
}

/// Finds the circles between the modules below `src`: of each group of modules that need each other, a shortest circle.
///
/// # Errors
/// A file that cannot be read.
pub fn circles(src: &Path) -> Result<Vec<Vec<Need>>> {
    let mut files = BTreeMap::new();
    collect(src, src, &mut files)?;
    let mut sources = BTreeMap::new();
    for (path, file) in files {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        sources.insert(path, (file, text));
    }
    Ok(circles_between(&sources))
}

/// Finds the circles between modules of which path, file and text are given.
fn circles_between(sources: &BTreeMap<ModulePath, (PathBuf, String)>) -> Vec<Vec<Need>> {
    let parsed: BTreeMap<&ModulePath, RustFile> = sources
        .iter()
        .map(|(path, (_, text))| (path, RustFile::parse(text)))
        .collect();
    let tests: BTreeSet<ModulePath> = parsed
        .iter()
        .flat_map(|(path, source)| source.test_children().map(|child| below(path, child)))
        .collect();
    let is_test = |path: &ModulePath| (1..=path.len()).any(|end| tests.contains(&path[..end]));
    let modules: BTreeSet<&ModulePath> = sources.keys().filter(|path| !is_test(path)).collect();
    let mut needs: BTreeMap<(ModulePath, ModulePath), Need> = BTreeMap::new();
    for &from in &modules {
        for (line, to) in parsed[from].names(from, &modules) {
            let need = Need {
                from: from.clone(),
                to: to.clone(),
                file: sources[from].0.clone(),
                line,
            };
            needs.entry((from.clone(), to)).or_insert(need);
        }
    }
    shortest_circles(without_own_parents(needs))
}

/// Leaves out what children need of their own parents, and adds that parent to what those need who name the child from
/// elsewhere.
fn without_own_parents(
    mut needs: BTreeMap<(ModulePath, ModulePath), Need>,
) -> BTreeMap<(ModulePath, ModulePath), Need> {
    let of_parents: Vec<(ModulePath, ModulePath)> = needs
        .keys()
        .filter(|(from, to)| from.split_last().is_some_and(|(_, parent)| parent == to))
        .cloned()
        .collect();
    for (child, parent) in &of_parents {
        needs.remove(&(child.clone(), parent.clone()));
        let elsewhere: Vec<Need> = needs
            .values()
            .filter(|need| need.to == *child && !need.from.starts_with(parent))
            .cloned()
            .collect();
        for need in elsewhere {
            let to = parent.clone();
            needs
                .entry((need.from.clone(), to.clone()))
                .or_insert(Need { to, ..need });
        }
    }
    needs
}

fn shortest_circles(needs: BTreeMap<(ModulePath, ModulePath), Need>) -> Vec<Vec<Need>> {
    let mut from: BTreeMap<&ModulePath, Vec<&Need>> = BTreeMap::new();
    for need in needs.values() {
        from.entry(&need.from).or_default().push(need);
    }
    let mut told: BTreeSet<&ModulePath> = BTreeSet::new();
    let mut circles = Vec::new();
    for start in from.keys() {
        if told.contains(start) {
            continue;
        }
        if let Some(circle) = shortest_circle(start, &from) {
            told.extend(circle.iter().map(|need| &need.from));
            circles.push(circle.into_iter().cloned().collect());
        }
    }
    circles
}

/// A shortest way from a module back to itself.
fn shortest_circle<'a>(
    start: &'a ModulePath,
    from: &BTreeMap<&'a ModulePath, Vec<&'a Need>>,
) -> Option<Vec<&'a Need>> {
    let mut reached: BTreeMap<&ModulePath, &Need> = BTreeMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(module) = next.pop_front() {
        for need in from.get(module).into_iter().flatten() {
            if reached.contains_key(&need.to) {
                continue;
            }
            reached.insert(&need.to, need);
            if need.to == *start {
                let mut circle = vec![*need];
                while circle[circle.len() - 1].from != *start {
                    circle.push(reached[&circle[circle.len() - 1].from]);
                }
                circle.reverse();
                return Some(circle);
            }
            next.push_back(&need.to);
        }
    }
    None
}

/// The Rust files below a folder by their module paths; `lib.rs` and `main.rs` are the root.
fn collect(src: &Path, dir: &Path, files: &mut BTreeMap<ModulePath, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let file = entry?.path();
        if file.is_dir() {
            collect(src, &file, files)?;
        } else if file.extension().is_some_and(|suffix| suffix == "rs") {
            let path = file.strip_prefix(src)?.with_extension("");
            let mut path: ModulePath = path
                .iter()
                .map(|part| part.to_string_lossy().into_owned())
                .collect();
            if matches!(path.as_slice(), [root] if root == "lib" || root == "main") {
                path.clear();
            }
            files.insert(path, file);
        }
    }
    Ok(())
}

fn below(parent: &[String], child: &str) -> ModulePath {
    [parent, &[child.to_owned()]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The circles of a tree of files, each as the modules on it.
    fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = dir.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let circles = circles(dir.path()).unwrap();
        let names = |circle: &Vec<Need>| circle.iter().map(|need| need.from.join("::")).collect();
        circles.iter().map(names).collect()
    }

    #[test]
    fn a_circle_of_three_modules_is_found_with_its_files_and_lines() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("lib.rs", "mod a;\nmod b;\nmod c;\n"),
            ("a.rs", "//! Crate `b`.\nuse std::fmt;\nuse crate::b::B;\n"),
            ("b.rs", "fn f() {\n    super::c::run()\n}\n"),
            ("c.rs", "use crate::{a::A, b as _};\n"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let found = circles(dir.path()).unwrap();
        let told: Vec<String> = found[0].iter().map(ToString::to_string).collect();
        assert!(told.len() == 2 || told.len() == 3, "{told:?}");
        let told = told.join("\n");
        assert!(
            told.contains("b needs c") && told.contains("b.rs:2"),
            "{told}"
        );
    }

    #[test]
    fn names_in_groups_and_in_code_count_and_names_in_comments_strings_and_tests_do_not() {
        let b = "use crate::{self as root, x::{Y, a::Thing}};\n";
        let tree = |a| {
            circles_of(&[
                ("lib.rs", "mod b;\nmod x;"),
                ("x.rs", "mod a;"),
                ("x/a.rs", a),
                ("b.rs", b),
            ])
        };
        for named in [
            "use crate::b;",
            "fn f() -> crate::b::B { todo!() }",
            "use super::super::b::B;",
        ] {
            assert_eq!(tree(named).len(), 1, "{named}");
        }
        for silent in [
            "/// See [`crate::b`].\nstruct A;",
            "/* crate::b::B */ const A: &str = \"crate::b::B\";",
            "#[cfg(test)]\nmod tests {\n    use crate::b::B;\n}\n",
            "#[cfg(test)]\nuse crate::b::B;\nstruct A;",
            "pub(in crate::b) struct A;",
        ] {
            assert_eq!(tree(silent), Vec::<Vec<String>>::new(), "{silent}");
        }
    }

    #[test]
    fn a_child_may_name_its_own_parent_and_a_parent_shows_its_children() {
        let own = [
            ("lib.rs", "mod p;\npub use p::P;"),
            ("p.rs", "mod c;\nuse c::C;\npub struct P(C);"),
            ("p/c.rs", "use super::P;\npub struct C;"),
        ];
        assert_eq!(circles_of(&own), Vec::<Vec<String>>::new());
        let siblings = [
            ("lib.rs", "mod p;"),
            ("p.rs", "mod c;\nmod d;\npub use c::C;"),
            ("p/c.rs", "use super::d::D;"),
            ("p/d.rs", "use super::c::C;"),
        ];
        assert_eq!(circles_of(&siblings), [["p::c", "p::d"]]);
    }

    #[test]
    fn who_names_a_child_that_needs_its_parent_needs_the_parent() {
        let tree = |child| {
            circles_of(&[
                ("lib.rs", "mod p;\nmod q;"),
                ("p.rs", "mod c;\nuse crate::q::Q;\npub struct P(Q);"),
                ("p/c.rs", child),
                ("q.rs", "use crate::p::c::C;"),
            ])
        };
        assert_eq!(tree("use super::P;\npub struct C;"), [["p", "q"]]);
        assert_eq!(tree("pub struct C;"), Vec::<Vec<String>>::new());
    }
}
