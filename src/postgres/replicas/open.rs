//! Making the replicas of a store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use super::log::Log;
use super::standing::{Standing, meeting};
use super::watch::{self, Member};
use super::{Replica, Replicas};
use crate::error::Result;
use crate::postgres::batch::{Batches, Batching};
use crate::postgres::builder::keep_few_idle;
use crate::postgres::connect::Settings;
use crate::postgres::health::Health;
use crate::postgres::observe::publish;
use crate::postgres::shared::{Limits, Shared};
use crate::postgres::tls::{CancelRoute, Connector as Tls};

/// How the replicas of a store are to be.
#[derive(Clone)]
pub(in crate::postgres) struct Plan {
    pub(in crate::postgres) replicas: Vec<Settings>,
    pub(in crate::postgres) wait: Duration,
    pub(in crate::postgres) lag: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            replicas: Vec::new(),
            wait: Duration::from_millis(100),
            lag: Duration::from_secs(10),
        }
    }
}

impl Plan {
    /// The log that the primary's connections note their writes in, if there are replicas.
    pub(in crate::postgres) fn log(&self) -> Option<Arc<Log>> {
        (!self.replicas.is_empty()).then(|| Arc::new(Log::new(self.lag)))
    }
}

/// How long after its call has ended a write may still be under way on the server, beyond the time
/// that the server gives a statement: it is cancelled, a few times.
const ENDING: Duration = Duration::from_secs(5);

/// Makes the pools, and looks at every server once. One that does not answer is out of the rotation
/// until it does. `settings`: those of the primary, whose limits hold for the replicas too.
pub(in crate::postgres) async fn open(
    plan: &Plan,
    log: Arc<Log>,
    settings: &Settings,
    tls: &Tls,
    limits: Limits,
    batching: Batching,
) -> Result<Arc<Replicas>> {
    let mut replicas = Vec::with_capacity(plan.replicas.len());
    let end = Arc::default();
    let mut members = vec![Member::primary(settings, tls, &end)];
    for (number, replica) in plan.replicas.iter().enumerate() {
        let settings = replica.limited_like(settings);
        // Its own, since each URL says what it trusts.
        let tls = settings.tls()?;
        let (life, route) = (settings.max_lifetime, CancelRoute::of_store(&tls));
        let health = Arc::new(
            Health::new(life, route)
                .of_server(settings.server())
                .of_standby(),
        );
        let standing = Arc::new(Standing::new(number));
        let (pool, connections) = settings.pool(&health, &tls, Some(meeting(&standing)))?;
        let mut shared = Shared {
            pool,
            limits,
            mode: settings.mode,
            health,
            connections: Some(connections),
            closed: AtomicBool::new(false).into(),
            turn: Arc::default(),
            batches: None,
        };
        shared.batches = Batches::new(batching, &shared);
        keep_few_idle(&shared, &settings);
        publish(&shared);
        members.push(Member::replica(&settings, &tls, number, &standing));
        let shared = Arc::new(shared);
        replicas.push(Replica {
            shared,
            standing,
            asking: Arc::default(),
        });
    }
    let replicas = Arc::new(Replicas {
        replicas,
        log,
        wait: plan.wait,
        doubt: settings.limits().statement.saturating_add(ENDING),
        turn: AtomicU64::new(0),
        primary: AtomicU64::new(0),
        overdue: AtomicU64::new(0),
        closed: AtomicBool::new(false),
        end,
    });
    watch::start(&replicas, members, plan.lag).await;
    Ok(replicas)
}
