"""A node's part: starts pods, probes them, restarts what ended, ends what is to end with the grace that it was promised."""

import contextlib
import http.client
import json
import math
import os
import signal
import socket
import threading
import time

import adapt
import manifests
from podman import NETWORK, PodmanError

# Reason of an end -> exit codes that the documentation promises: a worker, coordinator or gateway that is asked to stop ends with 0, a
# `batch` with 130 (it can be resumed; with 65 if it was just through, and studies failed), a killed process with 128 + 9.
PROMISED = {"asked": {0}, "asked (job)": {0, 65, 130}, "killed": {137}, "done": {0}}
# A change of a pod's readiness reaches those who connect to the Service as late as this, as it does in a cluster, in seconds.
ENDPOINT_DELAY = 1.0
# Of a probe that names none, in seconds; Kubernetes gives it one, and containers here share the cores of one machine.
PROBE_TIMEOUT = 2.0
# A pod that ended by itself more often than this crash-loops, which ends the run.
MOST_RESTARTS = 3


class Pod:
    """A pod, from its manifest to its end."""

    def __init__(self, workload, name, manifest, template, revision):
        self.workload, self.name, self.manifest, self.revision = workload, name, manifest, revision
        self.labels = template["metadata"].get("labels", {})
        # Before it was adapted: probes, ports, hooks and grace are read from it.
        self.container = template["spec"]["containers"][0]
        self.grace = template["spec"].get("terminationGracePeriodSeconds", 30)
        self.container_name = f"{name}-{self.container['name']}"
        self.address = None
        # Of the container's first process, as this machine counts.
        self.process = 0
        self.created, self.created_at = time.monotonic(), time.time()
        self.started = False
        self.ready = False
        self.ready_since = None
        self.left_service = None
        self.terminating = False
        self.gone = False
        self.exit_code = None
        self.restarts = 0
        self.restart_at = None
        self.failed_liveness = 0
        self.next_probe = {}

    def port(self, wanted):
        """The number of a port that may be a name."""
        ports = {entry.get("name"): entry["containerPort"] for entry in self.container.get("ports", [])}
        return ports.get(wanted, wanted)

    def __str__(self):
        return self.name


class Kubelet:
    """Keeps the pods. `journal` gets what happens, a line each; `logs` is a folder for what the pods print."""

    def __init__(self, podman, logs, journal):
        self.podman, self.logs, self.journal = podman, logs, journal
        self.pods = []
        # (role, why, exit code, seconds from the wish to the end) of every container that ended.
        self.ends = []
        self.faults = []
        # What ends the run, since no state is reached any more.
        self.error = None
        self._config_maps = {}
        self._config_map_file = self.logs.parent / "config-maps.json"
        self._lock = threading.Lock()

    def apply(self, objects):
        """ConfigMaps, Secrets and claims."""
        for item in manifests.of_kind(objects, "ConfigMap"):
            self._config_maps[item["metadata"]["name"]] = item
        self._config_map_file.write_text("\n---\n".join(json.dumps(item) for item in self._config_maps.values()))
        for item in manifests.of_kind(objects, "Secret"):
            self.podman("secret", "create", item["metadata"]["name"], "-", stdin=adapt.secret(item))
        for item in manifests.of_kind(objects, "PersistentVolumeClaim"):
            self.play([item])

    def play(self, objects):
        """`podman kube play` of these objects."""
        arguments = ["kube", "play", "--network", NETWORK]
        if self._config_maps:
            arguments += ["--configmap", self._config_map_file]
        self.podman(*arguments, "-", stdin="\n---\n".join(json.dumps(item) for item in objects))

    def start(self, pod):
        """Starts a pod, and returns when its container runs."""
        self.pods.append(pod)
        self._in_background(self._start, pod)

    def _start(self, pod):
        try:
            self.play([pod.manifest])
            pod.address = self.podman.address(pod.name)
            pod.process = self.podman.process(pod.container_name)
            pod.started = True
        except (PodmanError, KeyError) as error:
            # A manifest that podman does not play does not get better by being played again.
            self.error = RuntimeError(f"{pod} did not start: {error}")

    def remove(self, pod, why, kill=False):
        """Removes a pod: as `kubectl delete pod` does, or, with `kill`, as a lost node does."""
        with self._lock:
            if pod.terminating or pod.gone:
                return
            pod.terminating = True
        pod.left_service = pod.left_service or time.monotonic()
        pod.ready = False
        self._in_background(self._remove, pod, why, kill)

    @contextlib.contextmanager
    def frozen(self, pods):
        """Pods that do nothing while this is open; they must be at work again before liveness probes end them."""
        for pod in pods:
            _signal(pod, signal.SIGSTOP)
        try:
            yield
        finally:
            for pod in pods:
                _signal(pod, signal.SIGCONT)

    def _remove(self, pod, why, kill):
        while not (pod.started or pod.gone):
            time.sleep(0.1)
        if pod.gone:
            return
        if not kill:
            paused = self._pre_stop(pod)
        asked = time.time()
        # Signals go to the process itself, and its end is seen there: podman would need seconds for each on a busy machine.
        _signal(pod, signal.SIGKILL if kill else signal.SIGTERM)
        if not kill and not _wait_for_end(pod, pod.grace - paused):
            _signal(pod, signal.SIGKILL)
        _wait_for_end(pod, math.inf)
        code, ended = self.podman.end(pod.container_name)
        reason = "killed" if kill else "asked (job)" if pod.workload.kind == "Job" else "asked"
        self._ended(pod, reason, code, max(0.0, ended - asked), why)
        self._forget(pod)

    def _pre_stop(self, pod):
        """Runs the container's preStop hook, and returns the seconds that it took of the grace."""
        hook = pod.container.get("lifecycle", {}).get("preStop", {})
        begun = time.monotonic()
        if "sleep" in hook:
            time.sleep(hook["sleep"]["seconds"])
        elif "exec" in hook:
            self.podman("exec", pod.container_name, *hook["exec"]["command"], check=False)
        return time.monotonic() - begun

    def _forget(self, pod):
        self.keep_log(pod)
        self.podman("pod", "rm", "--force", "--time", "0", pod.name, check=False)
        for volume in pod.manifest["spec"].get("volumes", []):
            if "emptyDir" in volume:
                self.podman("volume", "rm", "--force", volume["name"], check=False)
        pod.exit_code = 0 if pod.exit_code is None else pod.exit_code
        pod.gone = True

    def keep_log(self, pod):
        """Appends what the pod has printed to its file."""
        with open(self.logs / f"{pod.name}.log", "a", encoding="utf-8") as log:
            log.write(self.podman.logs(pod.container_name))

    def _ended(self, pod, reason, code, seconds, why):
        pod.exit_code = code
        self.ends.append((pod.workload.name, reason, code, seconds))
        self.journal(f"{pod} {why}: ended with {code} after {seconds:.1f} s")
        # A Job's pod, too, may end only as it promises, although its own specification would try it again.
        if code not in PROMISED.get(reason, set()):
            self.faults.append(f"{pod} ({reason}) ended with {code}")
        pod.workload.pod_ended(reason, code)

    def tick(self):
        """Looks at all pods once: what ended by itself is restarted or noted, what is due is probed."""
        now = time.monotonic()
        for pod in [pod for pod in self.pods if pod.started and not pod.terminating and not pod.gone]:
            if _runs(pod):
                self._probe(pod, now)
            else:
                self._ended_by_itself(pod, now)
        self.pods = [pod for pod in self.pods if not pod.gone]

    def _ended_by_itself(self, pod, now):
        pod.ready = False
        code, ended = self.podman.end(pod.container_name)
        lived = max(0.0, ended - pod.created_at)
        if pod.workload.kind == "Job":
            pod.terminating = True
            self._ended(pod, "done" if code == 0 else "failed", code, lived, "finished")
            self._forget(pod)
            return
        if pod.restart_at is None:
            self._ended(pod, "by itself", code, lived, "ended by itself")
            pod.restarts += 1
            pod.restart_at = now + 2**pod.restarts
            if pod.restarts > MOST_RESTARTS:
                last = self.podman.logs(pod.container_name).strip()[-1000:]
                self.error = RuntimeError(f"{pod} ended {pod.restarts} times by itself; it says: {last}")
        elif now >= pod.restart_at:
            pod.restart_at = None
            self.podman("start", pod.container_name, check=False)
            pod.process = self.podman.process(pod.container_name)

    def _probe(self, pod, now):
        """Asks what is due. Liveness counts from the first time that the pod was ready: its starts are not what is tried here."""
        for kind in ("readinessProbe", "livenessProbe"):
            probe = pod.container.get(kind)
            if probe is None:
                passed = kind == "readinessProbe" or None
            elif now < pod.next_probe.get(kind, 0):
                continue
            else:
                period = probe.get("periodSeconds", 10)
                # A pod that is not ready yet is asked more often, which only makes this run shorter.
                pod.next_probe[kind] = now + (period if pod.ready else min(period, 1))
                passed = self._ask(pod, probe)
            if kind == "readinessProbe":
                self._set_ready(pod, bool(passed), now)
            elif passed is not None and pod.ready_since is not None:
                pod.failed_liveness = 0 if passed else pod.failed_liveness + 1
                if pod.failed_liveness >= probe.get("failureThreshold", 3):
                    self.faults.append(f"{pod} did not answer {pod.failed_liveness} liveness probes")
                    _signal(pod, signal.SIGKILL)

    def _set_ready(self, pod, ready, now):
        if ready and not pod.ready:
            pod.ready_since, pod.left_service = now, None
        elif pod.ready and not ready:
            pod.left_service = now
        pod.ready = ready and not pod.terminating

    def _ask(self, pod, probe):
        timeout = probe.get("timeoutSeconds", PROBE_TIMEOUT)
        try:
            if "httpGet" in probe:
                action = probe["httpGet"]
                connection = http.client.HTTPConnection(pod.address, pod.port(action["port"]), timeout=timeout)
                connection.request("GET", action.get("path", "/"))
                return 200 <= connection.getresponse().status < 400
            if "tcpSocket" in probe:
                socket.create_connection((pod.address, pod.port(probe["tcpSocket"]["port"])), timeout).close()
                return True
            command = probe["exec"]["command"]
            self.podman("exec", pod.container_name, *command, timeout=timeout + 10)
            return True
        except (OSError, http.client.HTTPException, PodmanError):
            return False

    def endpoints(self, service):
        """Addresses behind a Service: its ready pods, and those that stopped being ready less than ENDPOINT_DELAY ago."""
        now = time.monotonic()
        wanted = service["spec"]["ports"][0]
        found = []
        for pod in list(self.pods):
            if not pod.address or not manifests.matches(service["spec"]["selector"], pod.labels):
                continue
            lingers = pod.left_service is not None and now - pod.left_service < ENDPOINT_DELAY
            if pod.ready or lingers:
                found.append((pod.address, pod.port(wanted.get("targetPort", wanted["port"]))))
        return found

    @staticmethod
    def _in_background(function, *arguments):
        threading.Thread(target=function, args=arguments, daemon=True).start()


def _runs(pod):
    return pod.process != 0 and os.path.exists(f"/proc/{pod.process}")


def _signal(pod, number):
    if _runs(pod):
        os.kill(pod.process, number)


def _wait_for_end(pod, seconds):
    """Whether the pod's process ends in so many seconds."""
    end = time.monotonic() + seconds
    while _runs(pod):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
