"""The site that is crawled: the standard library's own documentation server, on this machine."""

import subprocess
import sys


class PydocSite:
    """`python -m pydoc` in a process of its own: it imports every module it documents, which the crawl must not.

    `-I -S`: the standard library alone, nothing of this project or of the virtual environment. The server ends when its
    standard input is closed, also when the crawl is killed.
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
