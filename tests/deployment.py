"""What the files of example_project/deploy say: a Dockerfile's instructions, a unit's options, YAML."""

from __future__ import annotations

import json
import re
import shlex
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[1] / "example_project" / "deploy"


class Image:
    """The image of a Dockerfile, as far as it can be read."""

    def __init__(self, path: Path = DEPLOY / "Dockerfile") -> None:
        text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
        self.instructions: dict[str, list[str]] = defaultdict(list)
        for line in text.splitlines():
            name, _, rest = line.partition(" ")
            self.instructions[name].append(rest)

    def last(self, name: str) -> str:
        """The last instruction of that name, which is the one that counts."""
        return self.instructions[name][-1]

    @property
    def environment(self) -> dict[str, str]:
        """All of `ENV`."""
        pairs = [pair.partition("=") for line in self.instructions["ENV"] for pair in shlex.split(line)]
        return {name: value for name, _, value in pairs}

    def command(self, arguments: list[str] | None = None) -> list[str]:
        """`ENTRYPOINT` with `CMD`, or with other arguments. Both are lists (the exec form)."""
        start: list[str] = json.loads(self.last("ENTRYPOINT"))
        default: list[str] = json.loads(self.last("CMD"))
        return start + (default if arguments is None else arguments)


def unit(name: str) -> dict[str, list[str]]:
    """The options of a unit of systemd, each with its values in their order."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in (DEPLOY / "systemd" / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            option, _, value = line.partition("=")
            found[option].append(value)
    return found


def load(name: str) -> Any:
    """A YAML file."""
    return yaml.safe_load((DEPLOY / name).read_text())


def pod() -> Any:
    """The pod of the Kubernetes Job."""
    return load("kubernetes/job.yaml")["spec"]["template"]["spec"]


def workers() -> dict[str, Any]:
    """The workers of compose.yaml: name → service."""
    return {name: service for name, service in load("compose.yaml")["services"].items() if name != "redis"}


def seconds(duration: str) -> int:
    """`120s` or `120`."""
    return int(duration.removesuffix("s"))
