"""Starts `bench` commands as forks of a process that has imported everything; see `runs.Forks`.

One JSON object a line. `{"argv": […], "output": PATH}` starts a command and answers its process id; with
`environment` it gets those variables, too; with `file_limit` it may write no file beyond that many bytes; with `scored`
it notes there, one line a pack, which samples it puts into the journal, before it does; with `dies_after` the system
ends it, as unasked as SIGKILL would, so many seconds after its second note; with `broken_rank` that rank fails after
some packs. `{"wait": PID}` answers a command's exit code. Where a command starts processes, they are forks, too.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai  # noqa: F401 # half a second of a command that asks an API

import bench.cli
import bench.launch
import bench.report.progress
import bench.report.tables
import bench.runner  # imports torch and transformers
import bench.team
from bench.engine.scorer import Scorer
from bench.records import Score
from bench.runs.folder import RunShare


def run(request: dict[str, Any]) -> int:
    fd = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.environ.pop("COLUMNS", None)  # the terminal says how wide it is
    os.environ.update(request.get("environment", {}))
    if "file_limit" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"],) * 2)
    if "scored" in request:
        note_scored(Path(request["scored"]), request.get("dies_after"))
    if "broken_rank" in request:
        break_rank(request["broken_rank"])
    bench.launch.START_METHOD = "fork"
    bench.team._PATIENCE_S = 1.0
    code = bench.cli.main(request["argv"])
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def note_scored(path: Path, dies_after: float | None) -> None:
    append = RunShare.append
    num_noted = 0

    def noting(self: RunShare, scores: Sequence[Score]) -> None:
        nonlocal num_noted
        if scores:
            with path.open("a") as file:
                file.write(json.dumps([score.id for score in scores]) + "\n")
            num_noted += 1
            if num_noted == 2 and dies_after is not None:
                signal.setitimer(signal.ITIMER_REAL, dies_after)  # nobody handles SIGALRM: it ends the process
            time.sleep(0.005)  # so that a run lasts until it is killed, however fast the machine
        append(self, scores)

    RunShare.append = noting  # type: ignore[method-assign]


def break_rank(rank: int) -> None:
    start = Scorer._start
    num_packs = 0

    def failing(self: Scorer, *args: Any) -> Any:
        nonlocal num_packs
        num_packs += 1
        if os.environ["RANK"] == str(rank) and num_packs == 12:  # the self-check's are fewer
            raise RuntimeError("the device is lost")
        return start(self, *args)

    Scorer._start = failing  # type: ignore[method-assign]


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            status = os.waitpid(request["wait"], 0)[1]
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                code = run(request)
            finally:
                os._exit(code)
        print(pid, flush=True)
    os._exit(0)  # taking down all that was imported takes seconds on a busy machine


if __name__ == "__main__":
    main()
