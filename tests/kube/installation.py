"""The dev overlay in containers: its images, its pods, its services' addresses."""

import base64
import time

import images
import manifests
from kubelet import Kubelet
from podman import NETWORK, SUBNET
from scaler import Scaler
from store import Store
from workloads import Cluster

STAGES = ["embedding", "findings", "language", "scoring"]
# What the key of the dev overlay opens is a trial: it stands in the manifest, in clear.
KEY = "rd-trial"
# `kubectl scale` after applying the overlay, which has one gateway: streams go on at the other one.
GATEWAYS = 2
# A busy machine took 290 s to play ten pods.
READY_SECONDS = 600


class Installation:
    """An installation of RaDialog, from `kubectl apply` to its removal."""

    def __init__(self, podman, logs, say):
        self.podman, self.logs, self.say = podman, logs, say
        self.kubelet = self.cluster = self.objects = None

    def prepare(self, binary, s3_server):
        """Makes the images, and a clean storage."""
        runtime = images.choose_runtime(self.podman)
        self.say(f"podman {self.podman('--version').split()[-1]} with {runtime}; images from Debian {images.codename()}'s packages and {binary}")
        self.podman.remove_everything()
        log = self.logs / "preparation.log"
        services = images.make_services(self.podman, s3_server, log)
        radialog = images.make_radialog(self.podman, binary, ["dev", "next"])
        images.remove_others(self.podman, [services, *radialog])
        whole, debian = (images.megabytes(self.podman, name) for name in (radialog[0], f"{images.DEBIAN}:latest"))
        self.say(f"radialog:dev has {whole} MB, {debian} of them Debian's")
        self.say("images: radialog:dev, radialog:next, and one of RabbitMQ, Redis and an S3 server")
        self.podman("network", "create", "--subnet", SUBNET, NETWORK)
        self.kubelet = Kubelet(self.podman, self.logs / "pods", self._journal)
        self.cluster = Cluster(self.kubelet)

    def _journal(self, line):
        self.say(f"    {line}")

    def apply(self):
        """`kubectl apply -k k8s/overlays/dev`, and waits until everything is ready."""
        begun = time.monotonic()
        self.objects = manifests.render(manifests.K8S / "overlays/dev")
        services = {item["metadata"]["name"] for item in manifests.of_kind(self.objects, "Service")}
        deployments = {item["metadata"]["name"] for item in manifests.of_kind(self.objects, "Deployment")}
        self.cluster.apply(self.objects, services & deployments)
        self.cluster.start()
        names = list(self.cluster.workloads)
        self.say(f"applied k8s/overlays/dev: {len(self.objects)} objects, among them {', '.join(names)}")
        self.cluster.scale("gateway", GATEWAYS)
        self.wait_ready(names)
        self.say(f"all {len(self.cluster.pods())} pods are ready, {time.monotonic() - begun:.1f} s after they were applied")

    def wait_ready(self, names):
        """Waits until all pods of these workloads are there, ready and of the present template."""
        self.cluster.wait(lambda: self.cluster.rolled(names), f"waiting for {', '.join(names)}", READY_SECONDS)

    def secret(self, name):
        """A secret's values by name."""
        return {key: base64.b64decode(value).decode() for key, value in manifests.named(self.objects, "Secret", name)["data"].items()}

    def store(self):
        """A client of the store, with the workers' key."""
        pod = self.cluster.pods("minio")[0]
        values = self.secret("radialog-services")
        return Store(f"{pod.address}:9000", values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"])

    def gateways(self):
        """Addresses behind the Service `gateway`."""
        return self.kubelet.endpoints(manifests.named(self.objects, "Service", "gateway"))

    def scaler(self):
        """The loop over `components/keda`, ready to be entered."""
        objects = manifests.render_with(resources=["../dev"], components=["../../components/keda"])
        secret = manifests.named(self.objects, "Secret", "radialog-management")
        return Scaler(self.cluster, objects, secret, self.cluster.pods("rabbitmq")[0], self._journal)

    def close(self):
        """Removes everything but images."""
        if self.cluster is not None:
            self.cluster.close()
            for pod in self.cluster.pods():
                self.kubelet.keep_log(pod)
        self.podman.remove_everything()
