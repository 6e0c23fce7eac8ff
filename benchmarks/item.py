"""CPU time per item, measured within one crawl: blocks of items go to different pipelines in random order.

Two crawls on a shared machine differ by 10 % or more; two consecutive blocks do not. For items without downloads, this
resolves microseconds, where `benchmarks.crawl` resolves tenths of a crawl. (For pages it does not: the cost of a page
varies more than that of an item.) One-time costs (imports, open, close) are not included.

1. `nothing` only returns the item.
2. `least` encodes the item and appends it to a file, and sends a request for every 100 items over a raw socket: the
   least that a pipeline without loss must do. It has no checks, keys, retries, order or counts.
3. `scrapy-supabase`, with default settings.
"""

from __future__ import annotations

import statistics

from benchmarks.common import machine, markdown, parse_options, server, work_folder, write
from benchmarks.crawl import ITEMS, KINDS, crawl, pipeline, site

BLOCKS = """
import os, random, resource, socket
from urllib.parse import urlsplit
import msgspec
from scrapy_supabase import SupabasePipeline

spent = [{"nothing": [], "least": [], "scrapy-supabase": []}]
ours = SupabasePipeline.process_item


def nothing(self, item):
    return item


class Least:
    def __init__(self):
        self.rows, self.made, self.before, self.socket = [], 0, None, None

    def __call__(self, pipeline, item):
        settings = pipeline._crawler.settings
        if not self.rows:
            self.made += 1
            self.path = f"{settings['LEAST']}/{self.made}.jsonl"
            self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        data = msgspec.json.encode(item)
        os.write(self.file, data + b"\\n")
        self.rows.append(data)
        if len(self.rows) == 100:
            os.close(self.file)
            self.send(settings["SUPABASE_URL"], settings["SUPABASE_KEY"])
        return item

    def send(self, url, key):
        if self.socket is None:
            self.socket = socket.create_connection((urlsplit(url).hostname, urlsplit(url).port))
        if self.before is not None:
            assert b" 201 " in self.socket.recv(65536)[:20]
            os.unlink(self.before)
        body = b"[" + b",".join(self.rows) + b"]"
        head = (
            f"POST /rest/v1/items?columns=id,url,title,price,stock,about&on_conflict=id HTTP/1.1\\r\\nHost: least\\r\\n"
            f"apikey: {key}\\r\\nAuthorization: Bearer {key}\\r\\nContent-Type: application/json\\r\\n"
            f"Prefer: resolution=merge-duplicates,return=minimal\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"
        )
        self.socket.sendall(head.encode() + body)
        self.before, self.rows = self.path, []


ways = {"nothing": nothing, "least": Least(), "scrapy-supabase": ours}
waiting, now, done, started = [], "", 0, 0.0


def process_item(self, item):
    global waiting, now, done, started
    if done % job["settings"]["BLOCK"] == 0:
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu = used.ru_utime + used.ru_stime
        if now:
            spent[0][now].append(cpu - started)
        waiting = waiting or random.sample(list(ways), len(ways))
        now, started = waiting.pop(), cpu
    done += 1
    return ways[now](self, item)


SupabasePipeline.process_item = process_item
"""


def main() -> None:
    """Measure and print; with `--write`, update the docs."""
    options = parse_options(__doc__, choices={"kind": KINDS}, kind=["torrent"], blocks=60, block=300)
    rows, plot = [], dict[str, dict[str, float]]()
    with site() as url, work_folder() as folder, server(folder) as to:
        (folder / "least").mkdir()
        settings = {**pipeline(to, folder), "LEAST": str(folder / "least"), "BLOCK": options.block}
        for kind in options.kind:
            costs: dict[str, list[float]] = {}
            items = (3 * options.blocks + 1) * options.block
            for _ in range(options.repeat):
                to.run(ITEMS)
                found = crawl(kind, items if kind == "torrent" else items // 10, url, settings, BLOCKS)
                for name, blocks in found["spent"].items():
                    microseconds = [1e6 * seconds / options.block for seconds in blocks]
                    costs.setdefault(name, []).append(statistics.median(microseconds))
                for path in (folder / "least").iterdir():
                    path.unlink()
            nothing = statistics.median(costs["nothing"])
            label = KINDS[kind].partition(" ")[2]
            for name, each in costs.items():
                more = [cost - base for cost, base in zip(each, costs["nothing"], strict=True)]
                middle = statistics.median(more)
                spread = f"{min(more):.1f} to {max(more):.1f}" if any(more) else ""
                rows.append([f"{label}, {name}", f"{middle + nothing:.1f}", f"{middle:.1f}", spread])
                plot.setdefault(label, {})[name] = middle
    table = markdown(["a crawl of", "CPU, µs per item", "more than with nothing", "range"], rows)
    print(table)
    if options.write:
        text = (
            f"{__doc__}\nMedians of {options.blocks} blocks of {options.block} items for each, and of {options.repeat} "
            f"such crawls; {machine()}.\n\n{table}"
        )
        write("item", "What an item costs", text, plot, "CPU, µs per item, more than with nothing")


if __name__ == "__main__":
    main()
