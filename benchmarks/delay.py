"""TCP proxy that simulates a distant server: it delays each direction by half of the round trip.

`python -m benchmarks.delay HOST PORT SECONDS` forwards to one server and prints the port it listens on.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.common import ROOT


async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter, delay: float) -> None:
    loop = asyncio.get_running_loop()
    while data := await source.read(1 << 18):
        loop.call_later(delay, target.write, data)
    loop.call_later(delay, target.close)


async def _serve(host: str, port: int, seconds: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(_pass(reader, far_writer, seconds / 2), _pass(far_reader, writer, seconds / 2))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def far_away(host: str, port: int, seconds: float) -> Iterator[int]:
    """Run a proxy to `host:port` in another process, with a round trip of `seconds`; yield its port."""
    command = [sys.executable, "-m", "benchmarks.delay", host, str(port), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
