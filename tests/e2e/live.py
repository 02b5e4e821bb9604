"""A server as `make serve` starts it, and an organiser who uses it through the documented client."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import requests

from test_files import post_api
from tests.conftest import on_services
from tests.services import RabbitMQ, free_port

APP = Path(__file__).resolve().parents[2] / "app"
LOGIN, PASSWORD = "organiser", "a password of the tests"
START_SECONDS, FOLD_SECONDS = 300.0, 300.0


def until(condition: Callable[[], Any], seconds: float, what: str | Callable[[], str]) -> Any:
    """Wait until the condition gives something true, and return it; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.05)
    return result


class Live:
    """A running server. home: its DATARUN_HOME, kept between start and stop."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = os.environ | {
            "DATARUN_HOME": str(home),
            "PORT": str(self.port),
            "USER_LOGIN": LOGIN,
            "USER_PSWD": PASSWORD,
            **_own_queues(),
            **environment,
        }
        self.log = home / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Live":
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                # as `make serve` does: by a path from the folder app
                [os.path.relpath(sys.executable, APP), "manage.py", "serve"],
                cwd=APP,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self.wait_for_answer()
        return self

    def login(self) -> tuple[str, str]:
        """Name and password of the server's user."""
        return LOGIN, PASSWORD

    def wait_for_answer(self) -> None:
        until(self._answers, START_SECONDS, lambda: f"the server answers: {self.evidence()}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(120)
        until(lambda: not self.children(), 120, "the server's processes are gone")

    def children(self) -> dict[int, str]:
        """The processes that carry this server's home in their environment: pid -> command line."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"DATARUN_HOME={self.home}\0".encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
        return found

    def process_of(self, name: str) -> int:
        """The pid of one of its three processes: web, master or runner. Waits while the server starts it again."""
        assert self.process is not None
        server = self.process.pid

        def found() -> int:
            for pid in _children(server):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/comm").read_text() == f"datarun-{name}\n":
                        return pid
            return 0

        pid: int = until(found, 60, lambda: f"datarun-{name} runs: {self.evidence()}")
        return pid

    def evidence(self) -> str:
        """What a failed test shows of the server."""
        return "\n".join([self.log.read_text()[-3000:], *(f"{pid} {line}" for pid, line in self.children().items())])

    def family_of(self, name: str) -> list[int]:
        """The pids of one of the three and of its children."""
        first = self.process_of(name)
        return [first, *_children(first)]

    def manage(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments], cwd=APP, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"{self.url}/runapp/rawdata/", auth=self.login(), timeout=30).ok
        except (requests.ConnectionError, requests.Timeout):
            return False


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _own_queues() -> dict[str, str]:
    """Those of other tests of this process are for themselves, and its runner is to take nothing from them."""
    if not on_services():
        return {}
    vhost = RabbitMQ.second_vhost
    return {"RMQ_VHOST": vhost, "DATARUN_BROKER_URL": f"{os.environ['DATARUN_BROKER_URL'].rpartition('/')[0]}/{vhost}"}


class Organiser:
    """Sends data sets, submissions and folds with ids of its own, so that tests share a server."""

    next_id = 1

    def __init__(self, live: Live) -> None:
        self.live = live
        self.who = (live.url + "/", LOGIN, PASSWORD)

    @classmethod
    def new_id(cls) -> int:
        cls.next_id += 1
        return cls.next_id

    def data(self, data_file: Path, extra: list[Path] | None = None, target: str = "", elements: str = "own") -> int:
        name = f"data{self.new_id()}_{os.getpid()}"
        answer = post_api.post_data(
            *self.who, name, target, elements, str(data_file), [str(path) for path in extra] if extra else None
        )
        assert answer.status_code == 201, answer.text
        number: int = answer.json()["id"]
        return number

    def split(self, raw_data_id: int, custom: bool = False, ratio: float = 0.2, state: int = 42) -> str:
        answer = (
            post_api.custom_post_split(*self.who, raw_data_id)
            if custom
            else post_api.post_split(*self.who, ratio, raw_data_id, state)
        )
        assert answer.status_code == 200, answer.text
        task_id: str = answer.json()["task_id"]
        return task_id

    def submission(self, folder: Path, files: dict[str, str]) -> list[str]:
        """Write a submission's files; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        return [str(folder / name) for name in files]

    def fold(
        self,
        raw_data_id: int | None,
        files: Iterable[str | Path] | None,
        train_is: Any,
        priority: str = "L",
        submission_id: int | None = None,
        **more: Any,
    ) -> int:
        fold_id = more.pop("fold_id", None) or self.new_id()
        answer = post_api.post_submission_fold(
            *self.who,
            submission_id or self.new_id(),
            fold_id,
            np.asarray(train_is, dtype=np.int64),
            np.array([0], dtype=np.int64),
            priority,
            raw_data_id,
            [str(path) for path in files] if files else None,
            **more,
        )
        assert answer.status_code == 201, answer.text
        return int(fold_id)

    def folds(self, raw_data_id: int, *files: Iterable[str | Path], priorities: str = "") -> list[int]:
        """A fold of each submission, all sent at once; priorities: a letter each, else L."""
        bodies: list[dict[str, Any]] = [
            {
                "databoard_sf_id": self.new_id(),
                "databoard_s_id": self.new_id(),
                "raw_data": raw_data_id,
                "train_is": post_api.encode_indices(range(50)),
                "test_is": post_api.encode_indices([0]),
                "files": {Path(path).name: post_api.encode_bytes(Path(path).read_bytes()) for path in paths},
                "priority": priority,
            }
            for paths, priority in zip(files, priorities or "L" * len(files), strict=True)
        ]
        address = f"{self.live.url}/runapp/submissionfold/bulk/"
        answer = requests.post(address, json=bodies, auth=self.who[1:], timeout=60)
        assert answer.status_code == 201, answer.text
        return [body["databoard_sf_id"] for body in bodies]

    def look(self, fold_id: int) -> dict[str, Any]:
        answer = post_api.get_submission_fold_detail(*self.who, fold_id)
        assert answer.status_code == 200, answer.text
        record: dict[str, Any] = answer.json()
        return record

    def wait(self, *fold_ids: int, seconds: float = FOLD_SECONDS) -> None:
        """Return when the folds have their verdicts."""
        wanted = {*fold_ids}

        def all_ended() -> bool:
            light = post_api.get_submission_fold_light(*self.who).json()
            states = {fold["databoard_sf_id"]: fold["state"] for fold in light}
            return all(states[fold_id] in ("TESTED", "ERROR") for fold_id in wanted)

        until(all_ended, seconds, lambda: f"folds {wanted} have ended: {self.live.evidence()}")

    def ended(self, *fold_ids: int, seconds: float = FOLD_SECONDS) -> list[dict[str, Any]]:
        """The folds' records, once they have their verdicts."""
        self.wait(*fold_ids, seconds=seconds)
        return [self.look(fold_id) for fold_id in fold_ids]

    def tested(self, fold_id: int, seconds: float = FOLD_SECONDS) -> dict[str, Any]:
        [record] = self.ended(fold_id, seconds=seconds)
        assert record["state"] == "TESTED", record["log_messages"]
        return record
