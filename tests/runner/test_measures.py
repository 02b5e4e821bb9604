"""Times and memory of a fold: its own, and each stage for itself."""

import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np

BURN = """
print(time.process_time())
end = time.process_time() + 0.3
while time.process_time() < end:
    pass
print(time.process_time())
"""


def burnt(outcome):
    """Seconds that it has burnt by its own clock: more than it wanted where the machine does not get what it counts."""
    first, last = map(float, outcome.output.split())
    return last - first


def test_cpu_time_is_that_of_the_stage(run):
    outcome = run(fit=BURN)
    measures = outcome.measures
    assert 0.3 <= measures["train_cpu_time"] < burnt(outcome) + 0.2
    assert measures["train_time"] >= 0.3
    assert measures["test_cpu_time"] < 0.2
    outcome = run(predict=f"if TEST:\n{textwrap.indent(BURN, '    ')}")
    measures = outcome.measures
    assert measures["train_cpu_time"] < 0.2
    assert 0.3 <= measures["test_cpu_time"] < burnt(outcome) + 0.2
    assert measures["test_time"] >= 0.3


def test_sleep_is_time_but_no_cpu_time(run):
    measures = run(fit="time.sleep(0.4)", predict="time.sleep(0.3)").measures
    assert measures["train_time"] >= 0.4
    assert measures["validation_time"] >= 0.3
    assert measures["test_time"] >= 0.3
    assert measures["train_cpu_time"] < 0.2
    assert measures["test_cpu_time"] < 0.2


def test_cpu_time_of_a_submissions_own_processes_counts(run):
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(time.process_time())"
    outcome = run(fit=f"subprocess.run([sys.executable, '-S', '-c', {burn!r}], check=True)")
    assert 0.3 <= outcome.measures["train_cpu_time"] < float(outcome.output) + 0.5


def test_cpu_time_of_a_fold_is_its_own(run):
    """Another one that burns at the same time does not count."""
    with ThreadPoolExecutor(2) as pool:
        burning = pool.submit(run, fit=BURN, predict=BURN)
        sleeping = pool.submit(run, fit="time.sleep(0.5)", predict="time.sleep(0.2)")
    assert sleeping.result().measures["train_cpu_time"] < 0.2
    assert sleeping.result().measures["test_cpu_time"] < 0.2
    assert burning.result().measures["train_cpu_time"] >= 0.3


MEGABYTES = 1024  # in kB

ALLOCATE = "held = np.ones(200 << 17)"  # 200 MB


def test_memory_is_the_peak_of_the_fold(run):
    measures = run(fit=ALLOCATE).measures
    assert 200 * MEGABYTES <= measures["train_memory"] < 250 * MEGABYTES
    assert measures["test_memory"] < 50 * MEGABYTES, "what training has given back"

    measures = run(predict=f"if TEST: {ALLOCATE}").measures
    assert measures["train_memory"] < 50 * MEGABYTES
    assert 200 * MEGABYTES <= measures["test_memory"] < 250 * MEGABYTES

    measures = run(predict=f"if not TEST: {ALLOCATE}").measures
    assert 200 * MEGABYTES <= measures["test_memory"] < 250 * MEGABYTES, "the peak of both predictions"


def test_memory_of_a_fold_is_its_own(run):
    run(fit=ALLOCATE)
    assert run().measures["train_memory"] < 50 * MEGABYTES


def test_each_fold_draws_its_own_random_numbers(run):
    draw = "np.resize([np.random.random(), random.random(), np.random.default_rng().random()], (len(X), 3))"
    drawn = np.array([run(top="import random", result=draw).test_predictions[0] for _ in range(3)])
    for column in drawn.T:
        assert len(set(column)) == 3
