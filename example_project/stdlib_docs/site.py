"""Local site to crawl: the documentation server of the standard library."""

import subprocess
import sys


class PydocSite:
    """Server `python -m pydoc`, in its own process because it imports every module that it documents.

    `-I -S` limits it to the standard library, without this project and the virtual environment. The server ends when
    its standard input is closed, even if the crawl is killed.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-m", "pydoc", "-n", "127.0.0.1", "-p", "0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        line = self._process.stdout.readline()  # Server ready at http://127.0.0.1:37825/
        if "http://" not in line:
            self.stop()
            raise RuntimeError(f"pydoc's server does not start: {line!r}")
        self.url = line.split()[-1]

    def stop(self) -> None:
        """End the server."""
        with self._process as process:  # closes the pipes and waits
            process.terminate()
