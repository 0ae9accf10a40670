"""A process that has loaded what commands load, and does each command in a child that it forks.

A test sees a separate process (arguments, folder, environment, output, exit code) without the seconds that torch and
Hydra take to load. One request a line on standard input, as JSON; the answer is its exit code, CPU seconds and largest
memory in kilobytes. With `ranks`, the variables of each of several processes, that many run the command at once; the
answer has the first exit code that is not 0, their CPU seconds together and the largest memory of one. What depends on
loading itself (`lab --help` at once, threads of BLAS, signals) is tested with `lab_command`, in a new interpreter.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import resource
import sys
import traceback

import hydra_once
from lab.cli.main import found_experiments, main
from lab.experiments.spec import function_of

_MOST_BYTES = 16 * 10**9

LIBRARIES = (
    "hydra",
    "hydra._internal.core_plugins.bash_completion",
    "hydra._internal.core_plugins.basic_launcher",
    "hydra._internal.core_plugins.basic_sweeper",
    "matplotlib.backends.backend_agg",
    "matplotlib.pyplot",
    "numpy",
    "pyarrow.parquet",
    "scipy.linalg",
    "torch",
)
# Typer's, where it is installed
OPTIONAL = "pydantic.type_adapter"


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
    # several processes write to one file
    to_end = os.O_WRONLY | os.O_APPEND
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, out, to_end), (2, err, to_end)):
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


def _compose() -> None:
    """Compose what each experiment begins with: commands find Hydra's plugins and packaged files read."""
    from hydra import compose, initialize_config_module  # noqa: PLC0415

    hydra_once.install()
    with initialize_config_module("lab.conf", version_base="1.3"):
        for experiment in found_experiments():
            function_of(experiment.register)()
            compose(experiment.config)


def serve(more: list[str]) -> None:
    """Answer requests until there are no more, with more libraries loaded."""
    jobs = [experiment.job.partition(":")[0] for experiment in found_experiments()]
    for name in (*LIBRARIES, *jobs, *more):
        importlib.import_module(name)
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module(OPTIONAL)
    _compose()
    gc.freeze()
    while line := sys.stdin.readline():
        request = json.loads(line)
        env, ranks = request.pop("env"), request.pop("ranks", [{}])
        children = []
        for own in ranks:
            child = os.fork()
            if child == 0:
                become(**request, env={**env, **own})
            children.append(child)
        left = [os.wait4(child, 0)[1:] for child in children]
        codes = [os.waitstatus_to_exitcode(status) for status, _ in left]
        seconds = sum(usage.ru_utime + usage.ru_stime for _, usage in left)
        print(next(filter(None, codes), 0), seconds, max(usage.ru_maxrss for _, usage in left), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1:])
