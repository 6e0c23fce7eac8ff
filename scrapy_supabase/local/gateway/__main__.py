"""Entry point `python -m scrapy_supabase.local.gateway`: orders on standard input, `ready PORT NAME` on output."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading


def main() -> int:
    """Serve until standard input ends, which means that the parent process has ended, or until SIGTERM."""
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders = json.loads(sys.stdin.buffer.readline())
    from scrapy_supabase.local.gateway.serve import serve
    from scrapy_supabase.local.gateway.server import end_process

    threading.excepthook = lambda args: end_process(f"The thread {args.thread}", args.exc_value)
    try:
        server, name = serve(orders)
    except OSError as error:
        where = f"{orders['host']}:{orders['port']}"
        sys.stderr.write(f"Cannot listen on {where}: {error.strerror}. Use another port, or 0 for a free one.\n")
        return 1
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"ready {server.server_address[1]} {name}\n")
    sys.stdout.flush()
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)  # open connections are closed without an answer: their client has ended, too


if __name__ == "__main__":
    sys.exit(main())
