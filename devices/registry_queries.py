"""What the registry of scooters asks Postgres."""

from typing import Final

_SCOOTERS: Final = """
    SELECT s.scooter_id, s.vehicle_id, s.vehicle_type, s.tags, s.metadata, s.standing, s.generation,
        s.password_hash IS NOT NULL AS has_credential,
        s.registered_at, s.standing_at, s.credential_at, state.firmware
    FROM scooters s LEFT JOIN scooter_state state USING (scooter_id)
"""

GET: Final = f"{_SCOOTERS} WHERE s.scooter_id = $1"

FIND: Final = f"""{_SCOOTERS}
    WHERE s.scooter_id > $1
        AND ($2::text[] IS NULL OR s.tags @> $2)
        AND ($3::text[] IS NULL OR s.standing = ANY ($3))
        AND ($4::text[] IS NULL OR s.scooter_id = ANY ($4))
    ORDER BY s.scooter_id LIMIT $5
"""

# A tag has no space, and an array of arrays cannot be unnested.
ADD: Final = """
    INSERT INTO scooters (scooter_id, vehicle_id, vehicle_type, tags, metadata)
    SELECT scooter_id, vehicle_id, vehicle_type, string_to_array(tags, ' '), metadata::jsonb
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
        AS g (scooter_id, vehicle_id, vehicle_type, tags, metadata)
    ON CONFLICT DO NOTHING
    RETURNING scooter_id
"""

IN_THE_WAY: Final = """
    SELECT scooter_id, vehicle_id, standing FROM scooters
    WHERE lower(scooter_id) = ANY ($1) OR vehicle_id = ANY ($2)
"""

LOCKED_TAGS: Final = "SELECT tags FROM scooters WHERE scooter_id = $1 FOR UPDATE"

# Everybody locks in the order in which Python sorts: no two wait for each other in a ring.
LOCKED: Final = """
    SELECT scooter_id, standing, generation FROM scooters
    WHERE scooter_id = ANY ($1) ORDER BY scooter_id COLLATE "C" FOR UPDATE
"""

SET_STANDINGS: Final = """
    UPDATE scooters SET standing = $2, standing_at = now(),
        password_hash = CASE WHEN $2 <> 'retired' THEN password_hash END
    WHERE scooter_id = ANY ($1)
"""

ACTIVATE: Final = """
    UPDATE scooters s SET standing = 'active', standing_at = now()
    FROM unnest($1::text[], $2::integer[]) AS g (scooter_id, generation)
    WHERE s.scooter_id = g.scooter_id AND s.generation = g.generation
        AND s.standing = 'registered' AND s.password_hash IS NOT NULL
    RETURNING s.scooter_id
"""

# What came later is told by the audit's order; two rows of one instant are both later.
UNPROVED: Final = """
    WITH outside (kind, subject, since) AS (
        SELECT 'scooter', scooter_id, standing_at FROM scooters
        WHERE standing IN ('suspended', 'retired')
        UNION ALL
        SELECT 'key', login, standing_at FROM operator_keys WHERE standing = 'revoked'
    )
    SELECT subject FROM outside o
    WHERE o.kind = $1 AND NOT EXISTS (
        SELECT FROM access_audit a
        WHERE a.subject = o.subject AND a.kind = o.kind AND a.action = 'kept out'
            AND a.at >= o.since
    )
    ORDER BY subject
"""

# The last that was meant for it, among what decides.
BEGUN_REVOCATIONS: Final = """
    SELECT scooter_id FROM scooters s
    WHERE standing = 'suspended' AND password_hash IS NOT NULL AND 'revoke' = (
        SELECT action FROM access_audit a
        WHERE a.subject = s.scooter_id AND a.kind = 'scooter'
            AND action IN ('revoke', 'suspended', 'credential', 'active', 'registered')
        ORDER BY audit_id DESC LIMIT 1
    )
    ORDER BY scooter_id
"""

# Registered until the new secret is handed over, so that one that nobody has is found again.
SET_CREDENTIALS: Final = """
    UPDATE scooters s SET password_hash = g.hash, credential_at = now(),
        generation = s.generation + (g.hash IS NOT NULL)::int,
        standing = CASE WHEN s.scooter_id = ANY ($3) THEN 'registered' ELSE s.standing END,
        standing_at = CASE WHEN s.scooter_id = ANY ($3) THEN now() ELSE s.standing_at END
    FROM unnest($1::text[], $2::text[]) AS g (scooter_id, hash)
    WHERE s.scooter_id = g.scooter_id
    RETURNING s.scooter_id, s.generation
"""

HASHES: Final = """
    SELECT scooter_id, password_hash FROM scooters
    WHERE scooter_id = ANY ($1) AND password_hash IS NOT NULL
    UNION ALL
    SELECT login, password_hash FROM operator_keys
    WHERE login = ANY ($1) AND password_hash IS NOT NULL
"""

SET_TAGS: Final = "UPDATE scooters SET tags = $2 WHERE scooter_id = $1"

LOGINS: Final = """
    SELECT scooter_id, password_hash FROM scooters
    WHERE standing IN ('registered', 'active') AND password_hash IS NOT NULL
        AND ($1::text[] IS NULL OR scooter_id = ANY ($1))
    UNION ALL
    SELECT login, password_hash FROM operator_keys JOIN operators USING (operator)
    WHERE operator_keys.standing = 'active' AND operators.standing = 'active'
        AND ($1::text[] IS NULL OR login = ANY ($1))
    ORDER BY 1
"""
