"""Studies through four stages without a model, by Celery, for the benchmark `overhead`:

    task_queue.py celery --amqp URL --redis URL [--quorum] [--studies N] [--workers N] [--payload BYTES] [--window N] [--single N]

Embedding and findings run side by side, the report waits for both, scoring follows (a chord and a chain). As in the system that it
is compared with, messages are persistent, confirmed, and acknowledged after the work; each stage stores what it makes, and the
next one reads it. One process a worker. At most `--window` studies are on their way. Prints studies/s, and what a study takes
that is alone. Wants the package celery[redis]; empties the Redis that it is given."""

import argparse
import os
import statistics
import subprocess
import sys
import time

import redis
from celery import Celery, chain, chord, group

arguments = argparse.ArgumentParser()
arguments.add_argument("tool", choices=["celery"])
arguments.add_argument("--amqp", required=True)
arguments.add_argument("--redis", required=True)
arguments.add_argument("--quorum", action="store_true")
arguments.add_argument("--studies", type=int, default=5000)
arguments.add_argument("--workers", type=int, default=2)
arguments.add_argument("--payload", type=int, default=98_304, help="bytes of an embedding")
arguments.add_argument("--window", type=int, default=500)
arguments.add_argument("--single", type=int, default=20, help="studies that are sent alone, for the time of one")
arguments.add_argument("--work", action="store_true", help="be a worker")
given = arguments.parse_args()

WARM = 50
PATIENCE = 600
LIFETIME = 600
store = redis.Redis.from_url(given.redis)
embedding_bytes = os.urandom(given.payload)

app = Celery("peer", broker=given.amqp, backend=given.redis)
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": True},
    result_expires=LIFETIME,
    task_acks_late=True,
    task_default_delivery_mode="persistent",
    worker_prefetch_multiplier=64,
    worker_send_task_events=False,
)
if given.quorum:
    app.conf.update(task_default_queue="peer-quorum", task_default_queue_type="quorum", worker_detect_quorum_queues=True)


@app.task(name="embedding")
def embedding(study):
    store.set(f"embedding:{study}", embedding_bytes, ex=LIFETIME)
    return study


@app.task(name="findings")
def findings(study):
    store.set(f"findings:{study}", b"f" * 200, ex=LIFETIME)
    return study


@app.task(name="report")
def report(studies):
    study = studies[0]
    store.mget(f"embedding:{study}", f"findings:{study}")
    store.set(f"report:{study}", b"r" * 500, ex=LIFETIME)
    return study


@app.task(name="scoring", ignore_result=True)
def scoring(study):
    store.get(f"report:{study}")
    store.incr("done")


def begin(study):
    chain(chord(group(embedding.s(study), findings.s(study)), report.s()), scoring.s()).apply_async()


def done():
    return int(store.get("done") or 0)


def until(count):
    begun = time.monotonic()
    while done() < count:
        if time.monotonic() - begun > PATIENCE:
            raise SystemExit(f"{done()} of {count} studies are done after {PATIENCE} s")
        time.sleep(0.001 if count - done() < 2 else 0.01)


def through(name, studies):
    """Sends studies within the window, and returns the seconds until the last one is done."""
    store.set("done", 0)
    begun = time.perf_counter()
    for number in range(studies):
        # Asking for each study would cost more than it saves.
        while number % 50 == 0 and number - done() >= given.window:
            time.sleep(0.002)
        begin(f"{name}{number}")
    until(studies)
    return time.perf_counter() - begun


def main():
    store.flushdb()
    command = [sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--work"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    workers = [subprocess.Popen(command, **quiet) for _ in range(given.workers)]
    try:
        through("warm", WARM)
        alone = [through(f"alone{number}-", 1) for number in range(given.single)]
        seconds = through("study", given.studies)
        kind = "quorum" if given.quorum else "classic"
        latency = f"; alone: median {1e3 * statistics.median(alone):.2f} ms" if alone else ""
        print(f"celery, {kind} queues, {given.workers} workers: {given.studies / seconds:.1f} studies/s{latency}")
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            try:
                worker.wait(10)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


if given.work:
    app.worker_main(["worker", "--concurrency", "1", "--without-gossip", "--without-mingle", "--without-heartbeat",
                     "--hostname", f"peer{os.getpid()}@%h", "--loglevel", "ERROR"])
else:
    main()
