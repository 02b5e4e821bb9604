"""The embedded default's broker: what a worker held that was killed."""

from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from runner import filebroker


@pytest.fixture
def connect(tmp_path: Path):
    """connect(): a channel of another process, as far as files go; with the queues `kept` and `other`."""
    (tmp_path / "control").mkdir()
    options = {
        "data_folder_in": str(tmp_path), "data_folder_out": str(tmp_path), "control_folder": str(tmp_path / "control"),
        "kept_queue": "kept",
    }  # fmt: skip

    channels: list[Any] = []

    def channel() -> Any:
        connection = Connection(f"{filebroker.NAME}://localhost", transport_options=options)
        channels.append(connection.default_channel)
        return channels[-1]

    yield channel
    for each in channels:
        each.do_restore = False  # else at the end of this process


def send(channel: Any, queue: str, body: str = "a result") -> None:
    channel.queue_declare(queue)
    channel.basic_publish(channel.prepare_message(body), exchange="", routing_key=queue)


def test_what_a_killed_worker_held_is_given_back(connect, tmp_path):
    send(connect(), "kept")
    assert connect().basic_get("kept").body  # and no more is heard of that worker
    other = connect()
    assert other.basic_get("kept") is None
    filebroker.give_back(tmp_path / "kept")
    assert other.basic_get("kept").body


@pytest.mark.parametrize("end", ["acknowledged", "rejected", "given up", "closed"])
def test_what_was_done_with_is_not_given_back(end, connect, tmp_path):
    channel = connect()
    send(channel, "kept")
    tag = channel.basic_get("kept").delivery_tag
    match end:
        case "acknowledged":
            channel.basic_ack(tag)
        case "rejected":
            channel.basic_reject(tag)
        case "given up":
            channel.basic_reject(tag, requeue=True)
        case "closed":
            channel.close()
    filebroker.give_back(tmp_path / "kept")
    other = connect()
    found = [*iter(lambda: other.basic_get("kept"), None)]
    assert len(found) == (1 if end in ("given up", "closed") else 0)


def test_another_queue_keeps_nothing(connect, tmp_path):
    send(connect(), "other")
    assert connect().basic_get("other").body
    assert [*(tmp_path / "other").iterdir()] == []
