-- Who may get in: scooters, operators and their keys. Secrets are here as hashes only.
-- A row tells in `changed_in` which transaction wrote it last, so that a reader finds what
-- changed since its last snapshot; each statement tells the channel `registry`.
CREATE TABLE scooters (
    scooter_id text PRIMARY KEY
        CHECK (scooter_id ~ '^[A-Za-z0-9][A-Za-z0-9_-]{2,31}$'
            AND lower(scooter_id) NOT IN ('gateway', 'admin', 'canary')),
    vehicle_id text NOT NULL CHECK (length(vehicle_id) BETWEEN 1 AND 64),
    vehicle_type text NOT NULL,
    tags text[] NOT NULL DEFAULT '{}',
    metadata jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    standing text NOT NULL DEFAULT 'registered'
        CHECK (standing IN ('registered', 'active', 'suspended', 'retired')),
    generation integer NOT NULL DEFAULT 0 CHECK (generation >= 0),
    password_hash text
        CHECK (password_hash ~ '^\$7\$[0-9]+\$[A-Za-z0-9+/]+=*\$[A-Za-z0-9+/]+=*$'),
    registered_at timestamptz NOT NULL DEFAULT now(),
    standing_at timestamptz NOT NULL DEFAULT now(),
    credential_at timestamptz,
    changed_in xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT scooters_retired_without_credential
        CHECK (standing <> 'retired' OR password_hash IS NULL)
);
-- Ids that differ only in case are taken for one another on a sticker, on the phone and in logs.
CREATE UNIQUE INDEX scooters_by_id_whatever_the_case ON scooters (lower(scooter_id));
CREATE UNIQUE INDEX scooters_by_vehicle_id ON scooters (vehicle_id);
CREATE INDEX scooters_by_tags ON scooters USING gin (tags);
CREATE INDEX scooters_by_standing ON scooters (standing);
CREATE INDEX scooters_by_change ON scooters (changed_in);
COMMENT ON TABLE scooters IS
    'Every scooter that is known, also the retired: an id is never used again.';

CREATE TABLE operators (
    operator text PRIMARY KEY
        CHECK (operator ~ '^[a-z0-9][a-z0-9_-]{0,30}$'
            AND operator NOT IN ('gateway', 'admin', 'canary')),
    standing text NOT NULL DEFAULT 'active' CHECK (standing IN ('active', 'revoked')),
    registered_at timestamptz NOT NULL DEFAULT now(),
    standing_at timestamptz NOT NULL DEFAULT now(),
    changed_in xid8 NOT NULL DEFAULT pg_current_xact_id()
);
COMMENT ON TABLE operators IS 'The people and systems that send commands.';

CREATE TABLE operator_rights (
    operator text NOT NULL REFERENCES operators,
    command text NOT NULL,
    tag text NOT NULL,
    granted_at timestamptz NOT NULL DEFAULT now(),
    changed_in xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (operator, command, tag)
);
COMMENT ON TABLE operator_rights IS
    'Which commands an operator may send to scooters with which tag; * stands for any.';

CREATE TABLE operator_keys (
    login text PRIMARY KEY CHECK (login ~ '^[a-z0-9][a-z0-9_-]{0,30}\.[a-z0-9][a-z0-9_-]{0,30}$'),
    operator text NOT NULL REFERENCES operators CHECK (operator = split_part(login, '.', 1)),
    standing text NOT NULL DEFAULT 'active' CHECK (standing IN ('active', 'revoked')),
    generation integer NOT NULL DEFAULT 1 CHECK (generation >= 1),
    password_hash text
        CHECK (password_hash ~ '^\$7\$[0-9]+\$[A-Za-z0-9+/]+=*\$[A-Za-z0-9+/]+=*$'),
    registered_at timestamptz NOT NULL DEFAULT now(),
    credential_at timestamptz NOT NULL DEFAULT now(),
    standing_at timestamptz NOT NULL DEFAULT now(),
    changed_in xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT operator_keys_hash_while_active
        CHECK ((standing = 'active') = (password_hash IS NOT NULL))
);
CREATE INDEX operator_keys_by_operator ON operator_keys (operator);
COMMENT ON TABLE operator_keys IS 'Logins of operators; each is one connection.';

CREATE TABLE access_audit (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    done_by text NOT NULL,
    action text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('scooter', 'operator', 'key', 'broker')),
    subject text NOT NULL,
    reason text,
    detail jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX access_audit_by_subject ON access_audit (subject, audit_id);
COMMENT ON TABLE access_audit IS
    'Every change of who may get in, written with it. Kept for ever: a few rows a scooter.';

CREATE FUNCTION registry_row_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_in := pg_current_xact_id();
    RETURN NEW;
END $$;

-- Rows that are gone cannot be read as changed: the payload asks to read everything again.
CREATE FUNCTION registry_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('registry', CASE WHEN TG_OP IN ('DELETE', 'TRUNCATE') THEN 'whole' ELSE '' END);
    RETURN NULL;
END $$;

CREATE TRIGGER changed_in BEFORE INSERT OR UPDATE ON scooters
    FOR EACH ROW EXECUTE FUNCTION registry_row_changed();
CREATE TRIGGER changed_in BEFORE INSERT OR UPDATE ON operators
    FOR EACH ROW EXECUTE FUNCTION registry_row_changed();
CREATE TRIGGER changed_in BEFORE INSERT OR UPDATE ON operator_rights
    FOR EACH ROW EXECUTE FUNCTION registry_row_changed();
CREATE TRIGGER changed_in BEFORE INSERT OR UPDATE ON operator_keys
    FOR EACH ROW EXECUTE FUNCTION registry_row_changed();
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON scooters
    FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON operators
    FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON operator_rights
    FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON operator_keys
    FOR EACH STATEMENT EXECUTE FUNCTION registry_changed();

COMMENT ON COLUMN scooters.scooter_id IS 'identity of the scooter: its MQTT user name';
COMMENT ON COLUMN scooters.vehicle_id IS 'what is printed on it';
COMMENT ON COLUMN scooters.vehicle_type IS 'a vehicle type of MDS 2.0';
COMMENT ON COLUMN scooters.tags IS 'words to find it by, and to give rights by';
COMMENT ON COLUMN scooters.metadata IS 'whatever its owner wants to keep with it';
COMMENT ON COLUMN scooters.standing IS 'registered, active, suspended or retired';
COMMENT ON COLUMN scooters.generation IS 'grows with each credential; 0: it never had one';
COMMENT ON COLUMN scooters.password_hash IS 'of its secret, as Mosquitto checks it';
COMMENT ON COLUMN scooters.registered_at IS 'when it was made known';
COMMENT ON COLUMN scooters.standing_at IS 'since when it has this standing';
COMMENT ON COLUMN scooters.credential_at IS 'when its credential was last replaced or removed';
COMMENT ON COLUMN scooters.changed_in IS 'the transaction that wrote the row last';
COMMENT ON COLUMN operators.operator IS 'name of the operator';
COMMENT ON COLUMN operators.standing IS 'active or revoked';
COMMENT ON COLUMN operators.registered_at IS 'when it was made known first';
COMMENT ON COLUMN operators.standing_at IS 'since when it has this standing';
COMMENT ON COLUMN operators.changed_in IS 'the transaction that wrote the row last';
COMMENT ON COLUMN operator_rights.operator IS 'who may';
COMMENT ON COLUMN operator_rights.command IS 'name of a command, or * for any';
COMMENT ON COLUMN operator_rights.tag IS 'a tag that the scooter must have, or * for any scooter';
COMMENT ON COLUMN operator_rights.granted_at IS 'since when';
COMMENT ON COLUMN operator_rights.changed_in IS 'the transaction that wrote the row last';
COMMENT ON COLUMN operator_keys.login IS 'MQTT user name: operator, dot, name of the key';
COMMENT ON COLUMN operator_keys.operator IS 'whose key it is';
COMMENT ON COLUMN operator_keys.standing IS 'active or revoked';
COMMENT ON COLUMN operator_keys.generation IS 'grows with each secret';
COMMENT ON COLUMN operator_keys.password_hash IS 'of its secret, as Mosquitto checks it';
COMMENT ON COLUMN operator_keys.registered_at IS 'when the key was made first';
COMMENT ON COLUMN operator_keys.credential_at IS 'when its secret was last replaced';
COMMENT ON COLUMN operator_keys.standing_at IS 'since when it has this standing';
COMMENT ON COLUMN operator_keys.changed_in IS 'the transaction that wrote the row last';
COMMENT ON COLUMN access_audit.audit_id IS 'grows in the order of writing';
COMMENT ON COLUMN access_audit.at IS 'Postgres clock: when it was done';
COMMENT ON COLUMN access_audit.done_by IS 'who did it, as told';
COMMENT ON COLUMN access_audit.action IS 'what was done: add, active, suspended, credential, grant …';
COMMENT ON COLUMN access_audit.kind IS 'what the subject is: scooter, operator, key or broker';
COMMENT ON COLUMN access_audit.subject IS 'whom it was done to';
COMMENT ON COLUMN access_audit.reason IS 'why, as told';
COMMENT ON COLUMN access_audit.detail IS 'the rest: tags, rights, generation, evidence';
