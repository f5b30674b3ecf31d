"""Writes constraints.txt: the exact versions in the running environment, without ntkit and pip itself."""

from importlib.metadata import distributions
from pathlib import Path

HEADER = "# The locked environment of the tests, the docs and the demo. Made by `make lock`; pip reads it with -c.\n"
LEFT_OUT = {"ntkit", "pip", "setuptools", "wheel"}


def main() -> None:
    """A local suffix (torch's +cpu) names a build, not a version: without it the lock holds on every platform."""
    versions = {d.name: d.version.partition("+")[0] for d in distributions() if d.name.lower() not in LEFT_OUT}
    lines = [f"{name}=={versions[name]}\n" for name in sorted(versions, key=str.lower)]
    Path(__file__).parents[1].joinpath("constraints.txt").write_text(HEADER + "".join(lines))


if __name__ == "__main__":
    main()
