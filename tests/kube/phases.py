"""What happens to the installation, and the proof that nothing got lost by it."""

import collections
import http.client
import json
import os
import random
import signal
import subprocess
import time

import jobs
import xrays
from chat import Chatters, Conversation
from installation import KEY, STAGES

PEOPLE = 2
# X-rays that people talk about; each is asked about in one way, so that the same conversation without disturbance is short to repeat.
CHAT_XRAYS = 6
JOB_SECONDS = 600
# Archives that `score` reads.
ROLL, REMOVE, SCALE = "while-rolled", "while-removed", "while-scaled"
# Stages that read images.
FIRST_STAGES = ("embedding", "findings")
ROLES = [*STAGES, "coordinator", "gateway"]


class Phases:
    """The run, phase by phase."""

    def __init__(self, installation, binary, studies, seed, say):
        self.installation, self.binary, self.studies, self.say = installation, binary, studies, say
        self.cluster = installation.cluster
        self.order = random.Random(seed)
        self.folder = installation.logs / "undisturbed"
        self.lost = []
        self.conversations = []
        self.store = None

    def run(self):
        """All phases; returns what was lost, a line each."""
        archives = {name: list(xrays.take(self.studies, number * self.studies)) for number, name in enumerate((ROLL, REMOVE, SCALE))}
        self.installation.apply()
        self.store = self.installation.store()
        undisturbed = self._begin_undisturbed(archives)
        try:
            self._disturb(archives)
            self._compare(undisturbed, archives)
        finally:
            if undisturbed.poll() is None:
                os.killpg(undisturbed.pid, signal.SIGTERM)
        self._compare_chat()
        self._ends()
        return self.lost + self.installation.kubelet.faults

    def _disturb(self, archives):
        for name, files in archives.items():
            for file, content in files:
                self.store.put("archive", f"{name}/{file}", content)
        self.say(f"stored {len(archives)} archives of {self.studies} X-rays at s3://archive")
        with self._people() as people:
            self._roll()
            self._remove()
            self._chat_goes_on(people)
        self._note_people(people)
        self._scale()

    # Phases

    def _roll(self):
        self.say(f"roll-out: scoring {self.studies} X-rays by the Job `score`, chatting, and rolling radialog:dev to radialog:next")
        job = jobs.Score(self.installation, ROLL, "dev")
        job.start()
        job.wait_for_studies(1)
        begun = time.monotonic()
        # The order in which `kubectl apply` would find them: all at once.
        self.cluster.roll(ROLES, "localhost/radialog:next")
        self.installation.wait_ready(ROLES)
        self.say(f"rolled {len(ROLES)} workloads in {time.monotonic() - begun:.1f} s; the run was at {job.studies_done()} of {self.studies}")
        self._finish(job)

    def _remove(self):
        self.say(f"removals: scoring {self.studies} X-rays, chatting, and removing pods of every role, by request and by force")
        job = jobs.Score(self.installation, REMOVE, "next")
        job.start()
        job.wait_for_studies(1)
        victims = [(role, kill) for role in [*ROLES, job.name] for kill in (False, True)]
        self.order.shuffle(victims)
        removed = in_run = 0
        for role, kill in victims:
            victim = self._victim(job, role)
            if victim is None:
                continue
            why = "is lost with its node" if kill else "is removed"
            if job.result() is None:
                in_run += 1
                why += f" at {job.studies_done()} of {self.studies}"
            self.installation.kubelet.remove(victim, why, kill)
            removed += 1
        self.say(f"removed {removed} pods, {in_run} of them before the run's end")
        self._finish(job)

    def _victim(self, job, role):
        """One of a role's pods, when it is at work; none when the Job is complete.

        Two at once of a role that has one is an outage, not a removal. And a process that is not set up yet does not see a SIGTERM, since
        the kernel hands process 1 only signals that it asked for.
        """
        kubelet = self.installation.kubelet

        def at_work():
            pods = [pod for pod in self.cluster.pods(role) if pod.ready]
            return [pod for pod in pods if role != job.name or kubelet.podman.logs(pod.container_name)]

        self.cluster.wait(lambda: at_work() or (role == job.name and job.result()), f"a pod of {role}", 180)
        pods = at_work()
        return self.order.choice(sorted(pods, key=str)) if pods else None

    def _scale(self):
        self.say("scaling: components/keda over the broker's management API, from idle to work to idle")
        with self.installation.scaler() as scaler:
            floor = scaler.floor()
            self._wait_for_floor(floor)
            job = jobs.Score(self.installation, SCALE, "next")
            # Where the images go first one worker would be quick enough; it stands still until there are more.
            with self.installation.kubelet.frozen([pod for name in FIRST_STAGES for pod in self.cluster.pods(name)]):
                job.start()
                self.cluster.wait(
                    lambda: all(scaler.most.get(name, 0) > floor[name] for name in FIRST_STAGES), "more pods of " + " and ".join(FIRST_STAGES), 45
                )
            self._finish(job)
            self._wait_for_floor(floor)
            most = {name: scaler.most[name] for name in floor}
        self.say("scaled: " + ", ".join(f"{name} {floor[name]} to {most[name]} to {floor[name]}" for name in floor))
        # Scores are quick: a report is scored before the next ones are written.
        self.lost += [f"{name} was never scaled up" for name in floor if name != "scoring" and most[name] <= floor[name]]

    def _wait_for_floor(self, floor):
        def there():
            pods = [pod for pod in self.installation.kubelet.pods if not pod.gone]
            return all(sum(pod.workload.name == name for pod in pods) == wanted for name, wanted in floor.items())

        self.cluster.wait(there, "idle stages at their smallest numbers", 180)
        self.say("idle: " + ", ".join(f"{name} {wanted}" for name, wanted in floor.items()))

    # Work

    def _finish(self, job):
        self.cluster.wait(lambda: job.result() is not None, f"the Job {job.name}", JOB_SECONDS)
        self.say(f"Job {job.name}: {job.result()} after {job.seconds():.1f} s, {job.pods()} pods")
        if job.result() != "complete":
            self.lost.append(f"the Job {job.name} {job.result()}")

    def _people(self):
        images = [content for _, content in xrays.take(CHAT_XRAYS, 3 * self.studies)]
        self.say(f"{PEOPLE} people chat through the gateways with a key, and read for twice as long as they wait, at most 10 s")
        return Chatters(self.installation.gateways, KEY, images, PEOPLE)

    def _chat_goes_on(self, people):
        turns = people.turns()
        self.cluster.wait(lambda: people.turns() > turns, "a conversation after the last removal", 300)

    def _note_people(self, people):
        self.conversations = people.conversations
        self.lost += people.wrong
        self.say(
            f"chat: {len(people.conversations)} conversations, {people.turns()} turns read to their end, each event once; "
            f"{len(people.wrong)} went wrong; {people.refused} connections refused, {people.broken} broken and taken up again, "
            f"{people.unavailable} times no gateway"
        )

    # Proof

    def _begin_undisturbed(self, archives):
        """The same studies in one process without any service, at the lowest priority beside everything else."""
        archive = self.folder / "archive"
        for name, files in archives.items():
            (archive / name).mkdir(parents=True)
            for file, content in files:
                (archive / name / file).write_bytes(content)
        command = " && ".join(f'nice -n 19 "$0" batch {archive}/{name} --out {self.folder}/{name} --progress off' for name in archives)
        with open(self.folder / "batch.log", "w", encoding="utf-8") as log:
            process = subprocess.Popen(["sh", "-c", command, str(self.binary)], stdout=log, stderr=log, env=self._environment(), start_new_session=True)
        return process

    def _environment(self):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RADIALOG_")}
        return {**kept, "RADIALOG_CACHE": str(self.folder / "cache")}

    def _compare(self, undisturbed, archives):
        self.say("waiting for the same studies without disturbance, in one process")
        if undisturbed.wait() != 0:
            raise RuntimeError(f"the undisturbed run failed: {self.folder}/batch.log")
        for name in archives:
            wanted = xrays.lines((self.folder / name / "results.jsonl").read_text())
            text = self.store.get("results", f"{name}/results.jsonl").decode()
            (self.installation.logs / f"results-{name}.jsonl").write_text(text)
            try:
                found = xrays.lines(text)
            except ValueError as error:
                self.lost.append(f"{name}: {error}")
                continue
            wrong = xrays.differences(wanted, found)
            failed = sum(line["status"] != "done" for line in found.values())
            self.say(f"{name}: {self.studies} studies in, {len(found)} lines out, each once; {failed} failed, {len(wrong)} differ from the undisturbed run")
            self.lost += [f"{name}: {what}" for what in wrong]

    def _compare_chat(self):
        port = _free_port()
        with open(self.folder / "serve.log", "w", encoding="utf-8") as log:
            command = [str(self.binary), "serve", "--listen", f"127.0.0.1:{port}"]
            process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment(), cwd=self.folder)
        try:
            quiet = Chatters(lambda: [("127.0.0.1", port)], KEY, [], 0)
            self.cluster.wait(lambda: _answers(port), "radialog serve", 60)
            wanted, wrong = {}, 0
            for conversation in self.conversations:
                key = (conversation.image, conversation.question)
                if key not in wanted:
                    repeated = Conversation(conversation.image, conversation.question)
                    quiet.converse(repeated)
                    wanted[key] = repeated.turns
                wrong += sum(a != b for a, b in zip(wanted[key], conversation.turns, strict=True))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        turns = sum(len(conversation.turns) for conversation in self.conversations)
        self.say(f"chat: {turns} answers, {wrong} differ from the same {len(wanted)} conversations without disturbance")
        if wrong:
            self.lost.append(f"{wrong} answers differ")

    def _ends(self):
        table = collections.Counter()
        slowest = collections.defaultdict(float)
        for role, reason, code, seconds in self.installation.kubelet.ends:
            table[reason, code] += 1
            if reason.startswith("asked"):
                slowest[role] = max(slowest[role], seconds)
        self.say("containers that ended: " + ", ".join(f"{count} {reason}: exit {code}" for (reason, code), count in sorted(table.items())))
        self.say("slowest end by request: " + ", ".join(f"{role} {seconds:.1f} s" for role, seconds in sorted(slowest.items())))


def _free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(port):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        connection.request("GET", "/v1/models")
        return bool(json.loads(connection.getresponse().read()))
    except (OSError, http.client.HTTPException, ValueError):
        return False
