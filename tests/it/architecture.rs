//! The rooms of the architecture: which crate may know what, read from `cargo metadata`, and which modules of a crate need
//! each other, read from its sources. A new dependency in the wrong place fails here and not in a review.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use radialog_tests::module_circles;
use serde_json::Value;

mod demands;

/// The page with the rooms and their reasons, for whoever a test stops.
const PAGE: &str = "see the rooms in .github/ARCHITECTURE.md";

/// The workspace's crates as `cargo metadata` describes them.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// Direct, non-dev dependencies of each workspace crate.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    packages()
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let normal = dependencies.filter(|dependency| dependency["kind"].is_null());
            (
                text(&package["name"]),
                normal.map(|dependency| text(&dependency["name"])).collect(),
            )
        })
        .collect()
}

fn ours(names: &BTreeSet<String>) -> Vec<&str> {
    names
        .iter()
        .filter_map(|name| name.strip_prefix("radialog-"))
        .collect()
}

#[test]
fn arrows_between_the_crates_point_one_way() {
    let dependencies = dependencies();
    let rooms: [(&str, &[&str]); 7] = [
        ("radialog-schemas", &[]),
        ("radialog-files", &[]),
        ("radialog-runtime", &["files", "schemas"]),
        ("radialog-models", &["files", "schemas"]),
        (
            "radialog-workers",
            &["files", "models", "runtime", "schemas"],
        ),
        ("radialog-training", &["files", "models", "schemas"]),
        ("radialog-coordinator", &["files", "runtime", "schemas"]),
    ];
    for (name, allowed) in rooms {
        assert_eq!(
            ours(&dependencies[name]),
            allowed,
            "crates of ours that {name} depends on: {PAGE}"
        );
    }
    assert_eq!(dependencies.len(), 9, "a tenth crate needs a room: {PAGE}");
}

#[test]
fn models_know_no_async_runtime_queue_or_network() {
    let models = &dependencies()["radialog-models"];
    for name in [
        "tokio",
        "async-trait",
        "futures",
        "lapin",
        "redis",
        "aws-sdk-s3",
        "axum",
        "hyper",
        "reqwest",
    ] {
        assert!(
            !models.contains(name),
            "radialog-models must not depend on {name}: {PAGE}"
        );
    }
}

#[test]
fn the_coordinator_knows_no_candle() {
    for name in dependencies()["radialog-coordinator"].iter() {
        assert!(
            !name.starts_with("candle"),
            "radialog-coordinator must not depend on {name}: {PAGE}"
        );
    }
}

#[test]
fn only_the_runtime_names_the_broker_the_store_the_state_and_the_metrics() {
    for (package, names) in dependencies()
        .iter()
        .filter(|(package, _)| *package != "radialog-runtime")
    {
        for name in ["lapin", "aws-sdk-s3", "redis", "prometheus"] {
            assert!(
                !names.contains(name),
                "{package} must not depend on {name}: {PAGE}"
            );
        }
    }
}

#[test]
fn no_modules_of_a_crate_need_each_other_in_a_circle() {
    let mut told = Vec::new();
    for package in packages() {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let src = manifest.parent().unwrap().join("src");
        for circle in module_circles::circles(&src).unwrap() {
            let needs: Vec<String> = circle.iter().map(|need| format!("  {need}")).collect();
            let name = package["name"].as_str().unwrap();
            told.push(format!("a circle in {name}:\n{}", needs.join("\n")));
        }
    }
    assert!(
        told.is_empty(),
        "{}\nMove what both need into a module of its own, or the code to where it is used: {PAGE}",
        told.join("\n")
    );
}

/// The files below a folder whose names end in one of these.
fn files(folder: &Path, suffixes: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files(&path, suffixes),
            false => vec![path],
        })
        .filter(|path| {
            let suffix = path.extension().and_then(|suffix| suffix.to_str());
            suffix.is_some_and(|suffix| suffixes.contains(&suffix))
        })
        .collect()
}

#[test]
fn only_models_has_unsafe_code_as_the_security_policy_says() {
    let mut found = Vec::new();
    for package in packages() {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let src = manifest.parent().unwrap().join("src");
        if package["name"] == "radialog-models" {
            continue;
        }
        let sources = files(&src, &["rs"]).into_iter();
        found.extend(sources.filter(|file| {
            let code = fs::read_to_string(file).unwrap();
            code.contains("unsafe_code")
        }));
    }
    assert!(
        found.is_empty(),
        "{found:?} may not have unsafe code: see *Code* in .github/SECURITY.md"
    );
}

/// The kernels of registers, as files or folders: what `array::from_fn` makes there are registers, but for [`OF_PLACES`].
const OF_REGISTERS: [&str; 5] = [
    "quantised",
    "paged_cache",
    "gemm/tile",
    "gemm/bf16",
    "dot_products",
];
/// What stands in front of `array::from_fn` where it makes pointers or rows.
const OF_PLACES: [&str; 4] = [
    "[*const f32; ROWS] =",
    "[*mut f32; 8] =",
    "[Row; 8] =",
    "fn first<T: Copy, const R: usize>(all: [T; 8]) -> [T; R] {",
];

/// Closures of the standard library's array functions may stay calls, which do not have the instructions of the function around them,
/// and then take registers through memory: decoding of quantised weights was four times slower so.
#[test]
fn kernels_give_no_registers_to_array_functions() {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("../workers/models/src/kernels");
    let sources = files(&kernels, &["rs"]);
    let path = |file: &Path| file.strip_prefix(&kernels).unwrap().with_extension("");
    for kernel in OF_REGISTERS {
        let is_there = sources.iter().any(|file| path(file) == Path::new(kernel));
        assert!(is_there, "no kernel is called {kernel} any more");
    }
    let mut found = Vec::new();
    for file in &sources {
        let code = fs::read_to_string(file).unwrap();
        let of_registers = OF_REGISTERS
            .iter()
            .any(|kernel| path(file).starts_with(kernel));
        for call in ["array::from_fn", ".map("] {
            for (start, _) in code.match_indices(call) {
                let inside = call_text(&code[start..]);
                let before = code[..start].trim_end_matches("std::").trim_end();
                let is_of_places = OF_PLACES.iter().any(|place| before.ends_with(place));
                let makes_registers = of_registers && call != ".map(" && !is_of_places;
                let mut signs = ["L::", "<L>", "_mm", "relu("].iter();
                if makes_registers || signs.any(|sign| inside.contains(sign)) {
                    found.push(format!("{}: {inside}", file.display()));
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "write these as loops or one by one:\n{}",
        found.join("\n")
    );
}

/// The text of a call, to the bracket that closes it.
fn call_text(code: &str) -> &str {
    let mut depth = 0;
    for (at, sign) in code.char_indices() {
        match sign {
            '(' => depth += 1,
            ')' if depth == 1 => return &code[..=at],
            ')' => depth -= 1,
            _ => {}
        }
    }
    code
}

/// The names in a folder, without the suffix of sources.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| name.strip_suffix(".rs").unwrap_or(&name).to_owned())
        .collect();
    names.sort();
    // A module that has a folder, too.
    names.dedup();
    names
}

/// The part of a page behind its first line, or words, of this kind and before the next of the other.
fn part<'a>(page: &'a str, behind: &str, before: &str) -> &'a str {
    let (_, part) = page.split_once(behind).unwrap();
    part.split_once(before).map_or(part, |(part, _)| part)
}

/// Panics where a name has no row in this part of a page.
fn assert_rows(part: &str, names: impl IntoIterator<Item = String>, place: &str) {
    let names = names.into_iter();
    let missing: Vec<String> = names
        .filter(|name| !part.contains(&format!("`{name}`")))
        .collect();
    assert!(missing.is_empty(), "no row in {place}: {missing:?}");
}

#[test]
fn the_script_that_a_benchmark_compares_with_is_in_the_repository() {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
    let overhead = fs::read_to_string(benches.join("overhead.rs")).unwrap();
    let peer = "peers/task_queue.py";
    assert!(overhead.contains(&format!("\"benches/{peer}\"")));
    assert!(benches.join(peer).is_file(), "benches/{peer} is gone");
}

#[test]
fn each_version_that_a_benchmark_compares_with_is_on_its_page() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(here.join("benches/README.md")).unwrap();
    let mut sources = files(&here.join("benches"), &["rs"]);
    sources.push(here.join("src/benchmark.rs"));
    let is_pin = |text: &&str| {
        !text.contains(char::is_whitespace) && (text.contains("==") || text.contains(">="))
    };
    let mut pins = BTreeSet::new();
    for source in sources {
        let code = fs::read_to_string(source).unwrap();
        pins.extend(code.split('"').filter(is_pin).map(str::to_owned));
    }
    assert!(pins.len() > 8, "{pins:?}");
    let missing: Vec<&String> = pins
        .iter()
        .filter(|pin| !page.contains(pin.as_str()))
        .collect();
    assert!(missing.is_empty(), "tests/benches/README.md: {missing:?}");
}

#[test]
fn each_suite_folder_module_and_variable_of_the_tests_has_its_row() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(here.join("README.md")).unwrap();
    let modules_of = |file: &str, start: &str| -> Vec<String> {
        let code = fs::read_to_string(here.join(file)).unwrap();
        let modules = code.lines().filter_map(|line| {
            let name = line.strip_prefix(start)?.strip_suffix(';')?;
            Some(name.to_owned())
        });
        modules.collect()
    };

    let folders = part(&page, "\n| folder |", "\n## ");
    let of_tests = names(here).into_iter();
    // Roles make folders of their own where they are started.
    let is_ours = |name: &String| name != "fixtures" && !name.starts_with("radialog-");
    let of_tests = of_tests.filter(|name| is_ours(name) && here.join(name).is_dir());
    let fixtures = names(&here.join("fixtures")).into_iter();
    let expected = of_tests.map(|name| format!("{name}/"));
    let expected = expected.chain(fixtures.map(|name| format!("fixtures/{name}")));
    assert_rows(folders, expected, "tests/README.md, its folders");

    let suites = part(&page, "\n## Suites\n", "\n## ");
    let expected = modules_of("it/main.rs", "mod ");
    assert_rows(suites, expected, "tests/README.md, *Suites*");

    let modules = part(&page, "\n## What tests are made of\n", "\n## ");
    let expected = modules_of("src/lib.rs", "pub mod ");
    assert_rows(
        modules,
        expected,
        "tests/README.md, *What tests are made of*",
    );

    let variables = part(&page, "\n| variable |", "\n\n");
    let looked_in = ["src", "it", "benches", "kube", "matrix", "../schemas/tests"];
    let looked_in = looked_in.map(|folder| files(&here.join(folder), &["rs", "sh", "py"]));
    let read = looked_in
        .iter()
        .flatten()
        .flat_map(|source| variables_read_by(source));
    // Benchmarks set theirs for processes that they start.
    let read = read.filter(|name| !name.starts_with("RADIALOG_BENCH_"));
    let read: BTreeSet<String> = read.collect();
    assert!(read.len() > 15, "{read:?}");
    assert_rows(variables, read, "tests/README.md, the variables");
}

/// The variables of ours that a source reads from its environment.
fn variables_read_by(source: &Path) -> Vec<String> {
    let code = fs::read_to_string(source).unwrap();
    let readings = [
        "VARIABLE: &str = \"",
        "var_os(\"",
        "var(\"",
        "environ.get(\"",
        "${",
    ];
    let behind = readings
        .iter()
        .flat_map(|reading| code.split(reading).skip(1));
    let names = behind.map(|rest| {
        let is_of_name = |c: &char| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_';
        rest.chars().take_while(is_of_name).collect::<String>()
    });
    names.filter(|name| name.starts_with("RADIALOG_")).collect()
}

#[test]
fn each_file_of_the_command_line_has_its_row() {
    let crate_ = Path::new(env!("CARGO_MANIFEST_DIR")).join("../coordinator/cli");
    let page = fs::read_to_string(crate_.join("README.md")).unwrap();
    for (folder, before) in [
        ("src", ""),
        ("src/commands", "commands/"),
        ("src/chaos", ""),
    ] {
        let folder = crate_.join(folder);
        let sources = names(&folder)
            .into_iter()
            .filter(|name| name != "main" && folder.join(format!("{name}.rs")).is_file());
        let expected = sources.map(|name| format!("{before}{name}.rs"));
        assert_rows(&page, expected, "coordinator/cli/README.md");
    }
}

#[test]
fn each_module_of_the_coordinators_rooms_has_its_row() {
    let crate_ = Path::new(env!("CARGO_MANIFEST_DIR")).join("../coordinator");
    let page = fs::read_to_string(crate_.join("README.md")).unwrap();
    for (folder, behind, before) in [
        ("src", "\n| room |", "\n## "),
        ("src/run", "\nIn `run`:\n", "\n## "),
        ("src/gateway", "\n## The gateway\n", "\n### "),
    ] {
        let modules = names(&crate_.join(folder)).into_iter();
        let expected = modules.filter(|name| name != "lib");
        let place = format!("coordinator/README.md, the modules of {folder}");
        assert_rows(part(&page, behind, before), expected, &place);
    }
}
