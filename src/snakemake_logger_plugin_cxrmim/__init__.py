"""``snakemake --cores all --logger cxrmim``: a live table instead of a block of lines a job.

On a terminal: jobs by stop and state, what runs and since when, the time left. Elsewhere, one line
for each job that has ended. Warnings, errors and the summary at the end are shown in both; all that
Snakemake says besides stands in its own log file as ever. A dry run looks as it always does.

Snakemake finds the package by its name, and imports it in every job's inner Snakemake too: so it
imports little.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_cxrmim.board import Board

MARK = "cxrmim"  # attribute of the workflow's own records (cxrmim.ending)
KEPT = "Complete log(s)"
# What a failed job's own line has told already.
TOLD = ("RuleException", "CalledProcessError", "Exiting because a job execution failed")


class LogHandler(LogHandlerBase):
    """Takes in Snakemake's events and shows where the run stands."""

    def __post_init__(self) -> None:
        self._board = Board()
        self._begun = False
        self._screen: Screen | None = None

    @property
    def writes_to_stream(self) -> bool:
        """Yes: Snakemake's own handler is left out."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """No."""
        return False

    @property
    def has_filter(self) -> bool:
        """Yes: what is shown is decided here, and ``--quiet`` must not hide the jobs."""
        return True

    @property
    def has_formatter(self) -> bool:
        """No: a dry run is shown with Snakemake's."""
        return False

    @property
    def needs_rulegraph(self) -> bool:
        """No."""
        return False

    def emit(self, record: logging.LogRecord) -> None:
        """Show one event; what goes wrong here must not end the run."""
        try:
            self._emit(record)
        except Exception:
            self.handleError(record)

    def _emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if self.common_settings.dryrun:
            if record.levelno >= logging.INFO and event != LogEvent.SHELLCMD:
                sys.stdout.write(self.format(record) + "\n")
        elif event == LogEvent.RUN_INFO:
            self._board.plan(getattr(record, "stats", {}))
            self._begin()
        elif event == LogEvent.JOB_INFO:
            self._board.start(record.__dict__)
        elif event == LogEvent.JOB_FINISHED:
            self._ended(self._board.finish(getattr(record, "job_id", None)))
        elif event == LogEvent.JOB_ERROR:
            shown = "" if self._screen is None else "\n".join(self._screen.recent)
            self._ended(self._board.fail(getattr(record, "jobid", None), shown))
        elif self._told(record, event):
            if getattr(record, MARK, False):
                self._end()  # the last table stands above the summary
            self._write(record.getMessage())

    def _told(self, record: logging.LogRecord, event: Any) -> bool:
        """Whether a record that is no job's is shown."""
        text = record.getMessage()
        if event not in (None, LogEvent.ERROR) or not text.strip():
            return False
        if record.levelno >= logging.WARNING:
            return not text.startswith(TOLD)
        if record.levelno < logging.INFO:
            return False
        return not self._begun or getattr(record, MARK, False) or text.startswith(KEPT)

    def _begin(self) -> None:
        self._begun = True
        if self._screen is None and sys.stderr.isatty():
            self._screen = Screen(self._board, plain=bool(self.common_settings.nocolor))

    def _ended(self, line: str | None) -> None:
        """A job has ended: on a terminal only a failure is told beside the table."""
        if line is not None and (self._screen is None or line.startswith("FAILED")):
            clock = time.strftime("%H:%M:%S")
            self._write(f"{clock} {line}")

    def _write(self, text: str) -> None:
        if self._screen is not None:
            self._screen.write(text)
        else:
            sys.stderr.write(text.rstrip("\n") + "\n")

    def _end(self) -> None:
        if self._screen is not None:
            self._screen.close()
            self._screen = None

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._end()
        super().close()


class Screen:
    """The live table at the foot of a terminal.

    Jobs inherit Snakemake's stderr, and would write into the table. So stderr becomes a pipe while
    the table is shown; what comes out of it is written above the table.

    Args:
        board: what is shown.
        plain: without colours.
    """

    def __init__(self, board: Board, *, plain: bool) -> None:
        from rich.console import Console
        from rich.live import Live

        self.recent: deque[str] = deque(maxlen=50)  # lines of stderr
        sys.stderr.flush()
        self._terminal = os.dup(2)
        source, sink = os.pipe()
        os.dup2(sink, 2)
        os.close(sink)
        self._file = os.fdopen(self._terminal, "w", encoding="utf-8", closefd=False)
        self._console = Console(file=self._file, no_color=plain, highlight=False)
        self._live = Live(get_renderable=board.table, console=self._console, refresh_per_second=2)
        self._reader = threading.Thread(target=self._pass_on, args=(source,), daemon=True)
        self._live.start()
        self._reader.start()

    def write(self, text: str) -> None:
        """Write above the table."""
        self._console.print(text.rstrip("\n"), markup=False, soft_wrap=True)

    def close(self) -> None:
        """Show the table a last time and give stderr back."""
        sys.stderr.flush()
        os.dup2(self._terminal, 2)  # the pipe ends here, and with the last job that holds it
        self._reader.join(timeout=1)
        self._live.stop()
        self._file.flush()

    def _pass_on(self, source: int) -> None:
        with os.fdopen(source, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                self.recent.append(line)
                with contextlib.suppress(Exception):
                    self.write(line)
