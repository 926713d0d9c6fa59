-- Ids that do not run out, rules that the database keeps by itself, and the index for the cars of
-- a user. A program written for version 1 goes on working, except that it can no longer store an
-- explicit NULL role.
--
-- Postgres writes both tables anew for the wider ids, and nobody can read them meanwhile. With
-- millions of rows that is for a maintenance window.

-- 64-bit ids: a serial ends at 2^31 - 1.
ALTER TABLE users ALTER COLUMN id TYPE BIGINT;
ALTER SEQUENCE users_id_seq AS BIGINT;
ALTER TABLE cars
    ALTER COLUMN id TYPE BIGINT,
    ALTER COLUMN owner_id TYPE BIGINT;
ALTER SEQUENCE cars_id_seq AS BIGINT;

-- Every user has a role.
UPDATE users SET role = 'employee' WHERE role IS NULL;
ALTER TABLE users
    ALTER COLUMN role SET DEFAULT 'employee',
    ALTER COLUMN role SET NOT NULL,
    ALTER COLUMN created_at SET DEFAULT CURRENT_DATE,
    ADD CONSTRAINT users_created_at_finite CHECK (isfinite(created_at)),
    ADD CONSTRAINT users_username_length CHECK (char_length(username) BETWEEN 1 AND 255);

-- A purchase that is repeated with its key gives the same car.
ALTER TABLE cars
    ADD COLUMN purchase_key UUID,
    ADD CONSTRAINT cars_purchase_key_key UNIQUE (purchase_key),
    ADD CONSTRAINT cars_model_length CHECK (char_length(model) BETWEEN 1 AND 255);

-- The cars of a user in order of purchase, and the foreign key's look-up when a user is deleted.
CREATE INDEX cars_owner_id_id_idx ON cars (owner_id, id);
