"""What `scooter doctor` does: examine servers, access and files, and say how to mend them."""

import asyncio
import time
from collections.abc import Coroutine

from devices.console.output import as_text, print_json, talk, write
from devices.console.spans import counted
from gateway.console.doctor_access import examine_access
from gateway.console.doctor_broker import examine_broker
from gateway.console.doctor_files import examine_files
from gateway.console.doctor_listeners import examine_listeners
from gateway.console.doctor_report import Report
from gateway.console.doctor_stores import examine_postgres, examine_redis
from gateway.settings import read_settings


async def examine_all(*, as_json: bool) -> bool:
    """Print one report a server; returns whether nothing wrong was found. Raises SettingsError.

    What could not be examined from here is told, and is nothing wrong.
    """
    settings = read_settings()
    examinations: list[Coroutine[None, None, Report]] = [
        examine_broker(settings),
        examine_access(settings),
        examine_listeners(settings),
        examine_files(settings),
        examine_redis(settings),
        examine_postgres(settings),
    ]
    reports = await asyncio.gather(*examinations)
    is_well = not any(report.findings for report in reports)
    if as_json:
        servers = [report.as_document for report in reports]
        print_json(
            {"ok": is_well, "examined_at_ms": time.time_ns() // 1_000_000, "servers": servers}
        )
    else:
        for report in reports:
            _print(report)
    talk(_summary(reports))
    return is_well


def _summary(reports: list[Report]) -> str:
    count = sum(len(report.findings) for report in reports)
    unexamined = [report.server for report in reports if report.unexamined]
    if not unexamined:
        return counted(count, "finding") if count else "all is well"
    found = counted(count, "finding") if count else "nothing wrong was found"
    return f"{found}; not, or not fully, examined: {', '.join(unexamined)}"


def _print(report: Report) -> None:
    lines = [f"{report.server} at {report.address}: {report.verdict}"]
    lines += [f"  {name:<22} {as_text(value)}" for name, value in report.facts.items()]
    lines += [f"  FINDING  {sentence}" for sentence in report.findings]
    lines += [f"  NOT EXAMINED  {sentence}" for sentence in report.unexamined]
    lines += [f"  note     {sentence}" for sentence in report.notes]
    write("\n".join(lines) + "\n")
