-- Commands and every move of theirs. These tables are not partitioned: an operator's `ref`, a
-- request_id and "one open command for each scooter and actuator" are unique over all days, and
-- commands are few beside telemetry. What is older than SCOOTER_KEEP_COMMANDS_DAYS and closed is
-- deleted in small portions instead.

CREATE TABLE commands (
    request_id text PRIMARY KEY CHECK (request_id ~ '^[0-9a-f]{16}$'),
    issued bigint GENERATED ALWAYS AS IDENTITY,
    operator text NOT NULL,
    login text NOT NULL,
    ref text NOT NULL,
    content bytea NOT NULL,
    scooter_id text NOT NULL,
    command text NOT NULL,
    actuator text NOT NULL,
    params jsonb NOT NULL DEFAULT '{}',
    ttl_s double precision NOT NULL,
    requested_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    reason text,
    force boolean NOT NULL DEFAULT false,
    status text NOT NULL CHECK (status IN (
        'refused', 'queued', 'sent', 'received', 'succeeded', 'failed', 'rejected', 'timed_out',
        'expired', 'cancelled', 'superseded')),
    detail text,
    moves integer NOT NULL DEFAULT 1,
    moved_at timestamptz NOT NULL,
    n bigint,
    boot bigint,
    exp bigint,
    sends integer NOT NULL DEFAULT 0,
    next_send_at timestamptz,
    last_error text,
    lock_order text,
    correlation bytea,
    response_topic text,
    UNIQUE (login, ref)
) WITH (fillfactor = 70);  -- each row is written a few times within its first minute
CREATE UNIQUE INDEX commands_open ON commands (scooter_id, actuator)
    WHERE status IN ('queued', 'sent', 'received');
CREATE INDEX commands_unknown ON commands (moved_at) WHERE status = 'timed_out';
CREATE INDEX commands_by_issue ON commands (issued);
CREATE INDEX commands_by_time ON commands (received_at);
CREATE INDEX commands_by_scooter ON commands (scooter_id, issued);
CREATE INDEX commands_by_operator ON commands (operator, issued);
COMMENT ON TABLE commands IS
    'Every command that an operator asked for, also the refused ones, as it stands now.';

CREATE TABLE command_moves (
    request_id text NOT NULL REFERENCES commands ON DELETE CASCADE,
    number integer NOT NULL,
    at timestamptz NOT NULL,
    status text NOT NULL,
    detail text,
    done_by text NOT NULL,
    evidence jsonb NOT NULL DEFAULT '{}',
    move_id bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (request_id, number)
);
CREATE INDEX command_moves_by_time ON command_moves (at);
COMMENT ON TABLE command_moves IS
    'How each command came to where it is: never changed, written before anybody is told.';

CREATE TABLE command_replies (
    reply_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    correlation bytea,
    body json NOT NULL
);
COMMENT ON TABLE command_replies IS
    'Replies to operators that the broker has not taken yet, in the order they leave.';

CREATE TABLE command_numbers (
    scooter_id text PRIMARY KEY,
    n bigint NOT NULL
);
COMMENT ON TABLE command_numbers IS
    'The last issue number that each scooter was sent: a scooter obeys no lower one.';

COMMENT ON COLUMN commands.request_id IS 'our name of the command, on the wire and in replies';
COMMENT ON COLUMN commands.issued IS 'order in which they were recorded';
COMMENT ON COLUMN commands.operator IS 'who asked';
COMMENT ON COLUMN commands.login IS 'with which key';
COMMENT ON COLUMN commands.ref IS 'the operator''s name of the request, unique for its key';
COMMENT ON COLUMN commands.content IS 'SHA-256 of the request: the same ref with other content is refused';
COMMENT ON COLUMN commands.scooter_id IS 'identity of the scooter: its MQTT user name';
COMMENT ON COLUMN commands.actuator IS 'what it moves: a newer command for the same one supersedes it';
COMMENT ON COLUMN commands.params IS 'with defaults filled in; empty where they were refused';
COMMENT ON COLUMN commands.ttl_s IS 'seconds from the request until nobody may obey it any more';
COMMENT ON COLUMN commands.requested_at IS 'the operator''s clock: when it was asked for';
COMMENT ON COLUMN commands.received_at IS 'Postgres clock: when it was recorded';
COMMENT ON COLUMN commands.expires_at IS 'Postgres clock: it is not sent after this';
COMMENT ON COLUMN commands.reason IS 'why, in the operator''s words';
COMMENT ON COLUMN commands.force IS 'asked for in spite of an unknown or unlocked lock';
COMMENT ON COLUMN commands.detail IS 'why it stands so: a word, then a sentence';
COMMENT ON COLUMN commands.moves IS 'number of its last move';
COMMENT ON COLUMN commands.n IS 'issue number of its last send';
COMMENT ON COLUMN commands.boot IS 'boot of the scooter that it was sent to';
COMMENT ON COLUMN commands.exp IS 'uptime of the scooter in ms at which it expires';
COMMENT ON COLUMN commands.sends IS 'how often it was sent';
COMMENT ON COLUMN commands.next_send_at IS 'when it is sent again unless the scooter answers; NULL: not any more';
COMMENT ON COLUMN commands.last_error IS 'why the scooter rejected a try that is repeated';
COMMENT ON COLUMN commands.lock_order IS 'order of the lock''s state in Redis when it was sent: a newer one is evidence';
COMMENT ON COLUMN commands.correlation IS 'MQTT 5 correlation data of the request, for the replies';
COMMENT ON COLUMN commands.response_topic IS 'MQTT 5 response topic, under the key''s own replies';
COMMENT ON COLUMN command_moves.number IS 'from 1 without gaps';
COMMENT ON COLUMN command_moves.at IS 'Postgres clock';
COMMENT ON COLUMN command_moves.done_by IS 'an operator''s key, scooter:<id> or gateway:<instance>';
COMMENT ON COLUMN command_moves.evidence IS 'what it was judged by: the ack, the send, the state; never a position';
COMMENT ON COLUMN command_moves.move_id IS 'order in which moves were written, also of different commands';
COMMENT ON COLUMN command_replies.body IS 'the payload';
