"""A runner's worker with an address of its own, and the messages that it takes and sends, without Django."""

import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from celery import Celery
from kombu import Connection, Exchange, Queue

from runner import datasets, payloads
from test_files.kits import IRIS
from tests.e2e.live import APP, until

TASK = "runapp.tasks.train_test_submission_fold"

SLOW = """
import time
from pathlib import Path
from sklearn.tree import DecisionTreeClassifier

class Classifier(DecisionTreeClassifier):
    def fit(self, X, y):
        Path({marks!r}).mkdir(exist_ok=True)
        Path({marks!r}, str(time.time_ns())).touch()
        {wait}
        return super().fit(X, y)
"""


class Share:
    """The shared disk: the data set `birds`, split, and submissions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data" / "birds"
        self.marks = folder / "marks"
        self.sign = folder / "go"
        self.split("version-1")
        self.submission("sub")

    def env(self) -> dict[str, str]:
        return {"DIR_DATA": str(self.folder / "data"), "DIR_SUBMISSION": str(self.folder / "submission")}

    def split(self, version: str) -> None:
        (self.data / version).mkdir(parents=True)
        frame = pd.read_csv(IRIS.data_files[0]).sample(frac=1, random_state=1)
        datasets.write_standard(self.data / version, frame[:100], frame[100:])
        (self.data / "current").unlink(missing_ok=True)
        (self.data / "current").symlink_to(version)

    def slow(self) -> None:
        """The submission `slow`, whose fits take until go()."""
        self.submission("slow", f"while not Path({str(self.sign)!r}).exists(): time.sleep(0.05)")

    def go(self) -> None:
        self.sign.touch()

    def submission(self, name: str, wait: str = "pass") -> None:
        """A tree whose fit leaves a mark and then waits."""
        folder = self.folder / "submission" / name
        folder.mkdir(parents=True)
        (folder / "classifier.py").write_text(SLOW.format(marks=str(self.marks), wait=wait))

    def fits(self) -> int:
        return len(list(self.marks.iterdir())) if self.marks.exists() else 0

    def remove(self) -> None:
        shutil.rmtree(self.folder / "data")


class Broker:
    """What the master does: send folds, take results."""

    def __init__(self, url: str) -> None:
        self.url = url

    def connection(self) -> Any:
        return Connection(self.url, connect_timeout=5)

    def send_fold(self, number: int, submission: str = "sub", queue: str = "L", attempt: int = 1) -> str:
        task_id = str(uuid.uuid4())
        data = {"folder": "birds", "target_column": "species", "workflow_elements": ["classifier"], "custom": False}
        message = {"databoard_sf_id": number, "data": data, "submission": submission, "attempt": attempt}
        message["train_is"] = payloads.pack(np.arange(80), f"{task_id}.train_is")
        message["highest_test_row"] = 79
        with Celery(broker=self.url, set_as_current=False) as app:
            app.conf.task_queues = [Queue(queue, Exchange("datarun", no_declare=True), queue, no_declare=True)]
            app.send_task(TASK, [message], task_id=task_id, queue=queue)
        return task_id

    def results(self) -> list[dict[str, Any]]:
        """The results of folds that have arrived, and are taken now."""
        return self.news("save_fold")

    def news(self, name: str) -> list[dict[str, Any]]:
        """The messages to the master's task `name`; whatever has arrived is taken now."""
        found = []
        with self.connection() as connection, connection.channel() as channel:
            while (message := Queue("master_periodic", channel=channel).get(no_ack=True)) is not None:
                if message.headers["task"] == f"runapp.tasks.{name}":
                    found.append(message.payload[0][0])
        return found

    def result(self, seconds: float = 180) -> dict[str, Any]:
        [result] = until(self.results, seconds, "a fold has ended")
        return result

    def consumers_and_waiting(self, queue: str) -> tuple[int, int]:
        """Its consumers, and its messages that no worker has."""
        with self.connection() as connection, connection.channel() as channel:
            declared = channel.queue_declare(queue, passive=True)
            return declared.consumer_count, declared.message_count

    def waiting(self, queue: str) -> int:
        return self.consumers_and_waiting(queue)[1]

    def consumers(self, queue: str) -> int:
        return self.consumers_and_waiting(queue)[0]


class Worker:
    """`celery -A runner worker` on all queues."""

    def __init__(self, name: str, log: Path, environment: dict[str, str], slots: int) -> None:
        self.name, self.log, self.slots = name, log, slots
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "DR_"))}
        self.environment = inherited | {"DATARUN_SANDBOX": "off", "PYTHONPATH": str(APP.parent)} | environment
        self.environment["TMPDIR"] = str(log.parent)  # where a fold is that its killed worker left
        self.spool = Path(self.environment["DATARUN_SPOOL"])
        self.process: subprocess.Popen[bytes] | None = None
        self.before = 0

    def start(self, app: str = "runner") -> "Worker":
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-Q", "L,H,celery", "-P", "threads"]
        command += [
            "-c",
            str(self.slots),
            "-n",
            f"celery@{self.name}",
            "--without-gossip",
            "--without-mingle",
            "-l",
            "INFO",
        ]
        self.before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=APP, env=self.environment, stdout=log, stderr=log)
        return self

    def ready(self) -> "Worker":
        assert self.process is not None
        ended = self.process.poll
        until(lambda: "ready." in self.said() or ended() is not None, 180, self.log.read_text)
        assert ended() is None, self.log.read_text()
        return self

    def said(self) -> str:
        """What is in the log of this process, without those before it."""
        return self.log.read_bytes()[self.before :].decode()

    def terminate(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 180) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
