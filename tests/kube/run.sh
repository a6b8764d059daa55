#!/usr/bin/env bash
# Applies k8s/overlays/dev in containers and breaks it while it works: see the section "Kubernetes" of tests/README.md.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command -v python3 >/dev/null || {
    echo "python3 is missing: apt-get install python3" >&2
    exit 64
}
exec python3 -B "$here/run.py" "$@"
