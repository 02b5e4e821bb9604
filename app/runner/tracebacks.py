"""Tracebacks for the author of a submission: their own frames, without the runner's and the libraries'."""

import traceback
from pathlib import Path

MAX_CHARACTERS = 20_000
"""Longer tracebacks lose their middle: an exception's text may hold a whole data set."""


def own_frames(error: BaseException, *folders: Path) -> str:
    """The traceback of error with only the frames of files below `folders`, named relative to them.

    The error is the submission's own object and may be hostile: there is always a text, of at most
    about MAX_CHARACTERS.
    """
    try:
        report = traceback.TracebackException.from_exception(error)
        _keep_own(report, folders)
        text = "".join(report.format()).rstrip()
    except Exception:
        text = f"{type(error).__name__}: this exception can't be shown"
    if (cut := len(text) - MAX_CHARACTERS) > 0:
        half = MAX_CHARACTERS // 2
        text = f"{text[:half]}\n[... {cut} characters left out ...]\n{text[-half:]}"
    return text


def _keep_own(report: traceback.TracebackException, folders: tuple[Path, ...]) -> None:
    todo = [report]  # not a recursion: a chain of exceptions may be longer than Python's stack
    while todo:
        part = todo.pop()
        own = []
        for frame in part.stack:
            if name := _relative(frame.filename, folders):
                _ = frame.line  # read the source line under the real name, before the name changes
                frame.filename = name
                own.append(frame)
        # An empty stack is printed as a heading without frames: no stack at all prints the error alone.
        part.stack = traceback.StackSummary.from_list(own) if own else None  # type: ignore[assignment]
        if getattr(part, "filename", None):  # a SyntaxError names its file
            part.filename = _relative(part.filename, folders) or part.filename
        linked = (part.__cause__, part.__context__, *(part.exceptions or ()))
        todo += [other for other in linked if other is not None]


def _relative(filename: str, folders: tuple[Path, ...]) -> str | None:
    for folder in folders:
        if Path(filename).is_relative_to(folder):
            return str(Path(filename).relative_to(folder))
    return None
