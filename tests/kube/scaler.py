"""KEDA's part and the autoscaler's: pods of each stage by the messages in its queues, as `components/keda` says.

Every number of the ScaledObjects is used as it is; only their times are divided by SPEED, since nobody wants to wait for minutes of cooling
down. Triggers of other kinds than `rabbitmq` (Prometheus) are left out: there is no Prometheus here.
"""

import base64
import json
import math
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import manifests

SPEED = 20
# KEDA's defaults, and the autoscaler's, in seconds and as a share.
POLLING = 30
COOLDOWN = 300
STABILIZATION = 300
TOLERANCE = 0.1


class Scaler:
    """Scales while it is open. `broker` is RabbitMQ's pod, whose management API is asked."""

    def __init__(self, cluster, objects, secret, broker, journal):
        self.cluster, self.journal = cluster, journal
        self.objects = manifests.of_kind(objects, "ScaledObject")
        address = urllib.parse.urlsplit(base64.b64decode(secret["data"]["RABBITMQ_MANAGEMENT_URL"]).decode())
        self._base = f"http://{broker.address}:{address.port or 15672}/api/queues/{address.path.lstrip('/') or '%2f'}/"
        pair = f"{urllib.parse.unquote(address.username)}:{urllib.parse.unquote(address.password)}"
        self._authorization = "Basic " + base64.b64encode(pair.encode()).decode()
        self._active = {}
        self._wishes = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        # Most pods that a stage was given, and each change as (monotonic seconds, stage, before, after).
        self.most = {}
        self.changes = []
        self.error = None

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._closed.set()
        self._thread.join()
        if self.error is not None and exception[0] is None:
            raise self.error

    def floor(self):
        """Pods of each stage when there is no work: the ScaledObjects' smallest numbers."""
        return {item["spec"]["scaleTargetRef"]["name"]: item["spec"].get("minReplicaCount", 0) for item in self.objects}

    def messages(self, queue):
        """Messages of a queue, ready and not acknowledged; 0 where nobody has declared it yet."""
        request = urllib.request.Request(self._base + urllib.parse.quote(queue, safe=""), headers={"Authorization": self._authorization})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer).get("messages", 0)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return 0
            raise

    def _run(self):
        begun = time.monotonic()
        polling = min(item["spec"].get("pollingInterval", POLLING) for item in self.objects) / SPEED
        while not self._closed.wait(polling):
            try:
                for item in self.objects:
                    self._scale(item["spec"], time.monotonic(), begun)
            except Exception as error:  # noqa: BLE001
                self.error = error
                return

    def _scale(self, spec, now, begun):
        name = spec["scaleTargetRef"]["name"]
        least, most = spec.get("minReplicaCount", 0), spec.get("maxReplicaCount", 100)
        have = self.cluster.workloads[name].wanted
        wish, active = 0, False
        for trigger in spec["triggers"]:
            if trigger["type"] != "rabbitmq":
                continue
            metadata = trigger["metadata"]
            messages = self.messages(metadata["queueName"])
            active = active or messages > int(metadata.get("activationValue", 0))
            per_pod = messages / float(metadata["value"])
            # The autoscaler lets a number be that is right within a tenth.
            close = have > 0 and abs(per_pod / have - 1) <= TOLERANCE
            wish = max(wish, have if close else math.ceil(per_pod))
        if active:
            self._active[name] = now
        wish = max(wish, least, 1 if active else 0)
        idle = now - self._active.get(name, begun) >= spec.get("cooldownPeriod", COOLDOWN) / SPEED
        if not active and not idle:
            # Between 1 and 0 only the cool-down decides.
            wish = max(wish, min(have, 1))
        wish = self._stabilized(name, spec, min(wish, most), have, now, idle and not active)
        if wish != have:
            self.changes.append((now, name, have, wish))
            self.journal(f"scaler: {name} {have} -> {wish}")
            self.cluster.scale(name, wish)
        self.most[name] = max(self.most.get(name, 0), wish)

    def _stabilized(self, name, spec, wish, have, now, idle):
        """Fewer pods only when that was wished for the whole window, and not faster than the policies allow."""
        behavior = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("behavior", {}).get("scaleDown", {})
        window = behavior.get("stabilizationWindowSeconds", STABILIZATION) / SPEED
        wishes = [(at, value) for at, value in self._wishes.get(name, []) if now - at <= window] + [(now, wish)]
        self._wishes[name] = wishes
        if idle:
            return wish
        wish = max(value for _, value in wishes) if wish < have else wish
        if wish < have:
            limits = []
            for policy in behavior.get("policies", []):
                period = policy["periodSeconds"] / SPEED
                removed = sum(before - after for at, stage, before, after in self.changes if stage == name and after < before
                              and now - at <= period)
                allowed = policy["value"] if policy["type"] == "Pods" else math.ceil(have * policy["value"] / 100)
                limits.append(max(0, allowed - removed))
            if limits:
                wish = max(wish, have - (min(limits) if behavior.get("selectPolicy") == "Min" else max(limits)))
        return wish
