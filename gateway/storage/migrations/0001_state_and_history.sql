-- Every time is UTC; `received_*` and `stored_at` are our clocks, `recorded_*` the scooter's.

CREATE TABLE scooter_state (
    scooter_id text PRIMARY KEY,
    version bigint NOT NULL,
    received_at timestamptz,
    recorded_at timestamptz,
    uptime_ms bigint,
    interval_s double precision,
    boot bigint,
    lat double precision,
    lon double precision,
    accuracy_m double precision,
    speed_kmh double precision,
    heading_deg double precision,
    position_at timestamptz,
    battery_percent double precision,
    battery_mv double precision,
    range_m double precision,
    charging boolean,
    battery_id text,
    battery_at timestamptz,
    lock text,
    tipped_over boolean,
    lock_at timestamptz,
    odometer_m double precision,
    signal_dbm double precision,
    firmware text,
    device_at timestamptz,
    presence text,
    presence_at timestamptz,
    wake_s double precision,
    stored_at timestamptz NOT NULL DEFAULT now(),
    fields jsonb NOT NULL
) WITH (fillfactor = 50);  -- room on the page for the next version of each row, once a period
COMMENT ON TABLE scooter_state IS
    'Latest known state of each scooter, at most one snapshot period behind Redis; a NULL is unknown.';

CREATE TABLE scooter_snapshots (
    scooter_id text NOT NULL,
    period_start timestamptz NOT NULL,
    version bigint NOT NULL,
    received_at timestamptz,
    recorded_at timestamptz,
    position_at timestamptz,
    lat double precision,
    lon double precision,
    accuracy_m double precision,
    speed_kmh double precision,
    heading_deg double precision,
    battery_at timestamptz,
    battery_percent double precision,
    battery_mv double precision,
    range_m double precision,
    charging boolean,
    battery_id text,
    lock_at timestamptz,
    lock text,
    tipped_over boolean,
    device_at timestamptz,
    odometer_m double precision,
    signal_dbm double precision,
    firmware text,
    presence text,
    presence_at timestamptz,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scooter_id, period_start)
) PARTITION BY RANGE (period_start);
CREATE TABLE scooter_snapshots_default PARTITION OF scooter_snapshots DEFAULT;
COMMENT ON TABLE scooter_snapshots IS
    'State of each scooter that changed in a period, as it stood at the period''s end: at most one row a scooter and period. Partitioned by day (UTC); old days are dropped.';

CREATE TABLE scooter_events (
    scooter_id text NOT NULL,
    event_id text NOT NULL,
    event_type text NOT NULL,
    recorded_at timestamptz,
    received_at timestamptz NOT NULL,
    boot bigint,
    seq bigint,
    lat double precision,
    lon double precision,
    detail text,
    stored_at timestamptz NOT NULL DEFAULT now()
) PARTITION BY RANGE (received_at);
CREATE TABLE scooter_events_default PARTITION OF scooter_events DEFAULT;
CREATE INDEX scooter_events_by_scooter ON scooter_events (scooter_id, received_at);
COMMENT ON TABLE scooter_events IS
    'What happened once and is never lost: one row for each event id of a scooter, however often it was sent.';

CREATE TABLE late_reports (
    scooter_id text NOT NULL,
    recorded_at timestamptz,
    received_at timestamptz NOT NULL,
    boot bigint,
    seq bigint,
    lat double precision,
    lon double precision,
    body jsonb NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now()
) PARTITION BY RANGE (received_at);
CREATE TABLE late_reports_default PARTITION OF late_reports DEFAULT;
CREATE INDEX late_reports_by_scooter ON late_reports (scooter_id, received_at);
COMMENT ON TABLE late_reports IS
    'Reports that were older than the state when they came, and samples of re-sent batches.';

CREATE TABLE rejects (
    day date NOT NULL,
    hash bytea NOT NULL,
    scooter_id text,
    topic text NOT NULL,
    reason text NOT NULL,
    head bytea NOT NULL,
    size integer NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (day, hash)
) PARTITION BY RANGE (day);
CREATE TABLE rejects_default PARTITION OF rejects DEFAULT;
CREATE INDEX rejects_by_time ON rejects (last_at);
COMMENT ON TABLE rejects IS
    'Messages nobody could use; identical ones of a day (UTC) are one row with a count.';

CREATE TABLE history_keys (
    scooter_id text NOT NULL,
    key text NOT NULL,
    received_on date NOT NULL,
    PRIMARY KEY (scooter_id, key)
);
CREATE INDEX history_keys_by_day ON history_keys (received_on);
COMMENT ON TABLE history_keys IS
    'What is stored already, so that a message that is sent again is not stored again.';

CREATE TABLE history_cursor (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    life text NOT NULL DEFAULT '',
    last_id text NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO history_cursor (last_id) VALUES ('0-0');
COMMENT ON TABLE history_cursor IS
    'One row: the last entry of the Redis stream scooters:history that is stored here.';

COMMENT ON COLUMN scooter_state.scooter_id IS 'identity of the scooter: its MQTT user name';
COMMENT ON COLUMN scooter_state.version IS 'version of the state in Redis: grows with each change, never used twice';
COMMENT ON COLUMN scooter_state.received_at IS 'our clock: when the newest report was received';
COMMENT ON COLUMN scooter_state.recorded_at IS 'the scooter''s clock at its newest report; NULL when it told none';
COMMENT ON COLUMN scooter_state.uptime_ms IS 'milliseconds since the scooter booted, at received_at';
COMMENT ON COLUMN scooter_state.interval_s IS 'seconds until the scooter''s next report, as it said';
COMMENT ON COLUMN scooter_state.boot IS 'the scooter''s boot counter';
COMMENT ON COLUMN scooter_state.lat IS 'degrees north, WGS 84';
COMMENT ON COLUMN scooter_state.lon IS 'degrees east, WGS 84';
COMMENT ON COLUMN scooter_state.accuracy_m IS 'metres';
COMMENT ON COLUMN scooter_state.speed_kmh IS 'kilometres an hour';
COMMENT ON COLUMN scooter_state.heading_deg IS 'degrees clockwise from north';
COMMENT ON COLUMN scooter_state.position_at IS 'when the position was measured';
COMMENT ON COLUMN scooter_state.battery_percent IS 'state of charge, 0 to 100';
COMMENT ON COLUMN scooter_state.battery_mv IS 'millivolts';
COMMENT ON COLUMN scooter_state.range_m IS 'metres left';
COMMENT ON COLUMN scooter_state.charging IS 'whether the battery charges';
COMMENT ON COLUMN scooter_state.battery_id IS 'serial of the battery';
COMMENT ON COLUMN scooter_state.battery_at IS 'when the battery was measured';
COMMENT ON COLUMN scooter_state.lock IS 'locked, unlocked, moving or jammed';
COMMENT ON COLUMN scooter_state.tipped_over IS 'whether the scooter lies on its side';
COMMENT ON COLUMN scooter_state.lock_at IS 'when the lock was measured';
COMMENT ON COLUMN scooter_state.odometer_m IS 'metres ridden since it was made';
COMMENT ON COLUMN scooter_state.signal_dbm IS 'dBm of the mobile network';
COMMENT ON COLUMN scooter_state.firmware IS 'firmware version';
COMMENT ON COLUMN scooter_state.device_at IS 'when odometer, signal and firmware were measured';
COMMENT ON COLUMN scooter_state.presence IS 'online, stale, sleeping, offline or lost';
COMMENT ON COLUMN scooter_state.presence_at IS 'since when';
COMMENT ON COLUMN scooter_state.wake_s IS 'seconds until a sleeping scooter wakes, as it said';
COMMENT ON COLUMN scooter_state.stored_at IS 'Postgres clock: when this row was written';
COMMENT ON COLUMN scooter_state.fields IS 'fields of the Redis hash that have no column here: for refilling Redis';
COMMENT ON COLUMN scooter_snapshots.scooter_id IS 'identity of the scooter: its MQTT user name';
COMMENT ON COLUMN scooter_snapshots.period_start IS 'our clock: start of the snapshot period';
COMMENT ON COLUMN scooter_snapshots.version IS 'version of the state in Redis: grows with each change, never used twice';
COMMENT ON COLUMN scooter_snapshots.received_at IS 'our clock: when the newest report was received';
COMMENT ON COLUMN scooter_snapshots.recorded_at IS 'the scooter''s clock at its newest report; NULL when it told none';
COMMENT ON COLUMN scooter_snapshots.position_at IS 'when the position was measured';
COMMENT ON COLUMN scooter_snapshots.lat IS 'degrees north, WGS 84';
COMMENT ON COLUMN scooter_snapshots.lon IS 'degrees east, WGS 84';
COMMENT ON COLUMN scooter_snapshots.accuracy_m IS 'metres';
COMMENT ON COLUMN scooter_snapshots.speed_kmh IS 'kilometres an hour';
COMMENT ON COLUMN scooter_snapshots.heading_deg IS 'degrees clockwise from north';
COMMENT ON COLUMN scooter_snapshots.battery_at IS 'when the battery was measured';
COMMENT ON COLUMN scooter_snapshots.battery_percent IS 'state of charge, 0 to 100';
COMMENT ON COLUMN scooter_snapshots.battery_mv IS 'millivolts';
COMMENT ON COLUMN scooter_snapshots.range_m IS 'metres left';
COMMENT ON COLUMN scooter_snapshots.charging IS 'whether the battery charges';
COMMENT ON COLUMN scooter_snapshots.battery_id IS 'serial of the battery';
COMMENT ON COLUMN scooter_snapshots.lock_at IS 'when the lock was measured';
COMMENT ON COLUMN scooter_snapshots.lock IS 'locked, unlocked, moving or jammed';
COMMENT ON COLUMN scooter_snapshots.tipped_over IS 'whether the scooter lies on its side';
COMMENT ON COLUMN scooter_snapshots.device_at IS 'when odometer, signal and firmware were measured';
COMMENT ON COLUMN scooter_snapshots.odometer_m IS 'metres ridden since it was made';
COMMENT ON COLUMN scooter_snapshots.signal_dbm IS 'dBm of the mobile network';
COMMENT ON COLUMN scooter_snapshots.firmware IS 'firmware version';
COMMENT ON COLUMN scooter_snapshots.presence IS 'online, stale, sleeping, offline or lost';
COMMENT ON COLUMN scooter_snapshots.presence_at IS 'since when';
COMMENT ON COLUMN scooter_snapshots.stored_at IS 'Postgres clock: when this row was written';
COMMENT ON COLUMN scooter_events.scooter_id IS 'identity of the scooter: its MQTT user name';
COMMENT ON COLUMN scooter_events.event_id IS 'the scooter''s own id of the event';
COMMENT ON COLUMN scooter_events.event_type IS 'what happened, e.g. fall, tamper, trip_start';
COMMENT ON COLUMN scooter_events.recorded_at IS 'the scooter''s clock: when it measured; NULL when it told none';
COMMENT ON COLUMN scooter_events.received_at IS 'our clock: when the gateway received it';
COMMENT ON COLUMN scooter_events.boot IS 'the scooter''s boot counter';
COMMENT ON COLUMN scooter_events.seq IS 'the scooter''s message counter within a boot';
COMMENT ON COLUMN scooter_events.lat IS 'degrees north, WGS 84';
COMMENT ON COLUMN scooter_events.lon IS 'degrees east, WGS 84';
COMMENT ON COLUMN scooter_events.detail IS 'short text or code';
COMMENT ON COLUMN scooter_events.stored_at IS 'Postgres clock: when this row was written';
COMMENT ON COLUMN late_reports.scooter_id IS 'identity of the scooter: its MQTT user name';
COMMENT ON COLUMN late_reports.recorded_at IS 'the scooter''s clock: when it measured; NULL when it told none';
COMMENT ON COLUMN late_reports.received_at IS 'our clock: when the gateway received it';
COMMENT ON COLUMN late_reports.boot IS 'the scooter''s boot counter';
COMMENT ON COLUMN late_reports.seq IS 'the scooter''s message counter within a boot';
COMMENT ON COLUMN late_reports.lat IS 'degrees north, WGS 84';
COMMENT ON COLUMN late_reports.lon IS 'degrees east, WGS 84';
COMMENT ON COLUMN late_reports.body IS 'the report with the short names of the wire';
COMMENT ON COLUMN late_reports.stored_at IS 'Postgres clock: when this row was written';
COMMENT ON COLUMN rejects.day IS 'UTC day of first_at';
COMMENT ON COLUMN rejects.hash IS 'SHA-256 over topic, reason and head';
COMMENT ON COLUMN rejects.scooter_id IS 'whose topic it came on; NULL when the topic names no scooter';
COMMENT ON COLUMN rejects.topic IS 'MQTT topic it came on';
COMMENT ON COLUMN rejects.reason IS 'why nobody could use it';
COMMENT ON COLUMN rejects.head IS 'first 256 bytes of the payload';
COMMENT ON COLUMN rejects.size IS 'bytes of the whole payload';
COMMENT ON COLUMN rejects.first_at IS 'our clock: first time that day';
COMMENT ON COLUMN rejects.last_at IS 'our clock: last time that day';
COMMENT ON COLUMN rejects.count IS 'how often that day';
COMMENT ON COLUMN history_keys.scooter_id IS 'identity of the scooter: its MQTT user name';
COMMENT ON COLUMN history_keys.key IS 'e:<event id>, s:<boot>:<seq> or h:<hash>';
COMMENT ON COLUMN history_keys.received_on IS 'UTC day of the first copy';
COMMENT ON COLUMN history_cursor.last_id IS 'id of the stream entry';
COMMENT ON COLUMN history_cursor.moved_at IS 'when the cursor moved';
COMMENT ON COLUMN history_cursor.life IS 'which life of the stream last_id belongs to: another one begins when Redis was emptied';
