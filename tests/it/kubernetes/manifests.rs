//! Kustomizations as a cluster gets them: rendered by kubectl, and held to the schemas of their kinds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use radialog_tests::install;
use serde_json::Value;

/// What checks manifests. Bounded, so that a new major version does not change the tests by itself.
const PACKAGES: [&str; 3] = [
    "kubernetes-validate>=1.37,<2",
    "cloudcoil-models-keda>=2.16,<3",
    "cloudcoil-models-prometheus-operator>=0.80,<1",
];

/// The objects of one kustomization.
pub(super) struct Manifests(Vec<Value>);

/// The folder of all manifests.
pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s")
}

/// The folders, seen from `k8s`, that `kubectl apply -k` takes, and those of the tests that list what no overlay does.
pub(super) fn kustomizations() -> Vec<String> {
    let mut found = [
        "claim", "files", "group", "image", "others", "proxy", "retry", "site", "volumes",
    ]
    .map(fixture)
    .to_vec();
    let mut waiting = vec![folder()];
    while let Some(at) = waiting.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.ends_with("kustomization.yaml")
                && std::fs::read_to_string(&path)
                    .unwrap()
                    .contains("kind: Kustomization")
            {
                found.push(at.strip_prefix(folder()).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}

/// A kustomization of the tests, seen from `k8s`.
pub(super) fn fixture(name: &str) -> String {
    format!("../tests/fixtures/kubernetes/{name}")
}

/// A folder beside the build.
pub(super) fn beside_build(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3);
    Ok(target
        .context("a test lies in target/PROFILE/deps")?
        .join(name))
}

/// Renders and checks kustomizations; every fault of all of them is the error.
pub(super) fn render(names: &[String]) -> Result<BTreeMap<String, Vec<Value>>> {
    let purpose = "tests of the Kubernetes manifests";
    let python = install::python(&beside_build("python-kubernetes")?, &PACKAGES, purpose)?;
    let kubectl = install::kubectl(&python, &beside_build("kubectl")?)?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(python.join("python"))
        .arg(here.join("it/kubernetes/render.py"))
        .arg(kubectl)
        .arg(here.join("fixtures/kubernetes"))
        .args(names)
        .current_dir(folder())
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

impl Manifests {
    /// The objects of the kustomization in `k8s/NAME`; all are rendered and checked once.
    pub(super) fn of(name: &str) -> Self {
        static RENDERED: OnceLock<Result<BTreeMap<String, Vec<Value>>, String>> = OnceLock::new();
        let rendered = RENDERED
            .get_or_init(|| render(&kustomizations()).map_err(|error| format!("{error:#}")));
        match rendered {
            Ok(rendered) => Self(rendered[name].clone()),
            Err(error) => panic!("{error}"),
        }
    }

    /// All objects.
    pub(super) fn all(&self) -> &[Value] {
        &self.0
    }

    /// The objects of a kind.
    pub(super) fn kind(&self, kind: &str) -> impl Iterator<Item = &Value> + use<'_> {
        let kind = kind.to_owned();
        let objects = self.0.iter();
        objects.filter(move |object| object["kind"] == kind.as_str())
    }

    /// The only object of this kind and name.
    pub(super) fn get(&self, kind: &str, name: &str) -> &Value {
        let mut found = self
            .kind(kind)
            .filter(|object| object["metadata"]["name"] == name);
        let object = found
            .next()
            .unwrap_or_else(|| panic!("there is no {kind} {name}"));
        assert!(found.next().is_none(), "{kind} {name} is there twice");
        object
    }

    /// Everything that makes pods, with the template of its pods.
    pub(super) fn workloads(&self) -> Vec<Workload<'_>> {
        let made = self.0.iter().filter_map(|object| {
            let template = object.pointer("/spec/template")?;
            template.pointer("/spec/containers")?;
            Some(Workload { object, template })
        });
        made.collect()
    }

    /// The workload of this name.
    pub(super) fn workload(&self, name: &str) -> Workload<'_> {
        let mut workloads = self.workloads().into_iter();
        workloads
            .find(|workload| workload.name() == name)
            .unwrap_or_else(|| panic!("nothing makes pods of {name}"))
    }
}

/// A Deployment, StatefulSet or Job.
#[derive(Clone, Copy)]
pub(super) struct Workload<'a> {
    pub(super) object: &'a Value,
    pub(super) template: &'a Value,
}

impl<'a> Workload<'a> {
    pub(super) fn name(&self) -> &'a str {
        self.object["metadata"]["name"].as_str().unwrap()
    }

    pub(super) fn pod(&self) -> &'a Value {
        &self.template["spec"]
    }

    /// Init containers and containers.
    pub(super) fn containers(&self) -> Vec<&'a Value> {
        let of = |field: &str| self.pod()[field].as_array().into_iter().flatten();
        of("initContainers").chain(of("containers")).collect()
    }

    /// The only container of RaDialog's image that runs until the end.
    pub(super) fn container(&self) -> &'a Value {
        let containers = self.pod()["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1, "{}", self.name());
        &containers[0]
    }

    pub(super) fn args(&self) -> Vec<&'a str> {
        strings(&self.container()["args"])
    }

    /// Whether its pods run RaDialog.
    pub(super) fn is_radialog(&self) -> bool {
        self.template["metadata"]["labels"]["app.kubernetes.io/name"] == "radialog"
    }

    /// The value of a variable, as a container gets it from the manifests.
    pub(super) fn variable(&self, manifests: &Manifests, name: &str) -> Option<String> {
        let own = self.container()["env"].as_array().into_iter().flatten();
        let own = own
            .filter(|variable| variable["name"] == name)
            .find_map(|variable| variable["value"].as_str());
        let settings = || {
            let settings = manifests
                .kind("ConfigMap")
                .find(|map| map["metadata"]["name"] == "radialog-settings")?;
            settings["data"][name].as_str()
        };
        own.or_else(settings).map(str::to_owned)
    }
}

/// The strings of a list.
pub(super) fn strings(list: &Value) -> Vec<&str> {
    let strings = list.as_array().into_iter().flatten();
    strings.map(|text| text.as_str().unwrap()).collect()
}
