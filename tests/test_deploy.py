"""The files of example_project/deploy are started, as far as a machine without Docker, cluster and systemd can."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scrapy_supabase.local import LocalSupabase
from tests.container import Container, only_root
from tests.deployment import DEPLOY, Image, load, pod, seconds, unit, workers
from tests.docs_pages import DOCS, blocks_of
from tests.fix_redis import RedisServer, Site
from tests.polling import eventually

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
FEW_PAGES = ["-s", "CLOSESPIDER_PAGECOUNT=12"]
COMPOSE, WORKFLOW = DEPLOY / "compose.yaml", DEPLOY / "github-actions" / "crawl.yml"
# Scrapy looks every five seconds whether an idle spider may close: a fleet of a few pages would take longer to end than
# to crawl.
QUICK_SCRAPY = """#!{python}
from scrapy.core.engine import ExecutionEngine
from scrapy.cmdline import execute
ExecutionEngine._SLOT_HEARTBEAT_INTERVAL = 0.2
execute()
"""
Sql = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def stack(open_folder: Path) -> Iterator[LocalSupabase]:
    """A Supabase with the tables of the example project, and of the documentation's shop."""
    with LocalSupabase(open_folder / "deploy stack", migrations=ROOT / "migrations") as made:
        with psycopg.connect(made.db_url, autocommit=True) as connection:
            connection.execute("create table books (url text primary key, title text, price numeric, author text)")
            connection.execute("grant all on books to service_role; notify pgrst, 'reload schema'")
        yield made


@pytest.fixture
def query(stack: LocalSupabase) -> Iterator[Sql]:
    """Run SQL."""
    with psycopg.connect(stack.db_url, autocommit=True) as connection:
        yield lambda text: connection.execute(text.encode()).fetchall()


@pytest.fixture
def folder(open_folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that every user may enter, with the example project in `app`."""
    made = open_folder / request.node.name
    without = shutil.ignore_patterns(".scrapy", "__pycache__")
    shutil.copytree(ROOT / "example_project", made / "app", ignore=without)
    yield made
    shutil.rmtree(made)


def outside(stack: LocalSupabase, **variables: str) -> dict[str, str]:
    """An environment with URL and key, as a secret gives them, and nothing else of this process."""
    secret = {"SUPABASE_URL": stack.url, "SUPABASE_KEY": stack.service_role_key}
    return {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **secret, **variables}


def run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, which must be a good one."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def counts(log: str) -> dict[str, int]:
    """The counts of rows in the stats that a crawl logs."""
    return {name: int(value) for name, value in re.findall(r"'supabase/(\w+)_count': (\d+)", log)}


@only_root
def test_image_and_job(stack: LocalSupabase, query: Sql, folder: Path) -> None:
    """The image's own command closes in order when it is stopped; then a pod of the Job runs on the same volume."""
    image = Image()
    user, _, group = image.last("USER").partition(":")
    spool = folder / "spool"
    spool.mkdir()
    spool.chmod(0o2770)
    assert "--group=0 --mode=2770 /spool" in image.last("RUN")

    def container(**variables: str) -> Container:
        return Container(
            folder,
            outside(stack, **image.environment, **variables),
            user=int(user),
            workdir=image.last("WORKDIR"),
            image={image.last("WORKDIR"): folder / "app"},
            volumes={image.last("VOLUME"): spool},
        )

    def stored() -> int:
        (rows,) = query("select (select count(*) from symbols) + (select count(*) from modules)")[0]
        return int(rows)

    container().skip_if_impossible()
    before = stored()  # by another test
    with container().start(*image.command()) as first:
        begun = eventually(lambda: stored() > before, 60)
        first.send_signal(signal.Signals[image.last("STOPSIGNAL")])
        _, log = first.communicate(timeout=pod()["terminationGracePeriodSeconds"])
    assert begun, log
    assert first.returncode == 0, log
    assert "'finish_reason': 'shutdown'" in log
    assert "Traceback" not in log
    found = counts(log)
    assert found["received"] == found["uploaded"] == stored() - before
    assert stack.service_role_key not in log
    assert group == "0"

    spec = pod()["containers"][0]
    assert spec["securityContext"]["readOnlyRootFilesystem"]
    assert pod()["securityContext"]["runAsNonRoot"]
    assert {mount["mountPath"] for mount in spec["volumeMounts"]} == {image.last("VOLUME"), "/tmp"}
    variables = {entry["name"]: entry["value"] for entry in spec["env"]}
    command = shlex.join(image.command(spec["args"] + FEW_PAGES))
    done = container(**variables).run("sh", "-c", f"{command} && scrapy supabase replay --dry-run --rejected")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("(0 rows)\n")
    assert counts(done.stderr)["uploaded"] > 50


def test_compose(stack: LocalSupabase, query: Sql, folder: Path, pages: Site) -> None:
    """The fleet of compose.yaml crawls a site; a worker that is stopped leaves its requests to the others."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian: apt install redis-server)")
    spider = folder / "app" / "stdlib_docs" / "spiders" / "quotes.py"
    text = spider.read_text().replace("https://quotes.toscrape.com/", f"{pages.url}0")
    spider.write_text(text.replace("if following := ", "for following in ").replace(".get():", ".getall():"))
    total = tree_of_quotes(pages, 40)
    (folder / "bin").mkdir()
    quick = folder / "bin" / "scrapy"
    quick.write_text(QUICK_SCRAPY.format(python=sys.executable))
    quick.chmod(0o755)

    image, services = Image(), load("compose.yaml")["services"]
    assert services["redis"]["command"][0] == "redis-server"
    server = RedisServer(program, folder, services["redis"]["command"][1:])
    server.start()
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    mapped = {"PATH": path, "HOME": str(folder), "REDIS_URL": server.url}
    running: list[subprocess.Popen[bytes]] = []

    def logs() -> list[str]:
        return [(folder / f"{name}.log").read_text() for name in workers()]

    for name, service in workers().items():
        volume, _, target = service["volumes"][0].partition(":")
        given = {key: interpolate(value, outside(stack)) for key, value in service["environment"].items()}
        assert target == image.environment["SUPABASE_SPOOL_DIR"]
        assert given["REDIS_URL"] == "redis://redis:6379"
        command = [*image.command(service["command"]), "-s", "DOWNLOAD_DELAY=0.1"]
        environment = {**given, **mapped, "SUPABASE_SPOOL_DIR": str(folder / volume)}
        with (folder / f"{name}.log").open("w") as log:
            running.append(subprocess.Popen(command, cwd=folder / "app", env=environment, stdout=log, stderr=log))
    try:
        assert eventually(lambda: query("select count(*) from quotes")[0][0] > 0, 60), logs()
        stopped = next(n for n, log in enumerate(logs()) if "Uploading to" in log)
        running[stopped].send_signal(signal.SIGTERM)
        codes = [worker.wait(60) for worker in running]
    finally:
        for worker in running:
            worker.kill()
        left = sorted(server.client.keys())
        server.stop()
    assert codes == [0, 0, 0], logs()
    ends = [re.findall(r"'finish_reason': '(\w+)'", log) for log in logs()]
    assert ends.pop(stopped) == ["shutdown"]
    assert ends == [["finished"], ["finished"]]
    assert query("select count(distinct text) from quotes") == [(total,)], logs()
    assert left == []
    assert all(list((folder / f"spool-{number}").iterdir()) for number in (1, 2, 3))


def tree_of_quotes(site: Site, pages: int) -> int:
    """Serve pages as those of quotes.toscrape.com, with five links each; return the number of quotes."""
    for page in range(pages):
        links = "".join(f'<a href="/{n}">' for n in range(page * 5 + 1, min(page * 5 + 6, pages)))
        quotes = "".join(
            f'<div class="quote"><span class="text">{page}-{n}</span><small class="author">A</small></div>'
            for n in range(5)
        )
        site.pages[str(page)] = {"html": f'{quotes}<li class="next">{links}</li>'}
    return pages * 5


def interpolate(text: str, environment: dict[str, str]) -> str:
    """Fill in `${NAME:?message}` as Compose does."""
    return re.sub(r"\$\{(\w+):\?[^}]+\}", lambda found: environment[found[1]], text)


def test_systemd(stack: LocalSupabase, folder: Path) -> None:
    """What ExecStart is, in its folder, with its environment."""
    service = unit("crawl.service")
    app, spool = folder / "app", folder / "spool"
    (app / ".venv").symlink_to(BIN.parent)

    def here(text: str) -> str:
        return text.replace("/srv/crawl", str(app)).replace("/var/lib/crawl", str(spool))

    assert service["StateDirectory"] == ["crawl"]
    pairs = [here(pair).partition("=") for line in service["Environment"] for pair in shlex.split(line)]
    environment = outside(stack, HOME=str(folder), **{name: value for name, _, value in pairs})
    command = [*shlex.split(here(service["ExecStart"][0])), *FEW_PAGES]
    done = run(command, Path(here(service["WorkingDirectory"][0])), environment)
    assert counts(done.stderr)["uploaded"] > 50
    assert (spool / "runs.jsonl").exists()


def test_systemd_reads_the_units(tmp_path: Path) -> None:
    """Without a complaint."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt install systemd)")
    for name in ("crawl.service", "crawl.timer"):
        text = (DEPLOY / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/srv/crawl/.venv/bin/scrapy", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", *sorted(tmp_path.iterdir())], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_github_actions(stack: LocalSupabase, query: Sql, tmp_path: Path) -> None:
    """The steps of the workflow, but for the installation, in the shop of the documentation."""
    shutil.copytree(ROOT / "tests" / "data" / "docs" / "shop", tmp_path, dirs_exist_ok=True)
    job = load("github-actions/crawl.yml")["jobs"]["crawl"]
    assert set(job["env"]) == {"SUPABASE_URL", "SUPABASE_KEY"}
    steps = [step["run"] for step in job["steps"] if "run" in step]
    assert steps.pop(0).startswith("pip install -r requirements.txt")
    for step in steps:
        command = step.replace("crawl books", "crawl books -a kinds=books")
        run(["bash", "-e", "-c", command], tmp_path, outside(stack, HOME=str(tmp_path)))
    assert query("select count(*) from books") == [(6,)]
    (kept,) = (step["with"]["path"].split() for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
    assert [path for path in kept if not (tmp_path / path).exists()] == []


def test_the_page_shows_the_workflow() -> None:
    """As it is."""
    (shown,) = (block.text for block in blocks_of(DOCS / "how-to" / "github-actions.md") if block.language == "yaml")
    assert shown == WORKFLOW.read_text()


def test_every_file_has_time_to_close() -> None:
    """The grace period is longer than SUPABASE_CLOSE_TIMEOUT, which is set beside it."""
    (container,) = pod()["containers"]
    close = {entry["name"]: entry["value"] for entry in container["env"]}["SUPABASE_CLOSE_TIMEOUT"]
    assert pod()["terminationGracePeriodSeconds"] > int(close)
    for worker in workers().values():
        assert seconds(worker["stop_grace_period"]) > int(worker["environment"]["SUPABASE_CLOSE_TIMEOUT"])
    service = unit("crawl.service")
    (close,) = re.findall(r"SUPABASE_CLOSE_TIMEOUT=(\d+)", " ".join(service["Environment"]))
    assert seconds(service["TimeoutStopSec"][0]) > int(close)


def test_the_same_pod_and_the_same_worker() -> None:
    """The CronJob starts the Job's pods; workers differ in their volumes only, and no two have the same."""
    assert load("kubernetes/cronjob.yaml")["spec"]["jobTemplate"]["spec"] == load("kubernetes/job.yaml")["spec"]
    claim = load("kubernetes/spool.yaml")["metadata"]["name"]
    assert {"name": "spool", "persistentVolumeClaim": {"claimName": claim}} in pod()["volumes"]
    first, *others = workers().values()
    assert [{**each, "volumes": first["volumes"]} for each in others] == [first, first]
    assert len({each["volumes"][0] for each in (first, *others)}) == 3


def test_published_schemas() -> None:
    """Of Compose, GitHub and Kubernetes."""
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for schema, path in (("compose-spec", COMPOSE), ("github-workflows", WORKFLOW)):
        done = subprocess.run(
            [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", path],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    for path in sorted((DEPLOY / "kubernetes").iterdir()):
        kubernetes.validate(load(f"kubernetes/{path.name}"), "1.32", strict=True)
