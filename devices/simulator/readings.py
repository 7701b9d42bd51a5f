"""What a scooter measures, as the groups of its telemetry."""

import random

from devices.simulator.model import Model
from devices.simulator.ride import Ride

Fields = dict[str, object]


def read_group(name: str, ride: Ride, model: Model, rng: random.Random, *, fix: bool) -> Fields:
    """One telemetry group, whole; without a `fix` its position is what many receivers print."""
    match name:
        case "position":
            return _position(ride, rng) if fix else {"lat": 0, "lon": 0}
        case "battery":
            return {
                "batt": round(ride.battery_percent),
                "mv": ride.battery_mv,
                "rng": ride.range_m,
                "chg": False,
                "bid": ride.battery_id,
            }
        case "lock":
            return {"lock": ride.lock, "tip": ride.tipped_over}
    return {"odo": round(ride.odometer_m), "sig": rng.randint(-108, -61), "fw": model.version}


def _position(ride: Ride, rng: random.Random) -> Fields:
    where = ride.position
    return {
        "lat": round(where.lat, 6),
        "lon": round(where.lon, 6),
        "acc": round(rng.uniform(2.5, 9), 1),
        "spd": round(ride.speed_kmh, 1),
        "hdg": round(ride.street.heading_deg),
    }
