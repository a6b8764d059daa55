"""Podman, with a storage, networks and secrets of its own: what a run leaves behind is one folder.

The machine's own podman sees nothing of it, and no setting of the machine is changed.
"""

import datetime
import json
import os
import resource
import subprocess
import threading
import time
from pathlib import Path

NETWORK = "radialog-kube"
# Of the private ranges, one that podman's own default networks (10.88 to 10.89) do not take.
SUBNET = "10.213.77.0/24"


class PodmanError(Exception):
    """A call that failed; the message has podman's own words."""


class Podman:
    """Calls podman. `home` holds images and containers, `log` gets every call with its exit code."""

    def __init__(self, home, log):
        self.home = Path(home)
        self.log = log
        self._lock = threading.Lock()
        self._environment = dict(os.environ)
        for name in ("CONTAINER_HOST", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF"):
            self._environment.pop(name, None)

    def configure(self, runtime):
        """Writes the settings for this OCI runtime, `crun` or `runc`."""
        state = Path("/run/radialog-kube")
        for folder in (self.home, state):
            folder.mkdir(parents=True, exist_ok=True)
        # Podman asks for a million of each, which a machine may not allow. 4.3 swaps soft and hard limit, so they are equal.
        files = _allowed(resource.RLIMIT_NOFILE, 1 << 20)
        processes = _allowed(resource.RLIMIT_NPROC, 1 << 15)
        containers = self.home / "containers.conf"
        containers.write_text(
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]\n'
            'log_driver = "k8s-file"\nlog_size_max = 52428800\n'
            f'[engine]\nruntime = "{runtime}"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            f'tmp_dir = "{state}/libpod"\nstatic_dir = "{self.home}/libpod"\n'
            f'[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "{self.home}/networks"\n'
        )
        storage = self.home / "storage.conf"
        storage.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{self.home}/storage"\nrunroot = "{state}/storage"\n')
        self._environment["CONTAINERS_CONF"] = str(containers)
        self._environment["CONTAINERS_STORAGE_CONF"] = str(storage)

    def __call__(self, *arguments, check=True, timeout=600, stdin=None):
        """Runs `podman ARGUMENTS` and returns what it prints. Raises PodmanError where it fails and `check` is set."""
        arguments = [str(argument) for argument in arguments]
        done = subprocess.run(
            ["podman", *arguments],
            env=self._environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        # Conmon's own log, which needs a syslog that containers and small machines lack.
        said = "\n".join(line for line in done.stderr.splitlines() if "failed to connect to syslog" not in line)
        with self._lock, open(self.log, "a", encoding="utf-8") as log:
            log.write(f"podman {' '.join(arguments)} -> {done.returncode}\n{said}\n" if said else f"podman {' '.join(arguments)} -> {done.returncode}\n")
        if check and done.returncode != 0:
            raise PodmanError(f"podman {' '.join(arguments)} ended with {done.returncode}: {said or done.stdout}")
        return done.stdout

    def logs(self, container):
        """What a container has printed, on both of its streams."""
        command = ["podman", "logs", container]
        done = subprocess.run(command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        return done.stdout.decode(errors="replace")

    def exists(self, kind, name):
        """Whether there is an `image`, `network`, `pod`, `secret` or `volume` of this name."""
        return any(name == line.strip() for line in self(kind, "ls", "--format", NAMES[kind], check=False).splitlines())

    def process(self, container):
        """The number of the container's first process, or 0 where it has ended."""
        return int(self("inspect", "--format", "{{.State.Pid}}", container))

    def end(self, container):
        """The exit code of a container whose process has ended, and the time of its end in seconds since 1970."""
        state = "{{.State.Status}} {{.State.ExitCode}} {{.State.FinishedAt}}"
        status, code, day, hour = self("inspect", "--format", state, container).split()[:4]
        while status not in ("exited", "stopped"):
            # Its monitor has not written it down yet.
            time.sleep(0.2)
            status, code, day, hour = self("inspect", "--format", state, container).split()[:4]
        return int(code), datetime.datetime.fromisoformat(f"{day} {hour[:15]}+00:00").timestamp()

    def address(self, pod):
        """The pod's address in the cluster's network, or none while it has none."""
        described = json.loads(self("pod", "inspect", pod))
        infra = json.loads(self("inspect", described["InfraContainerID"]))[0]
        return infra["NetworkSettings"]["Networks"][NETWORK]["IPAddress"] or None

    def remove_everything(self):
        """Removes all pods, volumes and secrets of this storage; images stay for the next run."""
        self("pod", "rm", "--all", "--force", "--time", "0", check=False)
        self("rm", "--all", "--force", "--time", "0", check=False)
        self("volume", "rm", "--all", "--force", check=False)
        for secret in self("secret", "ls", "--format", "{{.Name}}", check=False).split():
            self("secret", "rm", secret, check=False)
        self("network", "rm", "--force", NETWORK, check=False)


def _allowed(limit, wanted):
    hard = resource.getrlimit(limit)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)


NAMES = {
    "image": "{{.Repository}}:{{.Tag}}",
    "network": "{{.Name}}",
    "secret": "{{.Name}}",
    "volume": "{{.Name}}",
}
