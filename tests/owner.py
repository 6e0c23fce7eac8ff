"""Run as a script: holds a local Supabase until its standard input ends, or until it is killed."""

from __future__ import annotations

import json
import os
import sys

from scrapy_supabase.local import LocalSupabase

if __name__ == "__main__":
    with LocalSupabase(sys.argv[1], join="join" in sys.argv[2:]) as stack:
        print(json.dumps({"url": stack.url, "key": stack.service_role_key, "pid": os.getpid()}), flush=True)
        sys.stdin.read()
