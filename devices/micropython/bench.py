"""A scooter on the bench: `micropython bench.py BUNDLE FLASH_FOLDER [REPORT_S]`.

Its body is made of variables; in yours they are pins, a motor controller and a GNSS receiver.
"""

import sys

from flash import Flash, read_bundle
from scooter import Scooter

COMMANDS = (
    "unlock",
    "lock",
    "unlock_battery",
    "locate",
    "headlight",
    "alarm",
    "get_state",
    "reboot",
    "power_off",
    "set_report_interval",
)
"""All of the contract but a speed limit, which this body could not keep."""


class Body:
    """`group` tells one telemetry group, whole; `refuses` and `do` are for commands."""

    FIRMWARE = "1.0.0"

    def __init__(self):
        self.lock = "locked"
        self.speed_kmh = 0
        self.battery_percent = 80
        self.lit = {"headlight": False, "alarm": False}
        self.happened = []

    def group(self, name):
        if name == "position":
            return [("lat", 52520008), ("lon", 13404954), ("spd", self.speed_kmh)]
        if name == "battery":
            return [("batt", self.battery_percent), ("mv", 40700), ("chg", False)]
        if name == "lock":
            return [("lock", self.lock), ("tip", False)]
        return [("sig", -71), ("fw", self.FIRMWARE)]

    def refuses(self, command, params):
        """The `error` of a `rejected`, or None; nothing is begun."""
        if command not in COMMANDS:
            return "unknown_command"
        if not _are_good(command, params):
            return "bad_params"
        if command in ("lock", "reboot", "power_off") and self.speed_kmh > 0:
            return "moving"
        if command in ("unlock", "unlock_battery") and self.battery_percent < 5:
            return "low_battery"
        return None

    def do(self, command, params):
        """(status, error, groups that changed), when it is done."""
        if command in self.lit:
            self.lit[command] = params["on"]
        if command not in ("lock", "unlock"):
            return "success", None, ()
        if self.lock != command + "ed":
            self.lock = command + "ed"
            self.happened.append("trip_start" if command == "unlock" else "trip_end")
        return "success", None, ("lock",)


def _are_good(command, params):
    if not isinstance(params, dict):
        return False
    if command in ("headlight", "alarm"):
        return isinstance(params.get("on"), bool)
    if command == "set_report_interval":
        good = [isinstance(s, int) and 0 < s <= 86400 for s in params.values()]
        return good and all(good) and all(name in ("riding", "parked") for name in params)
    return True


def main(bundle, flash_folder, report_s="5"):
    scooter = Scooter(read_bundle(bundle), Body(), Flash(flash_folder), report_s=int(report_s))
    scooter.run()
    print("ended:", scooter.ended)  # on a board: machine.reset(), or deep sleep


main(*sys.argv[1:])
