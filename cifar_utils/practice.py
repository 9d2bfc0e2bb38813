"""What judges a reader's work: exercises, where they stand, and a chapter's headline result."""

import dis
import json
import statistics
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import CodeType, FunctionType
from typing import Any

from cifar_utils import proofs, runs

FIRST_LOOKS = """Look at these three first: a batch as the network sees it; the first loss, which
should be near ln C for C classes; whether the network can learn one batch by heart.
book/troubleshooting.md begins with them."""


def check(judge: Callable[[], object]) -> bool:
    """Decorator: run `judge` at once, say how the exercise stands, and bind its name to the answer.

    judge: a function `exercise_3` without parameters that asserts what must hold of the names the
    reader was asked to bind, each time with a hint. Returns True if nothing failed, else False.
    Prints "Exercise 3: right." or "Exercise 3: not yet." with the hint, with the exception that
    the answer caused, or with the names that still hold their dots. Raises nothing.
    """
    title = "Exercise " + judge.__name__.rpartition("_")[2]
    names = {n: judge.__globals__.get(n) for n in sorted(set(_names(judge.__code__)))}
    blank = [f"`{n}`" for n, value in names.items() if _unfinished(value, judge.__module__)]
    said = f"The cell above still holds its dots ({', '.join(blank)})." if blank else ""
    try:
        if not said:
            judge()
            print(f"{title}: right.")
            return True
    except Exception as error:  # whatever a reader's code may do
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        said = kind + str(error).strip().partition("\n")[0]
    print(f"{title}: not yet. {said}".rstrip())
    return False


def _names(code: CodeType) -> Iterator[str]:
    """The global names that a function uses, its lambdas and comprehensions included."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _unfinished(value: Any, module: str) -> bool:
    """Whether something is `...` or holds one, or is a function or class of `module` left blank."""
    if isinstance(value, dict):
        return any(item is ... for item in value.values())
    if isinstance(value, list | tuple):
        return any(item is ... for item in value)
    if getattr(value, "__module__", None) != module:
        return value is ...
    parts = vars(value).values() if isinstance(value, type) else [value]
    return any(_dotted(part.__code__) for part in parts if isinstance(part, FunctionType))


def _dotted(code: CodeType) -> bool:
    """Whether a function returns or assigns a bare `...`, or does nothing at all.

    Python leaves a body of dots out of the code, so that such a function only returns None.
    """
    quiet = ("RESUME", "NOP", "COPY_FREE_VARS")
    steps = [(i.opname, i.argval) for i in dis.get_instructions(code) if i.opname not in quiet]
    if len(steps) <= 2 and all(value is None for _, value in steps):
        return True
    # `x[...] = 0` stores, too, but there the dots are the place: STORE_SUBSCR comes right after.
    ends = ("STORE_FAST", "STORE_NAME", "STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR", "RETURN_")
    return ("RETURN_CONST", ...) in steps or any(
        one == ("LOAD_CONST", ...) and two[0].startswith(ends) for one, two in pairwise(steps)
    )


def recorded(chapter: str, budget: str) -> list[float]:
    """Test accuracies of a chapter on record: its own run first, then those with other seeds."""
    file = runs.ROOT / "results" / f"{chapter}.{budget}.json"
    if not file.exists():
        return []
    with proofs.record(file):
        found = [json.loads(file.read_bytes())["metrics"]["test_accuracy"]]
        if budget == "laptop":
            again = (row for row in runs.study("headlines") if row["chapter"] == chapter)
            found += [row["test_accuracy"] for row in again]
        if not all(0 <= accuracy <= 1 for accuracy in found):
            raise ValueError(f"an accuracy is a fraction, not {found}")
    return found


def expected_range(accuracies: list[float]) -> tuple[float, float]:
    """Where another run should end: the mean ± three standard deviations over seeds.

    At least ± half a point: few seeds understate it, and another machine adds in another order.
    """
    mean = statistics.mean(accuracies)
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    away = max(3 * spread, 0.005)
    return mean - away, mean + away


def check_result(run: runs.Run) -> bool | None:
    """Say whether the test accuracy that `run` recorded lies where the runs on record say.

    Returns True inside the range, False outside, None where there is nothing to judge: drawn
    pictures, or no record at this budget. Raises ValueError if `run` has no test accuracy yet.
    """
    accuracy = run.stamp["metrics"].get("test_accuracy")
    if accuracy is None:
        raise ValueError("no test accuracy to check yet: run the cell with run.record first")
    on_record = recorded(run.chapter, run.budget)
    if run.stamp["dataset"]["stand_in"] or not on_record:
        print(
            f"{accuracy:.1%}: not judged, for these pictures and this budget nothing is on record"
        )
        return None
    low, high = expected_range(on_record)
    count = f"{len(on_record)} run{'s' * (len(on_record) > 1)} on record"
    said = f"{accuracy:.1%}: {{}} the range of {low:.1%} to {high:.1%} ({count})."
    if low <= accuracy <= high:
        print(said.format("inside"))
    elif accuracy < low:
        print(said.format("below"), FIRST_LOOKS, sep="\n")
    else:
        print(said.format("above"), "Good news, or a leak: did it train on test pictures?")
    return low <= accuracy <= high
