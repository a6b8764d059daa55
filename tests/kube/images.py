"""The images, from Debian packages and this machine's build: no image registry is needed.

| image | made of |
| --- | --- |
| `localhost/radialog-kube/debian` | `debootstrap --variant=minbase` |
| `localhost/radialog-kube/services` | that, with the packages rabbitmq-server and redis-server, and the tests' S3 server |
| `localhost/radialog:TAG` | that, and the last stage of `k8s/image/Containerfile` over a binary that cargo built here |

The store is `tests/examples/s3_server.rs`, which every other test of the repository uses, too: Debian has none, and MinIO comes as an image
or as an hour of compiling. What it is not is durable, which this run does not ask of it.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from podman import PodmanError

REPOSITORY = Path(__file__).resolve().parents[2]
DEBIAN = "localhost/radialog-kube/debian"
SERVICES = "localhost/radialog-kube/services"
BUILT = "localhost/radialog-kube/built"
PACKAGES = ["rabbitmq-server", "redis-server"]
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What a root file system has that an image need not.
LEFT_OUT = ["./var/cache/apt", "./var/lib/apt/lists", "./dev", "./proc", "./sys"]


def codename():
    """Debian's release of this machine, since a binary that was built here needs its libc; else bookworm."""
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    release = dict(line.split("=", 1) for line in lines if "=" in line)
    return release["VERSION_CODENAME"].strip('"') if release.get("ID") == "debian" else "bookworm"


def build_programs(log):
    """Compiles `radialog` and the S3 server as everything else in the repository is compiled, and returns the two files."""
    cargo = ["cargo", "build", "--release", "--workspace", "--bins", "--example", "s3_server"]
    with open(log, "a", encoding="utf-8") as output:
        subprocess.run(cargo, cwd=REPOSITORY, stdout=output, stderr=output, check=True)
    release = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / "release"
    return release / "radialog", release / "examples" / "s3_server"


def choose_runtime(podman):
    """Sets podman up for the first OCI runtime that starts a container here.

    crun, podman's default, refuses machines that mount both versions of cgroups; runc does not.
    """
    refusals = []
    for runtime in filter(shutil.which, ("crun", "runc")):
        podman.configure(runtime)
        try:
            _import_debian(podman)
            podman("run", "--rm", "--network", "none", f"{DEBIAN}:latest", "true", timeout=60)
            return runtime
        except PodmanError as error:
            refusals.append(str(error).splitlines()[-1])
    raise PodmanError("no OCI runtime starts a container here (apt-get install crun runc): " + "; ".join(refusals))


def make_services(podman, s3_server, log):
    """The image of broker, state and store."""
    base = _cache(podman) / f"services-{codename()}"
    if not base.is_dir():
        unfinished = base.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        subprocess.run(["cp", "-a", _debian(podman), unfinished], check=True)
        # Packages must not start their services in a folder.
        refuse = unfinished / "usr/sbin/policy-rc.d"
        refuse.write_text("#!/bin/sh\nexit 101\n")
        refuse.chmod(0o755)
        shutil.copy("/etc/resolv.conf", unfinished / "etc/resolv.conf")
        with open(log, "a", encoding="utf-8") as output:
            for step in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
                subprocess.run(
                    ["chroot", unfinished, "apt-get", *step],
                    env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                    stdout=output,
                    stderr=output,
                    check=True,
                )
        refuse.unlink()
        unfinished.rename(base)
    if not podman.exists("image", f"{SERVICES}-packages:{codename()}"):
        _import(podman, base, f"{SERVICES}-packages:{codename()}")
    text = f"FROM {SERVICES}-packages:{codename()}\nCOPY {s3_server.name} /usr/local/bin/s3_server\n"
    return _build(podman, s3_server, text, f"{SERVICES}:latest")


def make_radialog(podman, binary, tags):
    """The image under each of these tags; their contents differ in a label, so that they are different images."""
    lines = (REPOSITORY / "k8s/image/Containerfile").read_text().splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("FROM "))
    stage = [f"FROM {DEBIAN}:latest"]
    for line in lines[last + 1 :]:
        # The stage before it compiles the program, which cargo has done here; everything else is as it is.
        copied = line.startswith("COPY ") and "--from=build" in line
        stage.append(f"COPY {binary.name} {line.split()[-1]}" if copied else line)
    return [_build(podman, binary, "\n".join([*stage, f"LABEL tests.kube.tag={tag}", ""]), f"localhost/radialog:{tag}") for tag in tags]


def _cache(podman):
    return podman.home / "debian"


def _debian(podman):
    """The root file system that everything stands on, made once."""
    base = _cache(podman) / f"base-{codename()}"
    if not base.is_dir():
        unfinished = base.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        base.parent.mkdir(parents=True, exist_ok=True)
        command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", codename(), unfinished]
        with open(base.with_suffix(".log"), "w", encoding="utf-8") as output:
            subprocess.run(command, stdout=output, stderr=output, check=True)
        unfinished.rename(base)
    return base


def _import_debian(podman):
    if not podman.exists("image", f"{DEBIAN}:latest"):
        _import(podman, _debian(podman), f"{DEBIAN}:latest")


def _import(podman, folder, name):
    archive = folder.with_suffix(".tar")
    exclude = [f"--exclude={path}/*" for path in LEFT_OUT]
    subprocess.run(["tar", "-C", folder, *exclude, "-cf", archive, "."], check=True)
    podman("import", "--quiet", "--change", f"ENV {PATH}", archive, name)
    archive.unlink()


def _build(podman, program, text, name):
    """Builds an image of this Containerfile over one program, unless the last run has built just that."""
    digest = hashlib.sha256(text.encode() + program.read_bytes()).hexdigest()[:20]
    built = f"{BUILT}:{digest}"
    if not podman.exists("image", built):
        with tempfile.TemporaryDirectory() as context:
            shutil.copy(program, Path(context) / program.name)
            file = Path(context) / "Containerfile"
            file.write_text(text)
            podman("build", "--quiet", "--network", "host", "--layers", "--tag", built, "--file", file, context)
    podman("tag", built, name)
    return built


def megabytes(podman, name):
    """The size of an image, uncompressed."""
    return round(int(podman("image", "inspect", "--format", "{{.Size}}", name)) / 1e6)


def remove_others(podman, built):
    """Removes what earlier runs built of programs that are not this run's."""
    for image in podman("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split():
        if image.startswith(f"{BUILT}:") and image not in built:
            podman("image", "rm", image, check=False)
