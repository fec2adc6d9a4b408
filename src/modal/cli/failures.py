"""What the user sees, and which status the shell gets, when a command does not succeed."""

from __future__ import annotations

import sys

import click

FAILED = 1
INTERRUPTED = 130  # as shells have it: 128 + SIGINT
TERMINATED = 143  # 128 + SIGTERM
BROKEN_PIPE = 141  # 128 + SIGPIPE


class ProgramFailed(Exception):
    """The user's program raised; `__cause__` is what."""


def report(error: BaseException) -> int:
    """Show `error` on stderr; returns the exit status."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    from modal.cli.program import ProgramError

    if isinstance(error, SystemExit):
        return _exit_status(error)
    if isinstance(error, click.Abort):
        _write("Aborted.\n")
        return FAILED
    if type(error).__name__ == "NoArgsIsHelpError" and isinstance(error, click.UsageError):  # not in older clicks
        click.echo(error.format_message())
        return error.exit_code
    if isinstance(error, click.ClickException):
        _show_usage(error)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        _discard_output()
        return BROKEN_PIPE
    if isinstance(error, ProgramError):
        _show_program(error.__cause__ or error, str(error), error.hint)
        return FAILED
    if isinstance(error, ProgramFailed):
        _show_program(error.__cause__ or error, "", "")
        return FAILED
    _show_own(error)
    return FAILED


def _exit_status(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code
    _write(f"{error.code}\n")
    return FAILED


def _show_usage(error: click.ClickException) -> None:
    from modal._output.errors import error_text

    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # since click 8.2
        _write(error.format_message() + "\n")
        return
    if isinstance(error, click.UsageError) and error.ctx is not None:
        _write(error.ctx.get_usage() + "\n")
        if error.ctx.command.get_help_option(error.ctx) is not None:
            _write(f"Try '{error.ctx.command_path} --help' for help.\n\n")
    _write(error_text(error.format_message()))


def _show_program(error: BaseException, what: str, hint: str) -> None:
    """What the user's own code raised: the user's frames, here and in the container."""
    from modal import _traceback
    from modal._output.errors import error_text

    everything = _traceback.show_all()
    if _is_our_sentence(error) and not everything:
        _write(_location(error) + error_text(_sentence(error)))
        return
    _write(_traceback.text_of(error, everything=everything))
    if what or hint:
        _write("\n" + error_text(". ".join(filter(None, [what, hint]))))


def _show_own(error: BaseException) -> None:
    """What a command of ours raised: one sentence, unless all frames are wanted."""
    from modal import _traceback
    from modal._output.errors import error_text

    if _traceback.show_all():
        _write(_traceback.text_of(error, everything=True))
    elif _is_our_sentence(error) or isinstance(error, OSError):
        _write(error_text(_sentence(error)))
    else:
        from modal.cli.program import hidden_module

        hint = hidden_module() or "Run it again with MODAL_TRACEBACK=1 to see where."
        _write(error_text(f"{type(error).__name__}: {error}. {hint}", title="Unexpected error"))


def _is_our_sentence(error: BaseException) -> bool:
    """Whether the error's text says all there is to say: the SDK's own errors, and the server's faults."""
    from modal import _traceback
    from modal._protocol.errors import Fault, WireError
    from modal.exception import Error, ModuleNotMountable, UserCodeException

    if isinstance(error, (Fault, WireError, ModuleNotMountable)):
        return True
    return isinstance(error, Error) and not isinstance(error, UserCodeException) and not _traceback.is_remote(error)


def _sentence(error: BaseException) -> str:
    from modal._protocol.errors import Fault

    text = error.text if isinstance(error, Fault) else str(error)
    return text or type(error).__name__


def _location(error: BaseException) -> str:
    """Where in the user's code an error of ours came up, "" where it did not."""
    from modal import _traceback

    users = [frame for frame in _traceback.frames_of(error) if not frame[4]]
    if not users:
        return ""
    file, line, function, source, _ours = users[-1]
    return f'  File "{file}", line {line}, in {function}\n' + (f"    {source}\n" if source else "")


def _write(text: str) -> None:
    from modal._output.text import encodable

    try:
        sys.stdout.flush()
        sys.stderr.write(encodable(text, getattr(sys.stderr, "encoding", None)))
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        _discard_output()


def _discard_output() -> None:
    """Nobody reads any more: what is still buffered must not fail again when Python exits."""
    import os

    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(null, stream.fileno())
    os.close(null)
