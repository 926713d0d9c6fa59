//! The statements, word for word those of the crate: `tests/benches.rs` compares them.
//! `benches/calls.rs` uses them too.

pub const GET_BY_USERNAME: &str =
    "SELECT id, username, created_at, role FROM users WHERE username = $1";

pub const OWNED_BY: &str = "SELECT id, model, owner_id FROM cars WHERE owner_id = $1 ORDER BY id";

pub const REGISTER: &str = "WITH existing AS (
        SELECT id, username, created_at, role FROM users WHERE username = $1
    ), stored AS (
        INSERT INTO users (username, created_at, role)
        SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM existing)
        ON CONFLICT (username) DO UPDATE SET username = EXCLUDED.username
        RETURNING id, username, created_at, role, xmax = 0 AS created
    )
    SELECT id, username, created_at, role, created FROM stored
    UNION ALL
    SELECT id, username, created_at, role, false FROM existing";

pub const BUY: &str = "INSERT INTO cars (model, owner_id)
    SELECT $1, id FROM users WHERE id = $2 FOR KEY SHARE
    RETURNING id, model, owner_id";

// Not one of the crate: what a service would write by hand. The crate's own checks every item.
pub const BUY_MANY: &str = "INSERT INTO cars (model, owner_id) \
     SELECT * FROM unnest($1::text[], $2::bigint[]) RETURNING id, model, owner_id";
