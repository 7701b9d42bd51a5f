"""Log lines as events with fields: for people on a terminal, JSON otherwise."""

import logging
import sys
from typing import Final, TextIO

import structlog

from gateway.settings import Settings

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def set_up_logs(settings: Settings, *, to: TextIO = sys.stderr) -> None:
    """Send our own lines and those of libraries the same way. Call once, before anything logs."""
    level = _LEVELS[settings.log_level]
    as_console = settings.log_format == "console" or (settings.log_format == "auto" and to.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if as_console
        else structlog.processors.JSONRenderer()
    )
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if not as_console:
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(to),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(to)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    # Libraries tell of every packet and retry at lower levels; conditions are ours to tell.
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
