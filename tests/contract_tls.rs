//! The contract over connections that are encrypted and verified.
#![cfg(all(feature = "contract", feature = "tls"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod authority;
mod secure;
mod support;

use motorpool::PgStore;
use motorpool::contract::Rule;
use secure::{server, with_emptied_database};

async fn run_over_tls(rule: Rule) {
    with_emptied_database(async |database| {
        let url = server().verified(&database);
        let store = PgStore::connect(&url).await.expect("connects");
        rule.run(&store).await;
        // Not by another way.
        let sql = "SELECT bool_and(ssl), count(*) > 0 FROM pg_stat_ssl JOIN pg_stat_activity \
            USING (pid) WHERE datname = $1 AND application_name = 'motorpool'";
        let admin = server().admin().await;
        let row = admin.query_one(sql, &[&database.name]).await;
        let row = row.expect("the server tells");
        assert_eq!((row.get(0), row.get(1)), (Some(true), true));
    })
    .await;
}

motorpool::contract_tests!(tls, run_over_tls);
