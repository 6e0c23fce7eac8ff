"""The folders of a project's data, in `.scrapy`."""

from __future__ import annotations

from pathlib import Path

from scrapy.exceptions import NotConfigured
from scrapy.utils.project import data_path


def project_data(name: str) -> Path:
    """Return a folder of the project's data: `.scrapy/<name>`. It may not exist, and need not be writable."""
    try:
        return Path(data_path(name)).absolute()
    except OSError as error:  # Scrapy creates `.scrapy` at once; whoever writes there reports why that fails
        return Path(str(error.filename), name).absolute()
    except NotConfigured:
        # A project without a scrapy.cfg, such as a deployed egg in Scrapyd. From a component, this exception would make
        # Scrapy disable the pipeline.
        return Path(".scrapy", name).absolute()


def local_folder() -> Path:
    """Return the folder of this project's local Supabase, by default `.scrapy/supabase-local`."""
    from scrapy_supabase.local.place import default_folder

    return default_folder(project_data("supabase-local"))
