"""`scrapy supabase …`: one sub-command a module (entry point group `scrapy.commands`)."""

from __future__ import annotations

import argparse
import sys
from typing import Any, ClassVar

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError

from scrapy_supabase.commands import load, local, replay, sql
from scrapy_supabase.errors import SupabaseError

_MODULES = {"load": load, "replay": replay, "local": local, "sql": sql}


class SupabaseCommand(ScrapyCommand):
    """Finds the sub-command, and turns its errors into one line and exit code 1."""

    requires_project = False
    requires_crawler_process = False
    default_settings: ClassVar[dict[str, Any]] = {"LOG_ENABLED": False}

    def syntax(self) -> str:
        """Shown by `--help`."""
        return f"{{{','.join(_MODULES)}}} …"

    def short_desc(self) -> str:
        """Shown by `scrapy` alone."""
        return "Supabase: load files, replay what crawls left, run one on this machine, query it"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Declare the sub-commands."""
        super().add_options(parser)
        subparsers = parser.add_subparsers(
            dest="subcommand", metavar="SUBCOMMAND", title="sub-commands", parser_class=argparse.ArgumentParser
        )
        for name, module in _MODULES.items():
            help_text = (module.__doc__ or "").strip()
            subparser = subparsers.add_parser(
                name,
                help=help_text.splitlines()[0].partition(": ")[2],
                description=help_text.partition(": ")[2],
                prog=f"scrapy supabase {name}",
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            module.add_options(subparser)

    def run(self, args: list[str], opts: Any) -> None:
        """Run the sub-command."""
        module = _MODULES.get(opts.subcommand)
        if module is None:
            raise UsageError(f"a sub-command is needed: {', '.join(_MODULES)}")
        if args:
            raise UsageError(f"unknown argument: {args[0]}")
        try:
            self.exitcode = module.run(self.settings, opts)
        except KeyboardInterrupt:
            print(f"scrapy supabase {opts.subcommand}: interrupted; what is not uploaded is kept.", file=sys.stderr)
            self.exitcode = 130
        except SupabaseError as error:
            print(f"scrapy supabase {opts.subcommand}: {error}", file=sys.stderr)
            self.exitcode = 1
