"""The start of the supervisor, with orders for the two processes it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from scrapy_supabase.local.cluster import Cluster, environment
from scrapy_supabase.local.posix import pwd


def start_supervisor(
    folder: Path, cluster: Cluster, port: int, gateway: dict[str, Any], lock: int
) -> subprocess.Popen[bytes]:
    """Start a supervisor for PostgreSQL on `port` and a gateway with the orders `gateway`.

    The supervisor inherits `lock`, the descriptor that locks the data folder.
    """
    user = pwd.getpwnam(cluster.server.user) if cluster.server.user else None
    package = str(Path(__file__).parents[2])
    orders = {
        "folder": str(folder),
        "data": str(cluster.data),
        "postgres": cluster.command(port),
        "environment": environment(),
        "user": [user.pw_uid, user.pw_gid] if user else None,
        "gateway": [sys.executable, "-m", "scrapy_supabase.local.gateway"],
        "gateway_environment": {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        },
        "gateway_orders": gateway,
    }
    supervisor = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).with_name("supervisor.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(lock,),
        start_new_session=True,
    )
    assert supervisor.stdin is not None  # noqa: S101 (for the type checker)
    supervisor.stdin.write(json.dumps(orders).encode() + b"\n")
    supervisor.stdin.flush()
    return supervisor
