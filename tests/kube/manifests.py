"""What `kubectl apply` would send, as Python objects."""

import json
import subprocess
import tempfile
from pathlib import Path

K8S = Path(__file__).resolve().parents[2] / "k8s"


def render(folder):
    """The objects of a kustomization, in the order of `kubectl kustomize`."""
    rendered = _kubectl("kustomize", folder)
    # kubectl is a YAML reader that is there anyway: `annotate --local` changes nothing and prints JSON, custom resources included.
    text = _kubectl("annotate", "--local", "--filename", "-", "--output", "json", "nothing-", stdin=rendered)
    decoder, objects, at = json.JSONDecoder(), [], 0
    while at < len(text):
        item, at = decoder.raw_decode(text, at)
        objects.append(item)
        while at < len(text) and text[at].isspace():
            at += 1
    return objects


def render_with(**fields):
    """The objects of a kustomization of these fields, as a user writes one for a cluster of their own; paths as from `k8s/overlays/NAME`."""
    with tempfile.TemporaryDirectory(dir=K8S / "overlays", prefix=".kube-test-") as folder:
        kustomization = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "radialog", **fields}
        (Path(folder) / "kustomization.yaml").write_text(json.dumps(kustomization))
        return render(folder)


def score(name, archive, out, tag):
    """The Job of `components/score` over an archive, with the demo bundle."""
    parameters = [f"name={name}", f"archive={archive}", "bundle=", f"out={out}"]
    return render_with(
        components=["../../components/score"],
        configMapGenerator=[{"name": "score", "literals": parameters}],
        images=[{"name": "radialog", "newTag": tag}],
    )


def of_kind(objects, *kinds):
    """The objects of these kinds."""
    return [item for item in objects if item["kind"] in kinds]


def named(objects, kind, name):
    """The one object of this kind and name."""
    for item in of_kind(objects, kind):
        if item["metadata"]["name"] == name:
            return item
    raise KeyError(f"the manifests have no {kind} {name}")


def matches(selector, labels):
    """Whether a pod with these labels is one of a selector's."""
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def _kubectl(*arguments, stdin=None):
    done = subprocess.run(["kubectl", *map(str, arguments)], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"kubectl {' '.join(map(str, arguments))} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout
