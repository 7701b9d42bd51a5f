"""Every metric of the gateway, registered in one place; never a scooter id as a label."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

from gateway.links.delivery import Outcome

# A second series for each counter, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]

BATCH_SIZES = (1, 4, 16, 64, 256, 1024)
REJECT_REASONS = ("message", "unknown", "suspended", "retired", "request")
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
RESULT_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """One process's metrics. `service.py` makes one and passes it down."""

    def __init__(self) -> None:
        registry = CollectorRegistry(auto_describe=True)
        self.registry = registry
        self.ready = Gauge(
            "gateway_ready", "Whether /readyz says so: 1 or 0; a standby is not.", registry=registry
        )
        self.received = Counter(
            "gateway_deliveries_received", "Deliveries read from the broker.", registry=registry
        )
        self.deliveries = Counter(
            "gateway_deliveries",
            "Deliveries by how they ended: received = the sum of these + in flight.",
            ["outcome"],
            registry=registry,
        )
        for outcome in Outcome:  # so that each is there from the start, as 0
            self.deliveries.labels(outcome=outcome)
        self.in_flight = Gauge(
            "gateway_deliveries_in_flight", "Deliveries not settled yet.", registry=registry
        )
        self.oldest_unsettled_s = Gauge(
            "gateway_oldest_unsettled_seconds", "Age of the oldest unsettled.", registry=registry
        )
        self.connected = Gauge(
            "gateway_connected",
            "Whether a connection is up: 1 or 0.",
            ["connection"],
            registry=registry,
        )
        self.reconnects = Counter(
            "gateway_reconnects", "Connections made.", ["connection"], registry=registry
        )
        self.sessions_forgotten = Counter(
            "gateway_sessions_forgotten",
            "Times the broker no longer knew a session that should have been there.",
            ["session"],
            registry=registry,
        )
        self.batch_size = Histogram(
            "gateway_batch_size",
            "Deliveries in a batch.",
            ["session"],
            buckets=BATCH_SIZES,
            registry=registry,
        )
        self.advance_seconds = Histogram(
            "gateway_advance_seconds",
            "Time of one batch's round trip to Redis.",
            buckets=SECONDS,
            registry=registry,
        )
        self.dirty = Gauge(
            "gateway_dirty_scooters", "Scooters newer than their snapshot.", registry=registry
        )
        self.oldest_dirty_s = Gauge(
            "gateway_oldest_dirty_seconds", "Age of the oldest dirty mark.", registry=registry
        )
        self.snapshot_rows = Counter(
            "gateway_snapshot_rows", "Rows written to scooter_snapshots.", registry=registry
        )
        self.snapshot_seconds = Histogram(
            "gateway_snapshot_seconds",
            "Time to write one chunk of snapshots.",
            buckets=SECONDS,
            registry=registry,
        )
        self.history_entries = Gauge(
            "gateway_history_entries", "Entries in the history stream.", registry=registry
        )
        self.history_bytes = Gauge(
            "gateway_history_bytes", "Bytes in the history stream.", registry=registry
        )
        self.history_oldest_s = Gauge(
            "gateway_history_oldest_seconds", "Age of the oldest entry.", registry=registry
        )
        self.history_rows = Counter(
            "gateway_history_rows",
            "History entries taken into Postgres.",
            ["kind"],
            registry=registry,
        )
        self.history_dropped = Counter(
            "gateway_history_dropped",
            "Rejects and late reports dropped because the stream was full.",
            registry=registry,
        )
        self.receipts = Counter(
            "gateway_receipted_events", "Events named in receipts.", registry=registry
        )
        self.default_partition_rows = Gauge(
            "gateway_default_partition_rows",
            "Rows in a default partition: should be 0.",
            ["table"],
            registry=registry,
        )
        self.broker_dropped = Gauge(
            "gateway_broker_dropped_messages",
            "Messages the broker dropped since it started ($SYS).",
            registry=registry,
        )
        self.broker_refused_logins = Counter(
            "gateway_broker_refused_logins",
            "Logins that the broker refused while this instance listened. Each instance counts "
            "all of them: take the highest, not the sum.",
            registry=registry,
        )
        self.presence = Counter(
            "gateway_presence_changes", "Presence changes.", ["presence"], registry=registry
        )
        self.rejects = Counter(
            "gateway_rejects",
            "Deliveries rejected, by why: the scooter is unknown, suspended or retired, or the "
            "message or an operator's request cannot be used.",
            ["reason"],
            registry=registry,
        )
        for reason in REJECT_REASONS:
            self.rejects.labels(reason=reason)
        self.registry_scooters = Gauge(
            "gateway_registry_scooters", "Scooters in the registry as known.", registry=registry
        )
        self.registry_age_s = Gauge(
            "gateway_registry_age_seconds",
            "Time since Postgres last confirmed what is known of the registry.",
            registry=registry,
        )
        self.commands = Counter(
            "gateway_commands",
            "Moves of commands, by what they became; a repeated send counts as sent again.",
            ["command", "status"],
            registry=registry,
        )
        self.command_sent_seconds = Histogram(
            "gateway_command_sent_seconds",
            "From reading a request to the broker's PUBACK of its command.",
            buckets=SECONDS,
            registry=registry,
        )
        self.command_result_seconds = Histogram(
            "gateway_command_result_seconds",
            "From the first PUBACK of a command to the scooter's result.",
            buckets=RESULT_SECONDS,
            registry=registry,
        )
        self.commands_open = Gauge(
            "gateway_commands_open", "Commands that wait for an answer.", registry=registry
        )
        self.acks_foreign = Counter(
            "gateway_acks_foreign",
            "Acks for a command that the scooter was never sent.",
            registry=registry,
        )
        self.acks_without_effect = Counter(
            "gateway_acks_without_effect",
            "Acks that came again, or after the command's end.",
            registry=registry,
        )
        self.commands_retained = Counter(
            "gateway_commands_retained",
            "Retained messages seen on a command topic: there must be none.",
            registry=registry,
        )
        self.primary = Gauge(
            "gateway_primary",
            "Whether this instance carries events and control.",
            registry=registry,
        )

    def value(self, name: str, **labels: str) -> int:
        """What a counter or gauge says now, by the name that Prometheus sees."""
        return int(self.registry.get_sample_value(name, labels) or 0)

    def outcomes(self) -> dict[str, int]:
        """Deliveries by outcome."""
        return {
            sample.labels["outcome"]: int(sample.value)
            for family in self.deliveries.collect()
            for sample in family.samples
        }

    def is_balanced(self) -> bool:
        """Whether received = outcomes + in flight: each delivery ends in exactly one outcome."""
        in_flight = self.value("gateway_deliveries_in_flight")
        received = self.value("gateway_deliveries_received_total")
        return received == sum(self.outcomes().values()) + in_flight
