"""How one fold could tell another what it knows. The files of the host are the same inodes in all folds."""

import json
import os
from pathlib import Path

import pytest

from tests.sandbox.conftest import Bench

pytestmark = pytest.mark.usefixtures("clean")

BEGIN = """
import array, ctypes, errno, fcntl, json, mmap, os, struct, termios
libc = ctypes.CDLL(None, use_errno=True)
shared, own = os.open(os.__file__, os.O_RDONLY), os.open("/tmp/own", os.O_CREAT | os.O_RDWR)
def checked(result):
    if result < 0: raise OSError(ctypes.get_errno(), "")
page = ctypes.create_string_buffer(8)
place = mmap.mmap(shared, 4096, prot=mmap.PROT_READ)
"""
LOCK = "struct.pack('hhqqi', fcntl.F_RDLCK, 0, 0, 1, 0)"
STATES = {
    "a lock of the whole file": "fcntl.flock(FD, fcntl.LOCK_SH)",
    "a lock of bytes": "fcntl.lockf(FD, fcntl.LOCK_SH, 1)",
    "a lock that is waited for": f"fcntl.fcntl(FD, fcntl.F_SETLKW, {LOCK})",
    "who has a lock": f"fcntl.fcntl(FD, fcntl.F_GETLK, {LOCK})",
    "a lock of an open file": f"fcntl.fcntl(FD, 37, {LOCK})",
    "a lock of an open file that is waited for": f"fcntl.fcntl(FD, 38, {LOCK})",
    "whether an open file is locked": f"fcntl.fcntl(FD, 36, {LOCK})",
    "a command with other bits set": f"checked(libc.fcntl(FD, ctypes.c_long(37 | 1 << 40), {LOCK}))",
    "a lease": "fcntl.fcntl(FD, fcntl.F_SETLEASE, fcntl.F_RDLCK)",
    "who has a lease": "fcntl.fcntl(FD, fcntl.F_GETLEASE)",
    "a hint for writes": "fcntl.fcntl(FD, 1036, struct.pack('Q', 2))",
    "the hint for writes": "fcntl.fcntl(FD, 1035, bytes(8))",
    "a size of a pipe": "fcntl.fcntl(os.pipe()[0], fcntl.F_SETPIPE_SZ, 8192)",
    "a seal": "fcntl.fcntl(FD, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)",
    "flags of the file": "fcntl.ioctl(FD, 0x40086602, struct.pack('q', 0))",
    "signals of a file": "fcntl.fcntl(FD, fcntl.F_SETOWN, os.getpid())",
    "a notification of a folder": "fcntl.fcntl(os.open('/tmp', os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_ACCESS)",
    "inotify": "checked(libc.inotify_init1(0))",
    "fanotify": "checked(libc.fanotify_init(0, 0))",
    "which pages are in memory": "checked(libc.mincore(ctypes.c_void_p(0), 0, page))",
    "a read of what is in memory": "os.preadv(FD, [bytearray(1)], 0, os.RWF_NOWAIT)",
    "that a page is to leave memory": "place.madvise(21)",
    "that pages are to be merged": "place.madvise(mmap.MADV_MERGEABLE)",
    "the times of a device": "os.utime('/dev/null')",
    "the times of an open device": "os.utime(os.open('/dev/null', os.O_RDWR))",
    "the rights of a device": "os.chmod('/dev/null', 0o600)",
    "the times of a file": "os.utime(os.__file__)",
    "entropy": "fcntl.ioctl(os.open('/dev/random', os.O_RDONLY), 0x80045200, bytes(4))",
    "a key": "checked(libc.syscall({'x86_64': 248, 'aarch64': 217}[os.uname().machine], b'user', b'a', b'b', 1, -2))",
    "a message queue": "checked(ctypes.CDLL('librt.so.1', use_errno=True).mq_open(b'/a', os.O_CREAT, 0o600, None))",
    "a semaphore of System V": "checked(libc.semget(0, 1, 0o1600))",
    "core scheduling": "checked(libc.prctl(62, 1, 0, 0, 0))",
}


def test_no_state_can_be_given_to_what_all_folds_share(bench: Bench) -> None:
    calls = [(name, body.replace("FD", fd)) for name, body in STATES.items() for fd in ("shared", "own")]
    body = BEGIN + f"passed = []\nfor name, call in {calls!r}:\n"
    body += "    try: exec(call); passed.append(name)\n    except OSError: pass\nprint(json.dumps(passed))"
    # Its own file can be given times and the like: what matters is that the very calls were made.
    assert json.loads(bench.fit(body).output) == []


def test_it_takes_no_pages_out_of_memory(bench: Bench) -> None:
    path = Path(os.__file__).with_name("turtle.py")  # that nobody else reads
    with path.open("rb", 0) as file:
        file.read()
        body = (
            f"import os\nfd = os.open({str(path)!r}, os.O_RDONLY)\nos.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)"
        )
        assert bench.fit(body).failure is None
        try:
            assert os.preadv(file.fileno(), [bytearray(4096)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            pytest.fail("it is no longer in memory")
        except OSError as error:
            pytest.skip(f"that can't be told here: {error}")


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        ("import sqlite3\nsqlite3.connect('/tmp/x.db').execute('create table a (b)')", "?nolock=1"),
        ("import fcntl\nfcntl.lockf(open('/tmp/x', 'w'), fcntl.LOCK_EX)", "files can't be locked"),
        ("import mailbox\nmailbox.mbox('/tmp/x').lock()", "files can't be locked"),
    ],
)
def test_it_says_that_files_can_not_be_locked(bench: Bench, call: str, hint: str) -> None:
    message = bench.fit(call).failure.message
    assert "Hint: " in message and hint in message


def test_what_needs_no_locks_works(bench: Bench) -> None:
    body = """
import asyncio, dbm.dumb, joblib, os, selectors, shelve, socket, sqlite3, subprocess, tempfile
base = sqlite3.connect("file:/tmp/x.db?nolock=1", uri=True)
base.execute("create table a (b)"); base.execute("insert into a values (1)"); base.commit()
print(base.execute("select b from a").fetchall(), sqlite3.connect(":memory:").execute("select 2").fetchall())
print(joblib.Memory("/tmp/cache", verbose=0).cache(len)("abc"))
with tempfile.TemporaryFile() as file, tempfile.TemporaryDirectory(): print(file.write(b"four"))
with shelve.Shelf(dbm.dumb.open("/tmp/shelf", "c")) as shelf: shelf["a"] = 5; print(shelf["a"])
async def run():
    process = await asyncio.create_subprocess_exec("echo", "6", stdout=subprocess.PIPE)
    return (await process.communicate())[0].decode().strip()
print(asyncio.run(run()))
print(subprocess.run("echo 7 | tee /tmp/t", shell=True, capture_output=True, start_new_session=True).stdout)
ours, theirs = socket.socketpair()
watched = selectors.DefaultSelector(); watched.register(ours, selectors.EVENT_READ); theirs.send(b"8")
print(len(watched.select()), os.isatty(0), open("/dev/zero", "rb").read(2))
os.sched_setaffinity(0, os.sched_getaffinity(0))
print("nowhere", file=open("/dev/null", "w"))
"""
    outcome = bench.fit(body)
    assert outcome.failure is None, outcome.failure
    said = ["[(1,)] [(2,)]", "3", "4", "5", "6", "b'7\\n'", "1 False b'\\x00\\x00'"]
    assert outcome.output.splitlines() == said
