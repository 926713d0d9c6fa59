-- The schema as the original application's migrations made it, names included, so that a database
-- made by it can be taken over at this version.

CREATE TABLE users (
    id SERIAL NOT NULL,
    username VARCHAR NOT NULL,
    created_at DATE NOT NULL,
    role VARCHAR,
    CONSTRAINT users_pkey PRIMARY KEY (id),
    CONSTRAINT users_username_key UNIQUE (username),
    CONSTRAINT role_types CHECK (role IN ('student', 'teacher', 'employee'))
);

CREATE TABLE cars (
    id SERIAL NOT NULL,
    model VARCHAR NOT NULL,
    owner_id INTEGER NOT NULL,
    CONSTRAINT cars_pkey PRIMARY KEY (id),
    CONSTRAINT cars_owner_id_fkey FOREIGN KEY (owner_id) REFERENCES users (id)
);
