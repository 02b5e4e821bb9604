"""`python -m test_files`: start a server of its own in a temporary folder and run the demo against it."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from test_files import demo

APP = Path(__file__).resolve().parents[1]
START_SECONDS = 60.0


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="datarun-demo-") as home:
        port, password = _free_port(), secrets.token_urlsafe(9)
        # Nothing of the caller's environment may lead the demo to a real cluster.
        ours = ("DR_", "DATARUN_", "DIR_", "RMQ_", "CELERY_")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(ours) or k == "DATARUN_SANDBOX"}
        environment = inherited | {
            "DATARUN_HOME": home,
            "PORT": str(port),
            "USER_LOGIN": "demo",
            "USER_PSWD": password,
        }
        with open(os.path.join(home, "server.log"), "w+") as log:
            server = subprocess.Popen(
                [sys.executable, "manage.py", "serve"], cwd=APP, env=environment, stdout=log, stderr=log
            )
            try:
                _wait(server, port)
                code = demo.run(f"http://127.0.0.1:{port}", "demo", password)
            except KeyboardInterrupt:
                code = 130
            except RuntimeError as error:
                print(error, file=sys.stderr)
                code = 1
            finally:
                server.terminate()
                server.wait()
            if code not in (0, 130):
                log.seek(0)
                print("the server's log:", log.read(), sep="\n", file=sys.stderr)
    return code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(server: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not start")


if __name__ == "__main__":
    sys.exit(main())
