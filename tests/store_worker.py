"""A runner in small for tests/test_store.py; as a script, one that is killed, or that the disk refuses.

python store_worker.py ROOT kill STEP     dies by SIGKILL in the STEP-th system call that changes the disk
python store_worker.py ROOT limit BYTES   may write no file beyond BYTES
python store_worker.py ROOT open          opens the folder and says what comes of it
"""

import os
import random
import resource
import signal
import sys
from pathlib import Path

from bench.errors import SteelyardError
from bench.records import Score
from bench.runs.folder import RunFolder

ORDER = [f"law/{i}" for i in range(60)]


def score(number, gold=1, **fields):
    values = (-0.1 - number / 3, -1e-7 * number, -12.5)
    known = {"loglikelihoods": values, "is_greedy": (True, False, False), "num_choice_chars": (1, 2, 3)}
    return Score(f"law/{number}", "law", gold, "f" * 64, 1, 0, True, False, **{**known, **fields})


def open_folder(root, name="run", run_identity="id", header=None):
    return RunFolder.open(root, name, run_identity, header or {"model": {"name": "tiny"}})


def score_all(root, batch=4, note=lambda _: None):
    """What a runner does: score what is not done, in batches, then finish."""
    with open_folder(root) as folder:
        todo = [number for number, key in enumerate(ORDER) if key not in folder.done]
        for start in range(0, len(todo), batch):
            scores = [score(number) for number in reversed(todo[start : start + batch])]
            note(scores)
            folder.append(scores)
        folder.finish(ORDER, {"metrics": {"acc": {"value": 1.0}}})


def kill_at(step):
    """Replace the system calls that change the disk by ones the `step`-th of which kills this process."""
    left = step

    def deadly(call, name):
        def wrapper(*args):
            nonlocal left
            left -= 1
            if left == 0:
                if name == "write":
                    call(args[0], args[1][: random.randrange(len(args[1]))])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args)

        return wrapper

    for name in ("write", "fsync", "replace"):
        setattr(os, name, deadly(getattr(os, name), name))


def main(root, action, number="0"):
    def note(scores):
        with (root / "scored").open("a") as file:
            file.write("".join(f"{one.id}\n" for one in scores))

    if action == "open":
        open_folder(root).close()
        return
    if action == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(number), int(number)))
    if action == "kill":
        kill_at(int(number))
    score_all(root, note=note)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), *sys.argv[2:])
    except SteelyardError as error:
        sys.exit(str(error))
