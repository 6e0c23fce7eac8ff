"""The complete check of a project: yields its findings one by one."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from scrapy_supabase.assembly import find_server, new_backend, new_schema
from scrapy_supabase.backends.base import Backend, ServerFacts
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.backends.retry import Deadline
from scrapy_supabase.checkup.creation import CreationCheck
from scrapy_supabase.checkup.finding import Finding, Level, error, ok, warning
from scrapy_supabase.checkup.fleet import check_fleet
from scrapy_supabase.checkup.project import check_enabled, check_run, check_spool
from scrapy_supabase.checkup.run_end import check_function, check_unseen_rows
from scrapy_supabase.checkup.server import check_distance, check_key, check_server, no_server
from scrapy_supabase.checkup.skip_stored import check_skip_stored
from scrapy_supabase.checkup.tables import ItemKind, TableCheck
from scrapy_supabase.delivery.schema_check import SchemaCheck
from scrapy_supabase.errors import ConfigurationError, ServerError, SupabaseError
from scrapy_supabase.messages import pluralize
from scrapy_supabase.schema.declared import DeclaredItems
from scrapy_supabase.schema.item_fields import fields_of
from scrapy_supabase.schema.routes import specs_by_class
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.settings.components import is_set
from scrapy_supabase.settings.config import Config

_BUSY_TIMEOUT = 10.0  # seconds; a person waits for the answer
_LAST_SENTENCE = re.compile(r"(.+)\. ([A-Z].+)", re.DOTALL)
_AFTER_COLON = re.compile(r"(.+?): ((?:it must|set|make|each)\b.+)", re.DOTALL)


def check(
    settings: Any, *, in_project: bool, spiders: Sequence[str] = (), clock: Callable[[], float] = time.time
) -> Iterator[Finding]:
    """Check everything that a crawl with these settings needs, storing nothing.

    `spiders` are those whose names stand for `{spider}` in names of tables. `clock` returns this machine's time.
    """
    if in_project:
        yield from check_enabled(settings)
    try:
        config = Config.from_settings(settings, spiders=spiders)
    except ConfigurationError as failed:
        if not in_project:
            yield warning(
                "settings",
                "no Scrapy project here: only the environment and -s are read",
                "Change to the folder where your project's scrapy.cfg is.",
            )
        for problem in failed.problems or [str(failed)]:
            yield error("settings", *split_remedy(problem))
        return
    for text in config.warnings:
        yield warning("settings", *split_remedy(text))
    if not config.enabled:
        yield warning("settings", "SUPABASE_ENABLED is False: nothing is uploaded", "Set it to True, or remove it.")
    yield ok("settings", f"{pluralize(len(config.tables.specs), 'table')} configured, all values valid")
    yield from check_spool(config)
    yield from check_fleet(settings, config)
    try:
        config, stack = find_server(config)
    except SupabaseError as failed:
        yield error("server", *split_remedy(str(failed)))
        return
    try:
        yield from check_key(config, clock())
        backend = new_backend(config)
        try:
            yield from _check_server_and_tables(config, backend, settings, clock, is_local=stack is not None)
        except ServerError as failed:
            yield no_server(config, failed)
        finally:
            backend.close()
    finally:
        if stack is not None:
            stack.stop()


def split_remedy(message: str) -> tuple[str, str]:
    """Split a message into problem and remedy; the remedy is its last sentence, or follows a colon."""
    if found := _LAST_SENTENCE.fullmatch(message) or _AFTER_COLON.fullmatch(message):
        text, remedy = found.groups()
        return text, remedy[:1].upper() + remedy[1:]
    return message, ""


def _check_server_and_tables(
    config: Config, backend: Backend, settings: Any, clock: Callable[[], float], *, is_local: bool
) -> Iterator[Finding]:
    """Check server, tables and ledger. Raises `ServerError` for an answer that concerns no table."""
    try:
        kinds = {spec.name: _kinds(config, spec) for spec in config.tables.specs.values()}
    except ConfigurationError as failed:
        yield error("settings", *split_remedy(str(failed)))
        return
    policy = OpenPolicy(1, config.upload.delay, Deadline(), min(config.upload.open_timeout, _BUSY_TIMEOUT))
    facts, before, after = policy.run("Checking the tables", _facts, backend, clock)
    yield from check_server(config, facts, (before + after) / 2)
    schema = new_schema(config)
    SchemaCheck(backend, schema, {}, policy=policy).learn()
    drop_is_explicit = is_set(settings, "SUPABASE_UNKNOWN_COLUMNS")
    declared = DeclaredItems(config.tables.routes, is_local=is_local)
    tables = TableCheck(config, backend, schema, facts, declared, policy, drop_is_explicit=drop_is_explicit)
    creation = CreationCheck(config, backend, schema, policy) if config.create.enabled else None
    usable: TableSpec | None = None
    for spec in config.tables.specs.values():
        if creation is not None and creation.is_missing(spec):
            yield from creation.table(spec)
            continue
        if creation is not None:
            yield from creation.columns(spec)
            spec = creation.without_later(spec)
        wrong = False
        for finding in tables.findings(spec, kinds[spec.name]):
            yield finding
            wrong = wrong or finding.level is Level.ERROR
        if not wrong:
            yield from check_unseen_rows(config, backend, spec)
        usable = usable or (None if wrong else spec)
    yield from check_skip_stored(config, backend, schema, policy)
    yield from check_run(config, backend)
    yield from check_function(config, backend)
    if usable is not None:
        yield from check_distance(config, backend, usable)


def _facts(backend: Backend, clock: Callable[[], float]) -> tuple[ServerFacts, float, float]:
    """Return the server's facts, with the time before and after the request."""
    before = clock()
    return backend.facts(), before, clock()


def _kinds(config: Config, spec: TableSpec) -> list[ItemKind]:
    """Return the kinds of items that go to a table."""
    return [
        ItemKind(item_class.__qualname__, fields_of(item_class), other)
        if item_class
        else ItemKind("other classes", None, other)
        for item_class, other in specs_by_class(config.tables.routes)
        if other.name == spec.name
    ]
