"""Run a command as in a hardened container: its own root, which is read-only, a user id, and folders as volumes."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

# The root has this machine's folders, read-only, and those of the image and the volumes. The capability lets the user
# read the environment of the tests, which may be in a closed folder.
SCRIPT = """
set -e
mount -t tmpfs -o mode=0755 none {root}
for each in /*; do
  if [ -L "$each" ]; then cp -P "$each" {root}/
  elif [ -d "$each" ]; then
    mkdir {root}"$each"
    mount --rbind "$each" {root}"$each"
    mount -o remount,bind,ro {root}"$each"
  fi
done
{mounts}
mount -o remount,bind,ro {root}
exec chroot {root} setpriv --reuid={user} --regid=0 --clear-groups \
  --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search env -C {workdir} {command}
"""

only_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None,
    reason="only root can mount a file system and change the root, with util-linux",
)


@dataclass(frozen=True)
class Container:
    """What a runtime is told. `volumes`: path inside → a folder, or the size of a tmpfs. `folder`: for its own use."""

    folder: Path
    environment: dict[str, str]
    user: int = 54321  # nobody has it; OpenShift gives such ids, with the group 0
    workdir: str = "/"
    image: dict[str, Path] = field(default_factory=dict)  # path inside → a folder that cannot be written
    volumes: dict[str, Path | str] = field(default_factory=dict)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command. It gets the signals that are sent to the returned process."""
        root = self.folder / "root"
        root.mkdir(exist_ok=True)
        script = SCRIPT.format(
            root=root, mounts=self._mounts(root), user=self.user, workdir=self.workdir, command=shlex.join(command)
        )
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        process = self.start(*command)
        out, err = process.communicate(timeout=100)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def skip_if_impossible(self) -> None:
        """Skip the test where root may not mount."""
        if self.run("true").returncode:
            pytest.skip("root may not mount here")

    def _mounts(self, root: Path) -> str:
        lines = []
        for path, source in {**self.image, **self.volumes}.items():
            inside = f"{root}{path}"
            lines.append(f"mkdir -p {inside}")
            if isinstance(source, str):
                lines.append(f"mount -t tmpfs -o size={source},mode=0770,gid=0 none {inside}")
            else:
                lines.append(f"mount --bind {source} {inside}")
            if path in self.image:
                lines.append(f"mount -o remount,bind,ro {inside}")
        return "\n".join(lines)
