//! The page of what users asked for: each test that it names is in the sources.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::packages;

/// The folder of `tests/it`, of which names stand alone.
const HERE: &str = "";

/// The folders of sources by the word that stands in front of a name.
fn folders() -> BTreeMap<String, PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let command_line = tests.join("../coordinator/cli/tests/command_line");
    let mut folders = BTreeMap::from([
        (HERE.to_owned(), tests.join("it")),
        ("command_line".to_owned(), command_line),
    ]);
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        let word = name.strip_prefix("radialog-").unwrap_or("cli");
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        folders.insert(word.to_owned(), manifest.parent().unwrap().join("src"));
    }
    folders
}

/// The paths that one with braces stands for.
fn spelled_out(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else {
        return vec![path.to_owned()];
    };
    let (adapters, behind) = rest.split_once('}').unwrap_or((rest, ""));
    let adapters = adapters.split(',');
    adapters
        .map(|adapter| format!("{before}{adapter}{behind}"))
        .collect()
}

/// The code of the file of a module, where it has one.
fn code_of(folder: &Path, module: &str) -> Option<String> {
    let read = |name: &str| fs::read_to_string(folder.join(name).with_extension("rs")).ok();
    match module {
        "" => read("main").or_else(|| read("lib")),
        _ => read(&module.replace("::", "/")),
    }
}

/// The part of a path before its last name, and that name.
fn split_last(path: &str) -> (&str, &str) {
    path.rsplit_once("::").unwrap_or(("", path))
}

/// Whether a test is in these sources under this path: in the file of its module, or in that of the module around it.
fn is_test(folder: &Path, path: &str) -> bool {
    let (module, function) = split_last(path);
    if let Some(code) = code_of(folder, module) {
        return has_test(&code, "", function);
    }
    let (around, module) = split_last(module);
    code_of(folder, around).is_some_and(|code| {
        let module_and_rest = code.split_once(&format!("\nmod {module} {{\n"));
        let inside = module_and_rest.and_then(|(_, rest)| rest.split("\n}\n").next());
        inside.is_some_and(|code| has_test(code, "    ", function))
            || runs_on_adapter(&code, module, function)
    })
}

/// Whether the code has a test of this name with this indent.
fn has_test(code: &str, indent: &str, function: &str) -> bool {
    let mut is_of_test = false;
    for line in code.lines().filter_map(|line| line.strip_prefix(indent)) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_of_test = true;
        }
        let item = line.strip_prefix("async ").unwrap_or(line);
        if let Some((name, _)) = item
            .strip_prefix("fn ")
            .and_then(|item| item.split_once('('))
        {
            if is_of_test && name == function {
                return true;
            }
            is_of_test = false;
        }
    }
    false
}

/// Whether `on_each_adapter!` runs this test on this adapter.
fn runs_on_adapter(code: &str, adapter: &str, function: &str) -> bool {
    let list = code
        .split_once("\non_each_adapter! { ")
        .and_then(|(_, list)| {
            let (adapters, tests) = list.split_once(": {\n")?;
            let (tests, _) = tests.split_once("\n}}")?;
            Some((adapters, tests))
        });
    list.is_some_and(|(adapters, tests)| {
        let mut tests = tests.lines().map(|line| line.trim().trim_end_matches(','));
        adapters.split(", ").any(|name| name == adapter) && tests.any(|name| name == function)
    })
}

/// Whether what stands between backticks is there: a test, or a script from the repository's root.
fn is_there(folders: &BTreeMap<String, PathBuf>, name: &str) -> bool {
    if name.contains('/') {
        return folders[HERE].join("../..").join(name).is_file();
    }
    let (word, path) = name.split_once(' ').unwrap_or((HERE, name));
    let folder = folders.get(word);
    folder.is_some_and(|folder| spelled_out(path).iter().all(|path| is_test(folder, path)))
}

/// The demand of a table's row, its tests and what is missing; none where a cell is missing or too many, as where one has a `|`.
fn cells(row: &str) -> Option<[&str; 3]> {
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    match cells[..] {
        ["", demand, tests, ""] => Some([demand, tests, ""]),
        ["", demand, tests, missing, ""] => Some([demand, tests, missing]),
        _ => None,
    }
}

#[test]
fn a_row_of_demands_has_two_cells_or_three() {
    assert_eq!(cells("| a | b |"), Some(["a", "b", ""]));
    assert_eq!(cells("| a | | c |"), Some(["a", "", "c"]));
    for row in ["| a |", "| a | b", "| a | b | c | d |"] {
        assert_eq!(cells(row), None, "{row}");
    }
}

#[test]
fn each_test_that_a_demand_names_is_there() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("DEMANDS.md");
    let page = fs::read_to_string(page).unwrap();
    let folders = folders();
    let (mut named, mut lies) = (0, Vec::new());
    let rows = (1..)
        .zip(page.lines())
        .filter(|(_, row)| row.starts_with('|'));
    for (number, row) in rows {
        let Some([demand, tests, missing]) = cells(row) else {
            lies.push(format!("line {number} has not two cells or three: {row}"));
            continue;
        };
        if demand == "demand" || demand.starts_with("---") {
            continue;
        }
        if tests.is_empty() && missing.is_empty() {
            lies.push(format!(
                "line {number}, \"{demand}\": nothing holds it, and nothing is missing"
            ));
        }
        for name in tests.split('`').skip(1).step_by(2) {
            named += 1;
            if !is_there(&folders, name) {
                lies.push(format!("line {number}, \"{demand}\": there is no {name}"));
            }
        }
    }
    assert!(lies.is_empty(), "in tests/DEMANDS.md:\n{}", lies.join("\n"));
    assert!(named > 200, "{named} names were found in tests/DEMANDS.md");
}

#[test]
fn a_name_on_the_page_of_demands_is_of_a_test_in_its_module() {
    let folders = folders();
    for name in [
        "architecture::demands::each_test_that_a_demand_names_is_there",
        "conformance::queue::{memory,rabbitmq}::a_message_arrives_as_it_was_published",
        "schemas relative_path::tests::names_that_lead_elsewhere_are_refused_with_the_reason",
        "command_line a_wrong_flag_is_usage_and_exits_with_64",
        "tests/matrix/run.sh",
    ] {
        assert!(is_there(&folders, name), "{name}");
    }
    for name in [
        "architecture::demands::no_such_test",
        "architecture::each_test_that_a_demand_names_is_there",
        "architecture::demands::is_there",
        "conformance::queue::a_message_arrives_as_it_was_published",
        "conformance::queue::{memory,redis}::a_message_arrives_as_it_was_published",
        "schemas relative_path::names_that_lead_elsewhere_are_refused_with_the_reason",
        "a_wrong_flag_is_usage_and_exits_with_64",
        "nobody relative_path::tests::names_that_lead_elsewhere_are_refused_with_the_reason",
        "tests/matrix/walk.sh",
    ] {
        assert!(!is_there(&folders, name), "{name}");
    }
}
