"""Renders kustomizations, holds every object to its published schema, and prints all of them as JSON, by kustomization.

usage: render.py KUBECTL FIXTURES FOLDER...

Kubernetes' own kinds are checked by kubernetes-validate, which has the cluster's schemas, strictly: an unknown field is an error.
KEDA's and the Prometheus operator's kinds are checked by models that cloudcoil generates from their custom resource
definitions; what no package of PyPI has is in FIXTURES as NAME.schema.json.
"""

import importlib, json, pathlib, subprocess, sys
import jsonschema, kubernetes_validate, pydantic, yaml

GENERATED = {
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
}


def strict_models(name):
    """The models of a module, none of which takes a field that it does not know."""
    module = importlib.import_module(name)
    models = {n: m for n, m in vars(module).items() if isinstance(m, type) and issubclass(m, pydantic.BaseModel)}
    own = {n: m for n, m in models.items() if m.__module__ == module.__name__ and not issubclass(m, pydantic.RootModel)}
    for model in own.values():
        model.model_config["extra"] = "forbid"
    for model in own.values():
        model.model_rebuild(force=True)
    return own


def check(document, fixtures, models={}):
    version, kind = document["apiVersion"], document["kind"]
    if version in GENERATED:
        if version not in models:
            models[version] = strict_models(GENERATED[version])
        models[version][kind].model_validate(document)
    elif (own := fixtures / f"{kind.lower()}.schema.json").exists():
        jsonschema.validate(document, json.loads(own.read_text()))
    else:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def main(kubectl, fixtures, *folders):
    rendered, faults = {}, []
    for folder in folders:
        text = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True)
        if text.returncode:
            faults.append(f"{folder}: {text.stderr.strip()}")
            continue
        documents = [document for document in yaml.safe_load_all(text.stdout) if document]
        for document in documents:
            try:
                check(document, pathlib.Path(fixtures))
            except Exception as error:
                # jsonschema's text shows whole schemas.
                reason = getattr(error, "message", error)
                faults.append(f"{folder}: {document.get('kind')} {document['metadata'].get('name')}: {reason}")
        rendered[folder] = documents
    print(json.dumps(rendered))
    if faults:
        sys.exit("\n".join(faults))


main(*sys.argv[1:])
