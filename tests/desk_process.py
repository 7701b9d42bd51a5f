"""One verb of provisioning as a process of its own, that dies by SIGKILL at a step.

Run as `python -m tests.desk_process ADDRESS STEP VERB FOLDER SUBJECT…`; ADDRESS is a file.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from devices.bundle_places import FolderPlace
from devices.import_file import read_import
from devices.importing import Import
from devices.scooters import NewScooter
from tests.desk import BY, Address, Desk, Dying, open_desk


async def main(address: Address, step: str, verb: str, folder: str, *subjects: str) -> None:
    place: Any = Dying(FolderPlace(Path(folder)), step)
    async with open_desk(address, wrapped=lambda target: Dying(target, step)) as desk:
        for subject in subjects:
            await _do(desk, verb, subject, place)


async def _do(desk: Desk, verb: str, subject: str, place: Any) -> None:  # noqa: ANN401 - a stand-in
    match verb:
        case "add":
            await desk.provisioning.add(NewScooter(subject), by=BY, place=place)
        case "rotate":
            await desk.provisioning.rotate(subject, by=BY, place=place)
        case "import":
            rows = read_import(Path(subject))
            async for result in Import(desk.provisioning, rows, place=place, by=BY):
                sys.stdout.write(f"{result.outcome} {result.scooter_id}\n")
                sys.stdout.flush()
        case _:
            await getattr(desk.provisioning, verb)(subject, by=BY)


if __name__ == "__main__":
    file, *arguments = sys.argv[1:]
    asyncio.run(main(Address(**json.loads(Path(file).read_text())), *arguments))
