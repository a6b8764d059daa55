"""Everything that a pod is changed in before podman plays it, each change with its reason. Nothing else differs from what is applied.

What podman 4.3 (Debian 12) plays as it is written: images, commands, environment from ConfigMaps and Secrets, volumes, claims, user,
groups, capabilities, seccomp, read-only root, memory limits, init containers.

What a cluster does around pods, podman does not: replicas, roll-outs and Jobs are in `workloads.py`; probes, restarts, preStop and
termination in `kubelet.py`; KEDA in `scaler.py`; a Service is the list of ready pods in `kubelet.py`. What is not there at all:
network policies, disruption budgets, scheduling.
"""

import copy
import json
import re
import shlex

import images

# The dev overlay's services come from registries; here they are Debian's packages, in one image. Programs, ports, users, passwords and
# folders stay those of the manifest.
SERVICE_COMMANDS = {
    # The official image's own script makes the user from the environment; Debian's server reads it from its configuration. Without
    # the last line, a node's statistics are 5 s old. Erlang's schedulers spin before they sleep, on the processors of the workers.
    "rabbitmq": """
set -e
mkdir -p /data/mnesia /data/log
cat > /data/rabbitmq.conf <<END
default_user = $RABBITMQ_DEFAULT_USER
default_pass = $RABBITMQ_DEFAULT_PASS
loopback_users = none
listeners.tcp.default = 5672
management.tcp.port = 15672
disk_free_limit.absolute = 50MB
collect_statistics_interval = 1000
END
echo '[rabbitmq_management].' > /data/plugins
export HOME=/data RABBITMQ_CONFIG_FILE=/data/rabbitmq RABBITMQ_MNESIA_BASE=/data/mnesia RABBITMQ_LOG_BASE=/data/log RABBITMQ_LOGS=-
export RABBITMQ_PID_FILE=/data/pid RABBITMQ_ENABLED_PLUGINS_FILE=/data/plugins RABBITMQ_NODENAME=radialog@localhost
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+sbwt none +sbwtdcpu none +sbwtdio none"
exec /usr/lib/rabbitmq/bin/rabbitmq-server
""",
    # The official image is compiled to answer other hosts without a password, which Debian's server is told.
    "redis": "exec {arguments} --protected-mode no",
    # The folders that the manifest makes are the buckets.
    "minio": """
set -e
{mkdir}
export AWS_ACCESS_KEY_ID=$MINIO_ROOT_USER AWS_SECRET_ACCESS_KEY=$MINIO_ROOT_PASSWORD
exec s3_server 0.0.0.0:9000 /data
""",
}


def pod(template, name, volumes=None, image=None):
    """The pod that podman plays for a workload's template. `volumes` are a StatefulSet's claims of this pod, by name."""
    spec = copy.deepcopy(template["spec"])
    metadata = {"name": name, "labels": template["metadata"].get("labels", {})}
    for container in spec.get("initContainers", []) + spec["containers"]:
        _container(container, image)
        _service(container)
    # The kubelet restarts containers and knows how they ended; podman restarts them at once and forgets it. kubelet.py does it.
    spec["restartPolicy"] = "Never"
    # 4.3 stops every container after 10 s, whatever this says, and a pod's network before its containers. kubelet.py does it.
    spec.pop("terminationGracePeriodSeconds", None)
    # A claim that the StatefulSet makes of its template is a volume of the pod's.
    for claim_template, claim in (volumes or {}).items():
        spec.setdefault("volumes", []).append({"name": claim_template, "persistentVolumeClaim": {"claimName": claim}})
    # 4.3 makes one volume of all the emptyDirs of a name, whichever pods they are of.
    scratch = {volume["name"]: f"{name}-{volume['name']}" for volume in spec.get("volumes", []) if "emptyDir" in volume}
    for entry in spec.get("volumes", []):
        entry["name"] = scratch.get(entry["name"], entry["name"])
    for container in spec.get("initContainers", []) + spec["containers"]:
        for mount in container.get("volumeMounts", []):
            mount["name"] = scratch.get(mount["name"], mount["name"])
    # Only the scheduler and the cluster read these; 4.3 refuses some of their newer fields.
    for field in ("topologySpreadConstraints", "affinity", "tolerations", "nodeSelector", "priorityClassName", "serviceAccountName",
                  "automountServiceAccountToken", "enableServiceLinks"):
        spec.pop(field, None)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def secret(item):
    """What `podman secret create` is given for a Secret: 4.3 plays one as a file to mount, and as environment it reads only such JSON."""
    return json.dumps(item.get("data", {}))


def _container(container, image):
    # Probes and hooks are the kubelet's, and podman has no HTTP probe without a program in the image and a timer of systemd's.
    # It also publishes every port on the machine, where a role's second pod finds it taken; pods reach each other without that.
    for field in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "ports"):
        container.pop(field, None)
    if image and container["image"].split(":")[0] == "radialog":
        container["image"] = image
    if container["image"].split(":")[0] == "radialog":
        container["image"] = f"localhost/{container['image']}"
    # No registry is asked.
    container["imagePullPolicy"] = "Never"
    # 4.3 plays no $(NAME) in arguments.
    values = {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry}
    for field in ("command", "args"):
        if field in container:
            container[field] = [re.sub(r"\$\((\w+)\)", lambda found: values.get(found[1], found[0]), text) for text in container[field]]
    # It knows cpu and memory only.
    for limits in container.get("resources", {}).values():
        limits.pop("ephemeral-storage", None)


def _service(container):
    kind = next((kind for kind in SERVICE_COMMANDS if re.search(rf"(^|/){kind}[:@]?", container["image"])), None)
    if kind is None:
        return
    container["image"] = f"{images.SERVICES}:latest"
    arguments = container.get("command", []) + container.get("args", [])
    script = SERVICE_COMMANDS[kind].replace("{arguments}", shlex.join(arguments))
    made = re.search(r"mkdir -p[^&;]+", " ".join(arguments))
    script = script.replace("{mkdir}", made[0].strip() if made else "mkdir -p /data/radialog")
    # Podman writes the text as YAML again, and stumbles over one that begins with an empty line.
    container["command"] = ["sh", "-c", script.strip()]
    container.pop("args", None)
