"""What a scooter keeps over a reboot: its boot counter, its events, and the bundle; MicroPython."""

import json
import os


class Flash:
    """A folder that survives a reboot: the boot counter, and a file for each event."""

    def __init__(self, folder):
        self._folder = folder
        self._make(folder)
        self._make(folder + "/events")

    def count_boot(self):
        try:
            with open(self._folder + "/boot") as file:
                boot = int(file.read()) + 1
        except (OSError, ValueError):
            # Not 1: an earlier life may have used it, for commands and for the ids of its events.
            boot = 1 + int.from_bytes(os.urandom(3), "big")
        self._write(self._folder + "/boot", str(boot))
        return boot

    def keep(self, event_id, payload):
        self._write("%s/events/%s" % (self._folder, event_id), payload.decode())

    def read(self, event_id):
        try:
            with open("%s/events/%s" % (self._folder, event_id)) as file:
                return file.read().encode()
        except OSError:
            return None

    def forget(self, event_ids):
        """Exactly these; a receipt may name events that are gone."""
        for event_id in self.kept():
            if isinstance(event_ids, list) and event_id in event_ids:
                os.remove("%s/events/%s" % (self._folder, event_id))

    def kept(self):
        """Their ids, oldest first."""
        names = [name for name in os.listdir(self._folder + "/events") if not name.endswith(".new")]
        return sorted(names, key=lambda name: [int(part) for part in name.split("-")])

    def _write(self, path, text):
        # Renamed when it is complete: a power cut leaves the old file or the new one.
        with open(path + ".new", "w") as file:
            file.write(text)
        os.rename(path + ".new", path)

    def _make(self, folder):
        try:
            os.mkdir(folder)
        except OSError:  # it is there
            pass


def read_bundle(path):
    """What was handed over: one JSON file, or a folder with `bundle.json` and `authority.crt`."""
    try:
        with open(path + "/bundle.json") as file:
            bundle = json.load(file)
        with open(path + "/authority.crt") as file:
            bundle["authority"] = file.read()
    except OSError:
        with open(path) as file:
            bundle = json.load(file)
    return bundle
