"""A scooter on the bench: `micropython bench.py BUNDLE FLASH_FOLDER [REPORT_S]`.

Its body is made of variables; in yours they are pins, a motor controller and a GNSS receiver.
"""

import sys

from flash import Flash, read_bundle
from scooter import Scooter

PLAIN = ("get_state", "locate", "headlight", "alarm", "unlock_battery", "reboot", "power_off")


class Body:
    """`group` tells one telemetry group, whole; `do` obeys and tells which groups it changed."""

    FIRMWARE = "1.0.0"

    def __init__(self):
        self.lock = "locked"
        self.speed_kmh = 0
        self.battery_percent = 80
        self.happened = []

    def group(self, name):
        if name == "position":
            return [("lat", 52520008), ("lon", 13404954), ("spd", self.speed_kmh)]
        if name == "battery":
            return [("batt", self.battery_percent), ("mv", 40700), ("chg", False)]
        if name == "lock":
            return [("lock", self.lock), ("tip", False)]
        return [("sig", -71), ("fw", self.FIRMWARE)]

    def do(self, command, params):
        """(status, error, groups that changed)"""
        if command in ("lock", "reboot", "power_off") and self.speed_kmh > 0:
            return "rejected", "moving", ()
        if command in ("unlock", "unlock_battery") and self.battery_percent < 5:
            return "rejected", "low_battery", ()
        if command in ("lock", "unlock"):
            if self.lock != command + "ed":
                self.lock = command + "ed"
                self.happened.append("trip_start" if command == "unlock" else "trip_end")
            return "success", None, ("lock",)
        if command == "set_report_interval":
            return ("success", None, ()) if _are_seconds(params) else ("rejected", "bad_params", ())
        if command in PLAIN:
            return "success", None, ()
        return "rejected", "unknown_command", ()


def _are_seconds(params):
    if not isinstance(params, dict):
        return False
    good = [key for key in ("riding", "parked") if isinstance(params.get(key), int)]
    return len(good) == len(params) > 0 and all(params[key] > 0 for key in good)


def main(bundle, flash_folder, report_s="5"):
    scooter = Scooter(read_bundle(bundle), Body(), Flash(flash_folder), report_s=int(report_s))
    scooter.run()
    print("ended:", scooter.ended)  # on a board: machine.reset(), or deep sleep


main(*sys.argv[1:])
