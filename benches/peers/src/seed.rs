//! The rows that every run starts with, and what is known of them.

use chrono::{Days, NaiveDate};
use motorpool::{Car, CarId, Role, User, UserId};

pub const USERS: i64 = 100_000;
pub const CARS_OF_EACH: i64 = 3;

/// Users 1 to 100 000 with three cars each, numbered in order.
pub fn sql() -> String {
    let cars = USERS * CARS_OF_EACH;
    format!(
        "INSERT INTO users (id, username, created_at, role)
        SELECT n, 'user-' || n, date '2024-01-01' + n % 365,
            (ARRAY['student', 'teacher', 'employee'])[1 + n % 3]
        FROM generate_series(1, {USERS}) n;
        INSERT INTO cars (id, model, owner_id)
        SELECT (n - 1) * {CARS_OF_EACH} + k, 'model-' || k, n
        FROM generate_series(1, {USERS}) n, generate_series(1, {CARS_OF_EACH}) k
        ORDER BY n, k;
        SELECT setval('users_id_seq', {USERS}), setval('cars_id_seq', {cars});"
    )
}

/// Removes what was added since. Triggers are off, or each user would be looked for in the cars.
pub fn undo() -> String {
    let cars = USERS * CARS_OF_EACH;
    format!(
        "BEGIN;
        SET LOCAL session_replication_role = replica;
        DELETE FROM cars WHERE id > {cars};
        DELETE FROM users WHERE id > {USERS};
        COMMIT;"
    )
}

pub fn username(id: i64) -> String {
    format!("user-{id}")
}

/// A seeded user, as the database must give it.
pub fn user(id: i64) -> User {
    let first = NaiveDate::from_ymd_opt(2024, 1, 1).unwrap_or_default();
    let roles = [Role::Student, Role::Teacher, Role::Employee];
    User {
        id: UserId::new(id),
        username: username(id),
        created_at: first + Days::new((id % 365).unsigned_abs()),
        role: roles[usize::try_from(id % 3).unwrap_or(0)],
    }
}

/// The cars of a seeded user, in order.
pub fn cars(owner: i64) -> Vec<Car> {
    (1..=CARS_OF_EACH)
        .map(|k| Car {
            id: CarId::new((owner - 1) * CARS_OF_EACH + k),
            model: format!("model-{k}"),
            owner_id: UserId::new(owner),
        })
        .collect()
}
