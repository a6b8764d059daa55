"""Applies the dev overlay in containers, works in it, and changes it meanwhile: see the section "Kubernetes" of tests/README.md.

Exit codes: 0 when nothing was lost, 1 when something was, 64 when a program is missing or an argument is wrong.
"""

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

import images
from installation import Installation
from phases import Phases
from podman import Podman

# Program -> Debian package.
PROGRAMS = {
    "podman": "podman",
    "netavark": "netavark",
    "aardvark-dns": "aardvark-dns",
    # The process that holds a pod's namespaces.
    "catatonit": "catatonit",
    "iptables": "iptables",
    "debootstrap": "debootstrap",
    "tar": "tar",
    "kubectl": None,
}
FOLDERS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/lib/podman", "/usr/libexec/podman"])


def main():
    """Runs everything and returns the exit code."""
    options = arguments()
    stamp = time.strftime("%Y%m%d-%H%M%S")
    logs = Path(options.logs or images.REPOSITORY / "target" / "kube" / stamp).resolve()
    (logs / "pods").mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()

    def say(line=""):
        text = f"{time.monotonic() - begun:6.1f} s  {line}" if line else ""
        print(text, flush=True)
        with open(logs / "run.log", "a", encoding="utf-8") as transcript:
            transcript.write(text + "\n")

    say(f"logs: {logs}")
    check_machine(options.install, logs / "preparation.log", say)
    options.home.mkdir(parents=True, exist_ok=True)
    lock = open(options.home / "lock", "w", encoding="utf-8")  # noqa: SIM115 - held until the process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another run uses {options.home}: wait for its end, or give this one another --home", file=sys.stderr)
        return 64
    podman = Podman(options.home, logs / "podman.log")
    installation = None
    try:
        installation = Installation(podman, logs, say)
        binary, s3_server = programs(options, logs, say)
        installation.prepare(binary, s3_server)
        phases = Phases(installation, binary, options.studies, options.seed, say)
        lost = phases.run()
    except BaseException as error:  # noqa: BLE001
        # An interruption, too: pods must not outlive the run.
        (logs / "error.log").write_text(traceback.format_exc())
        say(f"stopped: {error!r} (error.log)")
        lost = ["the run did not come to its end"]
        if isinstance(error, KeyboardInterrupt):
            lost = ["interrupted"]
    finally:
        if installation is not None and not options.keep:
            say("removing pods, volumes, secrets and the network; images stay for the next run")
            installation.close()
    say(f"lost: {'nothing' if not lost else ''}")
    for what in lost:
        say(f"  {what}")
    return 1 if lost else 0


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests/kube/run.sh", description="The dev overlay, applied in containers and disturbed at work.")
    parser.add_argument("--binary", type=Path, help="the program (default: built by cargo)")
    parser.add_argument("--s3-server", type=Path, help="the tests' S3 server, an example of radialog-tests (default: built by cargo)")
    parser.add_argument("--studies", type=int, default=100, help="X-rays in each of the three runs: more than two workers' 32, else there are too few to scale (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="order of the removals (default: 1)")
    parser.add_argument("--logs", help="folder for logs (default: target/kube/TIME)")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    parser.add_argument("--home", type=Path, default=cache / "radialog-kube", help="images and root file systems, kept for the next run")
    parser.add_argument("--install", action="store_true", help="install missing Debian packages with apt-get")
    parser.add_argument("--keep", action="store_true", help="leave the pods as they are at the end")
    options = parser.parse_args()
    for file in filter(None, (options.binary, options.s3_server)):
        if not file.is_file():
            parser.error(f"{file}: no such file")
    return options


def check_machine(install, log, say):
    """Says what is missing, all at once, or installs it."""
    if os.geteuid() != 0:
        raise SystemExit("podman needs root here: pods have addresses of their own, and run as other users")
    missing = [program for program in PROGRAMS if not shutil.which(program, path=FOLDERS)]
    if not any(shutil.which(runtime) for runtime in ("crun", "runc")):
        missing.append("runc")
    if "kubectl" in missing:
        print("kubectl 1.27 or newer is missing: https://kubernetes.io/docs/tasks/tools/ (Debian 12's does not know components)", file=sys.stderr)
        sys.exit(64)
    packages = [PROGRAMS.get(program, program) for program in missing]
    if packages and not install:
        print(f"missing: {', '.join(missing)}; apt-get install {' '.join(packages)}, or run with --install", file=sys.stderr)
        sys.exit(64)
    if packages:
        say(f"installing {' '.join(packages)}: containers, and a Debian to make their images of")
        with open(log, "a", encoding="utf-8") as output:
            subprocess.run(["apt-get", "install", "--yes", "--no-install-recommends", *packages], stdout=output, stderr=output, check=True)


def programs(options, logs, say):
    """The program and the S3 server, compiled where they are not given."""
    if options.binary and options.s3_server:
        return options.binary, options.s3_server
    say("cargo build --release --workspace --bins --example s3_server")
    binary, s3_server = images.build_programs(logs / "preparation.log")
    return options.binary or binary, options.s3_server or s3_server


if __name__ == "__main__":
    sys.exit(main())
