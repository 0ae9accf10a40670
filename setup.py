"""The packages of the wheel: `api` is `lab` itself, other folders at the root are in it (`core/ssd` is `lab.core.ssd`).

Everything else is in pyproject.toml. setuptools can find packages by itself only where their names are their paths.
"""

from setuptools import find_packages, setup

ROOMS = ("cli", "conf", "core", "experiments")

setup(
    packages=[
        "lab",
        *(
            f"lab.{name}"
            for name in find_packages(include=[pattern for room in ROOMS for pattern in (room, f"{room}.*")])
        ),
    ],
    package_dir={"lab": "api", **{f"lab.{room}": room for room in ROOMS}},
)
