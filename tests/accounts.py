"""The account with which one connection of the tests speaks for many scooters and operators."""

import os
from typing import Final, NamedTuple


class Login(NamedTuple):
    """An account at the broker."""

    username: str
    password: str


LOAD: Final = Login("load", os.environ.get("SCOOTER_TEST_LOAD_PASSWORD", "only-for-tests"))
"""Known to every broker under test, and to no other: nothing in `broker/` names it."""

LOAD_ACL: Final = """
user load
topic readwrite scooters/#
topic readwrite operators/#
topic read gateway/+/status
"""
"""What is appended to the shipped access list for it."""
