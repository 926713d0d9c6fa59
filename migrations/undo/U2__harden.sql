-- loses cars.purchase_key: SELECT count(*) FROM cars WHERE purchase_key IS NOT NULL
--
-- Ids beyond the range of an integer make it fail, which changes nothing. Roles that were NULL
-- before version 2 stay 'employee'.

DROP INDEX cars_owner_id_id_idx;

ALTER TABLE cars
    DROP CONSTRAINT cars_model_length,
    DROP CONSTRAINT cars_purchase_key_key,
    DROP COLUMN purchase_key;

ALTER TABLE users
    DROP CONSTRAINT users_username_length,
    DROP CONSTRAINT users_created_at_finite,
    ALTER COLUMN created_at DROP DEFAULT,
    ALTER COLUMN role DROP NOT NULL,
    ALTER COLUMN role DROP DEFAULT;

ALTER TABLE cars
    ALTER COLUMN id TYPE INTEGER,
    ALTER COLUMN owner_id TYPE INTEGER;
ALTER SEQUENCE cars_id_seq AS INTEGER;
ALTER TABLE users ALTER COLUMN id TYPE INTEGER;
ALTER SEQUENCE users_id_seq AS INTEGER;
