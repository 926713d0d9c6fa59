//! The schema and how it is brought up to date.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod support;
mod watch;

use std::time::{Duration, Instant};

use motorpool::{Error, MigrationReport, Migrator, NewCar, NewUser, PgStore, Store, UserId};
use support::{with_database, with_empty_database};
use tokio::task::JoinSet;
use watch::Watch;

const V1: &str = include_str!("../migrations/V1__users_and_cars.sql");

const HISTORY: &str = "SELECT count(*) FROM motorpool_schema_history";

fn versions(report: &MigrationReport) -> Vec<u32> {
    report.applied().iter().map(|one| one.version).collect()
}

/// Sets the database back to version 1.
async fn go_back(watch: &Watch) {
    watch.run("DROP TABLE cars, users").await;
    watch
        .run("DELETE FROM motorpool_schema_history WHERE version > 1")
        .await;
    watch.run(V1).await;
}

#[tokio::test]
async fn an_empty_database_gets_all_and_then_nothing() {
    with_empty_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        let report = store.migrate().await.unwrap();
        assert_eq!((versions(&report), report.version()), (vec![1, 2], 2));
        assert!(report.applied().iter().all(|one| !one.name.is_empty()));
        let again = store.migrate().await.unwrap();
        assert_eq!((versions(&again), again.version()), (vec![], 2));
        assert_eq!(watch.number(HISTORY).await, 2);
        let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1";
        assert_eq!(
            watch.texts(tables).await,
            ["cars", "motorpool_schema_history", "users"]
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_8_at_once_each_version_is_applied_by_one() {
    with_empty_database(async |database| {
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let url = database.url.clone();
            tasks.spawn(async move {
                let store = PgStore::connect(&url).await.unwrap();
                motorpool::migrate(store.pool()).await
            });
        }
        let mut applied = Vec::new();
        for report in tasks.join_all().await {
            let report = report.unwrap();
            assert_eq!(report.version(), 2);
            applied.extend(versions(&report));
        }
        applied.sort_unstable();
        assert_eq!(applied, [1, 2]);
        let watch = Watch::new(&database).await;
        assert_eq!(watch.number(HISTORY).await, 2);
    })
    .await;
}

#[tokio::test]
async fn the_hosts_own_history_is_left_alone() {
    with_empty_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        watch
            .run(
                "CREATE TABLE refinery_schema_history (
                     version int4 PRIMARY KEY, name varchar, applied_on varchar, checksum varchar);
                 INSERT INTO refinery_schema_history
                 VALUES (1, 'of_the_host', '2026-01-01T00:00:00Z', '1')",
            )
            .await;
        let report = store.migrate().await.unwrap();
        assert_eq!(versions(&report), [1, 2]);
        let rows = "SELECT version || ' ' || name || ' ' || checksum FROM refinery_schema_history";
        assert_eq!(watch.texts(rows).await, ["1 of_the_host 1"]);
    })
    .await;
}

#[tokio::test]
async fn no_lock_and_no_setting_stays_behind() {
    with_empty_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        let settings = "SELECT current_setting('lock_timeout') || ' ' ||
            current_setting('statement_timeout') || ' ' ||
            current_setting('client_min_messages')";
        // Two connections, of which the migration takes one.
        let (one, other) = (store.pool().get().await, store.pool().get().await);
        let before: String = one.unwrap().query_one(settings, &[]).await.unwrap().get(0);
        drop(other.unwrap());
        store.migrate().await.unwrap();
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        assert_eq!(watch.number(locks).await, 0);
        let (one, other) = (store.pool().get().await, store.pool().get().await);
        for client in [one.unwrap(), other.unwrap()] {
            let after: String = client.query_one(settings, &[]).await.unwrap().get(0);
            assert_eq!(after, before);
        }
        assert_eq!(before, "0 9500ms notice");
    })
    .await;
}

/// A migration takes as long as it takes, whatever its database has set.
#[tokio::test]
async fn no_limit_of_the_database_ends_a_migration() {
    with_empty_database(async |database| {
        let watch = Watch::new(&database).await;
        let limits = "SELECT name FROM pg_settings WHERE name IN ('statement_timeout',
            'transaction_timeout', 'idle_session_timeout', 'idle_in_transaction_session_timeout')";
        let limits = watch.texts(limits).await;
        // One of them came with version 17.
        let version = watch.number("SELECT current_setting('server_version_num')::bigint");
        let known = if version.await >= 170_000 { 4 } else { 3 };
        assert_eq!(limits.len(), known);
        for limit in limits {
            let name = &database.name;
            watch
                .run(&format!("ALTER DATABASE \"{name}\" SET {limit} = '100ms'"))
                .await;
        }
        let store = PgStore::connect(&database.url).await.unwrap();
        let slow = Migrator::new().with_migration("V3__slow", "SELECT pg_sleep(0.5)");
        let report = slow.unwrap().up(store.pool()).await.unwrap();
        assert_eq!(versions(&report), [1, 2, 3]);
    })
    .await;
}

/// Should the machine of a migrator vanish, the server lets go of the tables by itself.
#[tokio::test]
async fn a_migrator_that_is_gone_is_noticed() {
    with_empty_database(async |database| {
        let watch = Watch::new(&database).await;
        watch
            .run(
                "CREATE TABLE motorpool_schema_history (version int4 PRIMARY KEY,
                    name varchar(255), applied_on varchar(255), checksum varchar(255));
                CREATE TABLE seen (setting text);
                CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    INSERT INTO seen SELECT name || ' ' || setting FROM pg_settings WHERE name IN
                        ('client_connection_check_interval', 'idle_in_transaction_session_timeout',
                         'tcp_keepalives_count', 'tcp_keepalives_idle', 'tcp_keepalives_interval',
                         'tcp_user_timeout');
                    RETURN NEW;
                END $$;
                CREATE TRIGGER look BEFORE INSERT ON motorpool_schema_history
                    FOR EACH ROW EXECUTE FUNCTION look()",
            )
            .await;
        let store = PgStore::connect(&database.url).await.unwrap();
        store.migrate().await.unwrap();
        let seen = watch
            .texts("SELECT DISTINCT setting FROM seen ORDER BY 1")
            .await;
        // On a Unix socket there is none of the last ones.
        let tcp = watch
            .number("SELECT count(inet_client_addr()) FROM (SELECT) one")
            .await
            == 1;
        let [count, idle, interval, timeout] = if tcp { [3, 10, 3, 20_000] } else { [0; 4] };
        let wanted = [
            "client_connection_check_interval 1000".to_owned(),
            "idle_in_transaction_session_timeout 60000".to_owned(),
            format!("tcp_keepalives_count {count}"),
            format!("tcp_keepalives_idle {idle}"),
            format!("tcp_keepalives_interval {interval}"),
            format!("tcp_user_timeout {timeout}"),
        ];
        assert_eq!(seen, wanted);
    })
    .await;
}

/// Adds the history of a later program's migration.
async fn add_later(watch: &Watch, version: u32) {
    let row = format!(
        "INSERT INTO motorpool_schema_history
         VALUES ({version}, 'later', '2026-01-01T00:00:00Z', '4711')"
    );
    watch.run(&row).await;
}

#[tokio::test]
async fn a_database_that_is_ahead_is_left_as_it_is() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        add_later(&watch, 99).await;
        let report = store.migrate().await.unwrap();
        assert_eq!((versions(&report), report.version()), (vec![], 99));
        assert_eq!(watch.number(HISTORY).await, 3);
    })
    .await;
}

#[tokio::test]
async fn the_version_is_that_of_the_last_migration_ahead() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        for version in [98, 99] {
            add_later(&watch, version).await;
        }
        let report = store.migrate().await.unwrap();
        assert_eq!((versions(&report), report.version()), (vec![], 99));
    })
    .await;
}

#[tokio::test]
async fn a_migration_that_was_changed_is_an_error() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        watch
            .run("UPDATE motorpool_schema_history SET checksum = '4711' WHERE version = 2")
            .await;
        let error = store.migrate().await.expect_err("another migration");
        assert!(matches!(error, Error::Migration { .. }), "{error:?}");
        assert!(error.to_string().contains("V2__"), "{error}");
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        store.ping().await.unwrap();
    })
    .await;
}

/// The rows of the original program, one of them without a role.
#[tokio::test]
async fn rows_of_version_1_are_kept() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let watch = Watch::new(&database).await;
        go_back(&watch).await;
        watch
            .run(
                "INSERT INTO users (username, created_at, role)
                 VALUES ('Anna', '2026-01-01', NULL), ('Bert', '2026-01-02', 'teacher');
                 INSERT INTO cars (model, owner_id) VALUES ('Golf', 2), ('Polo', 1)",
            )
            .await;
        let report = store.migrate().await.unwrap();
        assert_eq!((versions(&report), report.version()), (vec![2], 2));
        let rows = "SELECT id || ' ' || username || ' ' || created_at || ' ' || role
            FROM users ORDER BY id";
        assert_eq!(
            watch.texts(rows).await,
            ["1 Anna 2026-01-01 employee", "2 Bert 2026-01-02 teacher"]
        );
        let rows = "SELECT id || ' ' || model || ' ' || owner_id FROM cars ORDER BY id";
        assert_eq!(watch.texts(rows).await, ["1 Golf 2", "2 Polo 1"]);
        let carl = store.users().register(&NewUser::new("Carl").unwrap()).await;
        let carl = carl.unwrap().into_user();
        assert_eq!(carl.id, UserId::new(3));
        let car = NewCar::new("Golf", carl.id).unwrap();
        assert_eq!(store.cars().buy(&car).await.unwrap().id.get(), 3);
        // The ids go on after 2^31.
        watch.run("SELECT setval('users_id_seq', 2147483647)").await;
        let dora = store.users().register(&NewUser::new("Dora").unwrap()).await;
        let dora = dora.unwrap().into_user().id;
        assert_eq!(dora.get(), 2_147_483_648);
        let car = NewCar::new("Golf", dora).unwrap();
        assert_eq!(store.cars().buy(&car).await.unwrap().owner_id, dora);
    })
    .await;
}

/// A long transaction holds a table. The migration gives way, and everybody else goes on.
#[tokio::test]
async fn a_migration_behind_a_lock_is_given_up_and_undone() {
    with_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        let (holder, look) = (Watch::new(&database).await, Watch::new(&database).await);
        go_back(&look).await;
        holder
            .run("BEGIN; LOCK TABLE cars IN ACCESS SHARE MODE")
            .await;
        let started = Instant::now();
        let error = store.migrate().await.expect_err("the table is in use");
        let took = started.elapsed();
        assert!(matches!(error, Error::Migration { .. }), "{error:?}");
        assert_eq!(error.sqlstate(), Some("55P03"), "{error:?}");
        assert!(took >= Duration::from_secs(5), "{took:?}");
        assert!(took < Duration::from_secs(30), "{took:?}");
        look.settled().await;
        assert_eq!(look.number(HISTORY).await, 1);
        let id = "SELECT data_type::text FROM information_schema.columns
            WHERE table_name = 'users' AND column_name = 'id'";
        assert_eq!(look.texts(id).await, ["integer"], "undone as a whole");
        holder.run("COMMIT").await;
        assert_eq!(versions(&store.migrate().await.unwrap()), [2]);
        assert_eq!(look.texts(id).await, ["bigint"]);
    })
    .await;
}

#[tokio::test]
async fn the_schema_has_its_columns_constraints_and_index() {
    with_database(async |database| {
        let watch = Watch::new(&database).await;
        let columns = "SELECT concat_ws(' ', table_name, column_name, data_type,
                CASE is_nullable WHEN 'NO' THEN 'NOT NULL' END, column_default)
            FROM information_schema.columns WHERE table_name IN ('users', 'cars')
            ORDER BY table_name, ordinal_position";
        assert_eq!(
            watch.texts(columns).await,
            [
                "cars id bigint NOT NULL nextval('cars_id_seq'::regclass)",
                "cars model character varying NOT NULL",
                "cars owner_id bigint NOT NULL",
                "cars purchase_key uuid",
                "users id bigint NOT NULL nextval('users_id_seq'::regclass)",
                "users username character varying NOT NULL",
                "users created_at date NOT NULL CURRENT_DATE",
                "users role character varying NOT NULL 'employee'::character varying",
            ]
        );
        // Newer servers list NOT NULL too, as type n.
        let constraints = "SELECT conname::text FROM pg_constraint
            WHERE conrelid IN ('users'::regclass, 'cars'::regclass) AND contype <> 'n'
            ORDER BY conname COLLATE \"C\"";
        assert_eq!(
            watch.texts(constraints).await,
            [
                "cars_model_length",
                "cars_owner_id_fkey",
                "cars_pkey",
                "cars_purchase_key_key",
                "role_types",
                "users_created_at_finite",
                "users_pkey",
                "users_username_key",
                "users_username_length",
            ]
        );
        let index = "SELECT indexdef FROM pg_indexes WHERE indexname = 'cars_owner_id_id_idx'";
        let index = watch.texts(index).await;
        assert!(index[0].ends_with("cars USING btree (owner_id, id)"));
        let sequences = "SELECT sequencename || ' ' || data_type || ' ' || max_value
            FROM pg_sequences ORDER BY 1";
        assert_eq!(
            watch.texts(sequences).await,
            ["cars_id_seq", "users_id_seq"].map(|name| format!("{name} bigint {}", i64::MAX))
        );
        let delete = "SELECT confdeltype::text FROM pg_constraint
            WHERE conname = 'cars_owner_id_fkey'";
        assert_eq!(watch.texts(delete).await, ["a"], "no action");
    })
    .await;
}

/// A schema that comes first in the search path later takes nothing over.
#[tokio::test]
async fn the_history_stays_where_it_is() {
    with_empty_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        Migrator::new().to(1).up(store.pool()).await.unwrap();
        let watch = Watch::new(&database).await;
        let path = format!(
            "CREATE SCHEMA first; ALTER DATABASE \"{}\" SET search_path = first, public",
            database.name
        );
        watch.run(&path).await;
        let store = PgStore::connect(&database.url).await.unwrap();
        assert_eq!(store.migrate().await.unwrap().applied().len(), 1);
        assert_eq!(Migrator::new().check(store.pool()).await.unwrap(), []);
        let histories = "SELECT relnamespace::regnamespace::text FROM pg_class
            WHERE relname = 'motorpool_schema_history'";
        assert_eq!(watch.texts(histories).await, ["public"]);
        let undone = Migrator::new().undo(store.pool(), false).await.unwrap();
        assert_eq!(undone.unwrap().version, 2);
    })
    .await;
}

/// A rewritten table has lost what the planner knew of it.
#[tokio::test]
async fn what_was_migrated_has_statistics() {
    with_empty_database(async |database| {
        let store = PgStore::connect(&database.url).await.unwrap();
        Migrator::new().to(1).up(store.pool()).await.unwrap();
        let watch = Watch::new(&database).await;
        watch
            .run(
                "INSERT INTO users (username, created_at)
                    SELECT 'user ' || n, '2026-01-01' FROM generate_series(1, 1000) n;
                INSERT INTO cars (model, owner_id) SELECT 'Golf', id FROM users",
            )
            .await;
        store.migrate().await.unwrap();
        let known = "SELECT count(*) FROM pg_stats WHERE schemaname = 'public'
            AND tablename || '.' || attname IN ('users.id', 'cars.id', 'cars.owner_id')";
        assert_eq!(watch.number(known).await, 3);
    })
    .await;
}

/// An empty table is not known to be empty: what is planned for it now has to do for its first rows.
#[tokio::test]
async fn an_empty_table_is_not_taken_for_empty() {
    with_database(async |database| {
        let watch = Watch::new(&database).await;
        let analyzed =
            "SELECT count(*) FROM pg_class WHERE oid IN ('users'::regclass, 'cars'::regclass)
            AND reltuples >= 0";
        assert_eq!(watch.number(analyzed).await, 0);
    })
    .await;
}

/// What a dump without its roles leaves.
#[tokio::test]
async fn a_role_of_the_application_that_does_not_exist_stops_nothing() {
    with_empty_database(async |database| {
        let watch = Watch::new(&database).await;
        let role = format!("{} app", database.name);
        watch
            .run(&format!(
                "COMMENT ON SCHEMA public IS 'motorpool.app_role = {role}'"
            ))
            .await;
        let store = PgStore::connect(&database.url).await.unwrap();
        assert_eq!(versions(&store.migrate().await.unwrap()), [1, 2]);
        assert_eq!(versions(&store.migrate().await.unwrap()), []);
        // Once it exists it gets what it needs.
        watch.run(&format!("CREATE ROLE \"{role}\"")).await;
        let may = format!("SELECT count(*) WHERE has_table_privilege('{role}', 'users', 'DELETE')");
        assert_eq!(watch.number(&may).await, 0);
        store.migrate().await.unwrap();
        assert_eq!(watch.number(&may).await, 1);
        watch
            .run(&format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\""))
            .await;
    })
    .await;
}
