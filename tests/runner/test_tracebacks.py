"""What the author of a submission reads of an error: their own frames, under names they know."""

import importlib.util
import itertools
import time

import pytest

from runner import tracebacks

_numbers = itertools.count()


@pytest.fixture
def run(tmp_path):
    """run(code) -> the traceback text of what the code's function f raises, the code being a file of a submission."""

    def run(code, name="classifier.py"):
        folder = tmp_path / "own"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        spec = importlib.util.spec_from_file_location(f"traceback_{next(_numbers)}", path)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
            module.f()
        except BaseException as error:
            text = tracebacks.own_frames(error, folder)
        else:
            raise AssertionError("the code was to raise")
        assert str(tmp_path) not in text
        assert __file__ not in text
        assert "importlib" not in text
        assert text == text.rstrip()
        return text

    return run


def test_only_own_frames_with_relative_names_and_source_lines(run):
    text = run("import json\n\ndef g():\n    json.loads('{')  # not JSON\n\ndef f():\n    g()\n")
    lines = text.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert [line for line in lines if line.startswith("  File")] == [
        '  File "classifier.py", line 7, in f',
        '  File "classifier.py", line 4, in g',
    ]
    assert "    json.loads('{')  # not JSON" in lines
    assert lines[-1].startswith("json.decoder.JSONDecodeError: Expecting property name")


def test_own_frames_between_those_of_a_library(run):
    text = run(
        "def key(x):\n    raise KeyError(x)\n\ndef f():\n    import heapq; heapq.nsmallest(2, [1, 2], key=key)\n"
    )
    assert "heapq.nsmallest" in text
    assert "in key" in text
    assert "heapq.py" not in text


def test_a_file_in_a_subfolder_keeps_it(run):
    assert 'File "deep/er/helper.py", line 2, in f' in run("def f():\n    raise ValueError", "deep/er/helper.py")


def test_a_folder_whose_name_only_starts_alike_is_not_own(tmp_path):
    try:
        exec(compile("raise ValueError('x')", str(tmp_path / "own_not" / "a.py"), "exec"))
    except ValueError as error:
        assert tracebacks.own_frames(error, tmp_path / "own") == "ValueError: x"


def test_several_folders_are_own(tmp_path):
    code = compile("raise ValueError('x')", str(tmp_path / "b" / "specific.py"), "exec")
    try:
        exec(code)
    except ValueError as error:
        assert 'File "specific.py", line 1' in tracebacks.own_frames(error, tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    "code", ["def f(:\n    pass", "def f():\nreturn 1", "x = '", "def f():\n\treturn 1\n        return 2"]
)
def test_a_syntax_error_names_its_file_and_line(code, run):
    text = run(code)
    assert '  File "classifier.py", line ' in text
    assert text.splitlines()[-1].split(":")[0] in ("SyntaxError", "IndentationError", "TabError")
    assert "Traceback" not in text


def test_a_syntax_error_of_other_code_keeps_its_name(run):
    text = run("def f():\n    exec('x = (')")
    assert 'File "<string>", line 1' in text
    assert 'File "classifier.py", line 2, in f' in text


def test_chained_exceptions_are_all_shown(run):
    text = run(
        """
def f():
    try:
        try:
            import json; json.loads("{")
        except ValueError as error:
            raise KeyError("second") from error
    except KeyError:
        raise RuntimeError("third")
"""
    )
    assert "JSONDecodeError" in text
    assert "The above exception was the direct cause of the following exception:" in text
    assert "KeyError: 'second'" in text
    assert "During handling of the above exception, another exception occurred:" in text
    assert text.endswith("RuntimeError: third")
    assert text.count('File "classifier.py"') == 3


def test_a_suppressed_context_stays_away(run):
    text = run(
        "def f():\n    try:\n        1 / 0\n    except ZeroDivisionError:\n        raise KeyError('k') from None\n"
    )
    assert "ZeroDivisionError" not in text


def test_exceptions_of_a_group_are_shown_with_their_own_frames(run):
    text = run(
        """
def g():
    import json; json.loads("{")

def f():
    errors = []
    try:
        g()
    except ValueError as error:
        errors.append(error)
    raise ExceptionGroup("both", errors)
"""
    )
    assert "ExceptionGroup: both (1 sub-exception)" in text
    assert "JSONDecodeError" in text
    assert text.count('File "classifier.py"') == 3


def test_notes_are_shown(run):
    text = run("def f():\n    error = ValueError('x')\n    error.add_note('look at row 7')\n    raise error")
    assert text.endswith("ValueError: x\nlook at row 7")


def test_without_own_frames_the_error_stands_alone(tmp_path):
    try:
        int("x")
    except ValueError as error:
        assert tracebacks.own_frames(error, tmp_path) == "ValueError: invalid literal for int() with base 10: 'x'"


def test_an_error_that_was_never_raised_stands_alone(tmp_path):
    assert tracebacks.own_frames(KeyError("k"), tmp_path) == "KeyError: 'k'"


@pytest.mark.parametrize("exit_with", ["SystemExit(3)", "KeyboardInterrupt", "GeneratorExit"])
def test_what_is_no_exception_is_shown_as_one(exit_with, run):
    assert 'File "classifier.py", line 2, in f' in run(f"def f():\n    raise {exit_with}")


def test_a_recursion_is_folded(run):
    text = run("def f():\n    f()")
    assert "RecursionError: maximum recursion depth exceeded" in text
    assert "Previous line repeated" in text
    assert len(text) < 1000


HOSTILE = {
    "str raises": "def __str__(self): raise ValueError('no')",
    "str exits": "def __str__(self): raise SystemExit",
    "str is no text": "def __str__(self): return 5",
    "repr raises": "def __repr__(self): raise ValueError\n    __str__ = __repr__",
    "attributes raise": "def __getattribute__(self, name): raise RuntimeError(name)",
    "notes are no list": "__notes__ = 5",
    "the cause is itself": "def __init__(self): self.__cause__ = self.__context__ = self",
    "hash raises": "def __hash__(self): raise ValueError\n    def __eq__(self, other): raise ValueError",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_exception_is_shown_all_the_same(body, run):
    assert "Bad" in run(f"class Bad(Exception):\n    {body}\n\ndef f():\n    raise Bad()")


@pytest.mark.parametrize(
    "arguments",
    ["'x', (5, 'line', object(), None)", "'x', ('a', 10**30, -5, 'text')", "'x', (None, None, None, 7)", "object()"],
)
def test_a_made_up_syntax_error_is_shown_all_the_same(arguments, run):
    assert "SyntaxError" in run(f"def f():\n    raise SyntaxError({arguments})")


def test_a_very_long_chain_is_shown(run):
    """Code that tries again and again inside `except` makes one; it is longer than Python's stack."""
    text = run(
        """
def f():
    last = None
    for number in range(5000):
        error = ValueError(number)
        error.__context__ = last
        last = error
    raise last
"""
    )
    assert text.startswith("ValueError: 0\n")
    assert text.endswith("ValueError: 4999")
    assert len(text) < 2 * tracebacks.MAX_CHARACTERS


def test_a_huge_message_loses_its_middle(run):
    started = time.perf_counter()
    text = run("def f():\n    raise ValueError('a' * 50_000_000 + 'the end')")
    assert time.perf_counter() - started < 30
    assert len(text) < tracebacks.MAX_CHARACTERS + 100
    assert text.startswith("Traceback")
    assert "characters left out" in text
    assert text.endswith("the end")


def test_a_source_file_that_is_gone_is_no_harm(tmp_path):
    try:
        exec(compile("def f():\n    raise ValueError('x')\nf()", str(tmp_path / "gone.py"), "exec"))
    except ValueError as error:
        text = tracebacks.own_frames(error, tmp_path)
    assert 'File "gone.py", line 2, in f' in text
