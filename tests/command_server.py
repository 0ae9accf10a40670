"""A process that has loaded what commands load, and does each command in a child that it forks.

A test sees a separate process (arguments, folder, environment, output, exit code) without the seconds that torch and
Hydra take to load. One request a line on standard input, as JSON; the answer is its exit code, CPU seconds and largest
memory in kilobytes. What depends on loading itself (`lab --help` at once, threads of BLAS, signals) is tested with
`lab_command`, in a new interpreter.
"""

import atexit
import gc
import importlib
import json
import os
import resource
import sys
import traceback

from lab.cli.main import found_experiments, main

_MOST_BYTES = 16 * 10**9

LIBRARIES = ("hydra", "matplotlib.pyplot", "numpy", "pyarrow.parquet", "scipy.linalg", "torch")


def become(arguments: list[str], cwd: str, env: dict[str, str], out: str, err: str, seconds: int | None = None) -> None:
    """Be the command in this process, up to what an interpreter prints and answers at its end.

    With `seconds`, the process is ended after that much CPU time, and what it allocates is limited.
    """
    if seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
        os.dup2(os.open(path, flags | os.O_CREAT), number)
    sys.argv = ["lab", *arguments]
    code: object = 0
    try:
        main()
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    # a second without it: everything that is loaded would be taken apart
    os._exit(code if isinstance(code, int) else code is not None)


def serve() -> None:
    """Answer requests until there are no more."""
    jobs = [experiment.job.partition(":")[0] for experiment in found_experiments()]
    for name in (*LIBRARIES, *jobs):
        importlib.import_module(name)
    gc.freeze()
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            become(**json.loads(line))
        _, status, usage = os.wait4(child, 0)
        print(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss, flush=True)


if __name__ == "__main__":
    serve()
