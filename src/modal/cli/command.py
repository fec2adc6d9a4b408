"""Commands whose help reads like the documentation: arguments are explained, examples keep their lines."""

from __future__ import annotations

import importlib
from typing import Any, Dict, List, Optional, Sequence, Tuple

import click

Lazy = Dict[str, Tuple[str, str]]  # name of a command -> ("module:attribute", first line of its help)


class Argument(click.Argument):
    """A positional argument with a sentence of help, which `Command` shows."""

    def __init__(self, declarations: Sequence[str], help: str = "", **attrs: Any) -> None:
        super().__init__(declarations, **attrs)
        self.sentence = help

    def row(self) -> Tuple[str, str]:
        """How the help lists it."""
        notes = []
        if self.required:
            notes.append("[required]")
        elif isinstance(self.default, (str, int)):
            notes.append(f"[default: {self.default}]")
        return self.metavar or self.human_readable_name, " ".join(filter(None, [self.sentence, *notes]))


class Command(click.Command):
    """A command that lists its arguments and keeps the lines of code blocks in its help."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.help:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(_for_click(self.help))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [param.row() for param in self.get_params(ctx) if isinstance(param, Argument)]
        if rows:
            with formatter.section("Arguments"):
                formatter.write_dl(rows)
        super().format_options(ctx, formatter)


class Group(click.Group):
    """A group that imports a command's module when that command is asked for, not before."""

    command_class = Command

    def __init__(self, *args: Any, lazy: Optional[Lazy] = None, **attrs: Any) -> None:
        attrs.setdefault("no_args_is_help", True)
        super().__init__(*args, **attrs)
        self.lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> List[str]:
        return [*self.lazy, *(name for name in self.commands if name not in self.lazy)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        if cmd_name in self.lazy:
            module, _, attribute = self.lazy[cmd_name][0].partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: List[str]
    ) -> Tuple[Optional[str], Optional[click.Command], List[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            import difflib

            close = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else f" Commands: {', '.join(self.list_commands(ctx))}."
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.help:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(_for_click(self.help))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            if name in self.lazy:
                rows.append((name, self.lazy[name][1]))
                continue
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows.append((name, command.get_short_help_str(limit=100)))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _for_click(text: str) -> str:
    """Help with fenced code blocks as click wants it: `\\b` keeps the lines of a paragraph."""
    parts: List[str] = []
    in_code = False
    for line in text.strip().splitlines():
        if line.strip().startswith("```"):
            in_code = not in_code
            if in_code:
                parts.append("\n\b")
        elif in_code:
            parts.append(f"  {line}" if line.strip() else "\n\b")
        else:
            parts.append(line.replace("**", ""))
    return "\n".join(parts)
