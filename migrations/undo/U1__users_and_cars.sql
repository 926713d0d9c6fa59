-- loses users: SELECT count(*) FROM users
-- loses cars: SELECT count(*) FROM cars

DROP TABLE cars;
DROP TABLE users;
