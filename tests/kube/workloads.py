"""A control plane's part: how many pods of a Deployment, StatefulSet or Job there are, and in which order they are exchanged."""

import hashlib
import json
import math
import threading
import time

import adapt
import manifests
from kubelet import Pod

TICK = 0.5


class Workload:
    """A Deployment, StatefulSet or Job, with the number of pods that is wanted of it."""

    def __init__(self, item):
        self.kind, self.name, self.item = item["kind"], item["metadata"]["name"], item
        self.template = item["spec"]["template"]
        self.wanted = item["spec"].get("replicas", 1)
        self.image = None
        # The name of its one pod, where a Service's name has to lead to it.
        self.fixed_name = None
        self.made = 0
        # Of a Job: how many of its pods failed, and how it ended.
        self.failures = 0
        self.result = None

    def pod_ended(self, reason, code):
        """Of a Job: whether it is complete, failed, or goes on with another pod."""
        if self.kind != "Job":
            return
        spec = self.item["spec"]
        if code == 0:
            self.result = "complete"
            return
        for rule in spec.get("podFailurePolicy", {}).get("rules", []):
            # Whoever removes a pod in this run stands for a drained node, whose pods get the condition DisruptionTarget.
            disrupted = reason != "failed" and any(on["type"] == "DisruptionTarget" for on in rule.get("onPodConditions", []))
            if disrupted and rule["action"] == "Ignore":
                return
            if code in rule.get("onExitCodes", {}).get("values", []) and rule["action"] == "FailJob":
                self.result = "failed"
                return
        self.failures += 1
        if self.failures > spec.get("backoffLimit", 6):
            self.result = "failed"

    def revision(self):
        """What distinguishes pods of the present template from earlier ones."""
        return hashlib.sha256(json.dumps([self.template, self.image], sort_keys=True).encode()).hexdigest()[:6]


class Cluster:
    """Brings about what is wanted, in a thread of its own, until it is closed."""

    def __init__(self, kubelet):
        self.kubelet = kubelet
        self.workloads = {}
        self.lock = threading.RLock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error = None

    def start(self):
        """Starts the control loop."""
        self._thread.start()

    def apply(self, objects, services=()):
        """Applies objects. A pod of one of these `services` bears the Service's name, which is its name in the cluster's DNS."""
        self.kubelet.apply(objects)
        with self.lock:
            for item in manifests.of_kind(objects, "Deployment", "StatefulSet", "Job"):
                workload = Workload(item)
                workload.fixed_name = workload.name if workload.name in services else None
                self.workloads[workload.name] = workload

    def pods(self, name=None):
        """Pods that are there and not on their way out, of one workload or of all."""
        return [pod for pod in list(self.kubelet.pods) if not pod.gone and not pod.terminating and name in (None, pod.workload.name)]

    def scale(self, name, wanted):
        """`kubectl scale`."""
        self.workloads[name].wanted = wanted

    def roll(self, names, image):
        """`kubectl set image`."""
        with self.lock:
            for name in names:
                self.workloads[name].image = image

    def rolled(self, names):
        """Whether all pods of these workloads are of the present template, ready, and as many as wanted, and no other is left."""
        for name in names:
            workload = self.workloads[name]
            pods = [pod for pod in list(self.kubelet.pods) if pod.workload is workload and not pod.gone]
            current = [pod for pod in pods if pod.revision == workload.revision() and pod.ready]
            if len(pods) != workload.wanted or len(current) != workload.wanted:
                return False
        return True

    def wait(self, condition, what, seconds):
        """Waits for a state. Raises TimeoutError with what was waited for, and what is there instead."""
        end = time.monotonic() + seconds
        while not condition():
            for error in (self.error, self.kubelet.error):
                if error is not None:
                    raise error
            if time.monotonic() > end:
                there = ", ".join(f"{pod} {'ready' if pod.ready else 'not ready'}" for pod in list(self.kubelet.pods))
                raise TimeoutError(f"{what}: not within {seconds} s; pods: {there or 'none'}")
            time.sleep(0.2)

    def close(self):
        """Ends the control loop; pods stay as they are."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self):
        while not self._closed.wait(TICK):
            try:
                self.kubelet.tick()
                with self.lock:
                    for workload in list(self.workloads.values()):
                        RECONCILE[workload.kind](self, workload)
            except Exception as error:  # noqa: BLE001
                # The thread that waits for a state raises it.
                self.error = error
                return

    def _all(self, workload):
        return [pod for pod in self.kubelet.pods if pod.workload is workload and not pod.gone]

    def _create(self, workload, name, volumes=None):
        revision = workload.revision()
        manifest = adapt.pod(workload.template, name, volumes, workload.image)
        self.kubelet.start(Pod(workload, name, manifest, workload.template, revision))

    def _next_name(self, workload):
        workload.made += 1
        return workload.fixed_name or f"{workload.name}-{workload.revision()}-{workload.made}"

    def _deployment(self, workload):
        there = self._all(workload)
        pods = [pod for pod in there if not pod.terminating]
        current = [pod for pod in pods if pod.revision == workload.revision()]
        old = [pod for pod in pods if pod not in current]
        strategy = workload.item["spec"].get("strategy", {})
        if workload.fixed_name or strategy.get("type") == "Recreate":
            if old:
                for pod in old:
                    self.kubelet.remove(pod, "is replaced")
            elif not there and workload.wanted:
                self._create(workload, self._next_name(workload))
            return
        rolling = strategy.get("rollingUpdate", {})
        surge = _share(rolling.get("maxSurge", "25%"), workload.wanted, math.ceil)
        unavailable = _share(rolling.get("maxUnavailable", "25%"), workload.wanted, math.floor)
        for _ in range(min(workload.wanted - len(current), workload.wanted + surge - len(pods))):
            self._create(workload, self._next_name(workload))
        spare = sum(pod.ready for pod in pods) - (workload.wanted - unavailable)
        for pod in sorted(old, key=lambda pod: pod.ready):
            if pod.ready and spare <= 0:
                continue
            spare -= pod.ready
            self.kubelet.remove(pod, "is rolled")
        # The ReplicaSet's order: those that are not ready, then those that are it for the shortest time.
        by_age = sorted(current, key=lambda pod: (pod.ready, -(pod.ready_since or pod.created)))
        for pod in by_age[: max(0, len(current) - workload.wanted)]:
            self.kubelet.remove(pod, "is scaled down")

    def _stateful_set(self, workload):
        there = {pod.name: pod for pod in self._all(workload)}
        names = [f"{workload.name}-{number}" for number in range(workload.wanted)]
        for name in names:
            if name not in there:
                self._create(workload, name, self._claims(workload, name))
        for name in [name for name in there if name not in names]:
            self.kubelet.remove(there[name], "is scaled down")
        settled = all(pod.ready for pod in there.values()) and len(there) == workload.wanted
        if settled:
            for name in reversed(names):
                if there[name].revision != workload.revision():
                    self.kubelet.remove(there[name], "is rolled")
                    return

    def _claims(self, workload, pod_name):
        claims = {}
        for claim in workload.item["spec"].get("volumeClaimTemplates", []):
            name = f"{claim['metadata']['name']}-{pod_name}"
            claims[claim["metadata"]["name"]] = name
            if not self.kubelet.podman.exists("volume", name):
                played = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": claim["spec"]}
                self.kubelet.play([played])
        return claims

    def _job(self, workload):
        if workload.result is None and not self._all(workload):
            self._create(workload, self._next_name(workload))


def _share(value, whole, rounded):
    if isinstance(value, str):
        return rounded(whole * int(value.rstrip("%")) / 100)
    return value


RECONCILE = {"Deployment": Cluster._deployment, "StatefulSet": Cluster._stateful_set, "Job": Cluster._job}
