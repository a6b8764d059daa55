"""The Job `score` over an archive of this run."""

import time

import manifests


class Score:
    """A `score` Job of an archive `s3://archive/NAME` whose results go to `s3://results/NAME`."""

    def __init__(self, installation, name, tag):
        self.installation, self.archive, self.name, self.tag = installation, name, f"score-{name}", tag
        self._begun = self._seconds = None
        self._before = 0

    def start(self):
        """`kubectl apply`."""
        objects = manifests.score(self.name, f"s3://archive/{self.archive}", f"s3://results/{self.archive}", self.tag)
        self._before = self._stored()
        self._begun = time.monotonic()
        self.installation.cluster.apply(objects)

    def _workload(self):
        return self.installation.cluster.workloads[self.name]

    def result(self):
        """`complete`, `failed`, or none while it runs."""
        result = self._workload().result
        if result is not None and self._seconds is None:
            self._seconds = time.monotonic() - self._begun
        return result

    def seconds(self):
        """From its start to its end."""
        return self._seconds

    def pods(self):
        """How many pods it took."""
        return self._workload().made

    def _stored(self):
        return len(self.installation.store().names("radialog", "language/"))

    def studies_done(self):
        """Studies whose report is stored."""
        return self._stored() - self._before

    def wait_for_studies(self, count):
        """Waits until so many reports are stored."""
        cluster = self.installation.cluster
        cluster.wait(lambda: self.studies_done() >= count or self.result() is not None, f"{count} reports of {self.name}", 180)
