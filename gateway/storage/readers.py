"""What backend developers may read: user `reader` in Redis, role `scooter_reader` in Postgres."""

from typing import Final

REDIS_READER: Final = "reader"
"""The user of Redis for backend developers."""

POSTGRES_READER: Final = "scooter_reader"
"""The role of Postgres for backend developers; whoever runs the server makes it."""

REDIS_READER_RIGHTS: Final = (
    "resetkeys %R~scooter:* %R~scooters:last_seen %R~scooters:position "
    "resetchannels &scooters:changes "
    "-@all +@read +@connection +@transaction "
    "+subscribe +unsubscribe +psubscribe +punsubscribe +time +acl|whoami "
    # These tell names of keys, whatever the keys above are.
    "-@dangerous -scan -randomkey -client|tracking"
)
"""The part of `user reader on >SECRET …` after the password: states, the two indexes and the
channel of changes; not the history stream, leases or copies of the gateway."""
