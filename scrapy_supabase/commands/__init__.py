"""The `scrapy supabase` command (entry point group `scrapy.commands`), with one module per sub-command.

Every `scrapy` command imports this module, `crawl` too, so sub-commands are imported only when used.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import Any, ClassVar

from scrapy.commands import ScrapyCommand
from scrapy.exceptions import UsageError

from scrapy_supabase.errors import FatalError, SupabaseError

NAMES = ("check", "ddl", "load", "replay", "report", "local", "sql")


def module_of(name: str) -> Any:
    """Return the module of a sub-command, which has `add_options(parser)` and `run(settings, opts)`."""
    return import_module(f"{__name__}.{name}")


class SupabaseCommand(ScrapyCommand):
    """Scrapy command that runs a sub-command and turns its errors into one line and exit code 1."""

    requires_project = False
    requires_crawler_process = False
    default_settings: ClassVar[dict[str, Any]] = {"LOG_ENABLED": False}

    def syntax(self) -> str:
        """Return the usage line of `--help`."""
        return f"{{{','.join(NAMES)}}} …"

    def short_desc(self) -> str:
        """Return the description in the list of `scrapy` commands."""
        return "Supabase: check a project, create tables, load files, replay spooled rows, report, run a local Supabase"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Declare the sub-commands."""
        super().add_options(parser)
        subparsers = parser.add_subparsers(
            dest="subcommand", metavar="SUBCOMMAND", title="sub-commands", parser_class=argparse.ArgumentParser
        )
        for name in NAMES:
            module = module_of(name)
            help_text = (module.__doc__ or "").strip()
            subparser = subparsers.add_parser(
                name,
                help=help_text.splitlines()[0].partition(": ")[2],
                description=help_text.partition(": ")[2],
                prog=f"scrapy supabase {name}",
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            # Scrapy accepts -s only before the sub-command's name; people write it after.
            subparser.add_argument(
                "-s", "--set", dest="set_after", action="append", default=[], metavar="NAME=VALUE", help="set a setting"
            )
            module.add_options(subparser)

    def process_options(self, args: list[str], opts: Any) -> None:
        """Apply the options -s, before and after the sub-command's name; the last value of a setting wins."""
        opts.set = [*opts.set, *getattr(opts, "set_after", ())]
        super().process_options(args, opts)

    def run(self, args: list[str], opts: Any) -> None:
        """Run the sub-command."""
        if opts.subcommand is None:
            raise UsageError(f"no sub-command: use one of {', '.join(NAMES)}")
        if args:
            raise UsageError(f"unknown argument: {args[0]} (see scrapy supabase {opts.subcommand} --help)")
        module = module_of(opts.subcommand)
        try:
            self.exitcode = module.run(self.settings, opts)
        except BrokenPipeError:  # the reader, such as `| head`, has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.exitcode = 1
        except KeyboardInterrupt:
            remedy = getattr(module, "WHEN_INTERRUPTED", "")
            print(f"scrapy supabase {opts.subcommand}: interrupted. {remedy}".rstrip(), file=sys.stderr)
            self.exitcode = 130
        except SupabaseError as error:
            refused = f"{getattr(module, 'WHEN_REFUSED', '')} " if isinstance(error, FatalError) else ""
            print(f"scrapy supabase {opts.subcommand}: {refused.lstrip()}{error}", file=sys.stderr)
            self.exitcode = 1
