//! From a URL to a pool.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::{Config, NoTls};

use super::executor::{Limits, PoolLimits};
use crate::error::{Error, Result};

/// How long a call may take altogether where nothing else is said.
pub(super) const DEFAULT_CALL: Duration = Duration::from_secs(40);

/// What a host can set about its connections.
#[derive(Clone)]
pub(super) struct Settings {
    config: Config,
    pub(super) max_connections: usize,
    pub(super) limits: PoolLimits,
    pub(super) call: Duration,
}

impl Settings {
    pub(super) fn from_url(url: &str) -> Result<Settings> {
        let mut config: Config = url.parse().map_err(|_| unreadable(url))?;
        if config.get_hosts().is_empty() {
            return Err(unreadable(url));
        }
        if config.get_application_name().is_none() {
            config.application_name("motorpool");
        }
        // Without these, a peer that vanished is noticed after hours. What the URL says wins.
        if !url.contains("keepalives") {
            config
                .keepalives_idle(Duration::from_secs(10))
                .keepalives_interval(Duration::from_secs(3))
                .keepalives_retries(3);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(Duration::from_secs(5));
        }
        Ok(Settings {
            config,
            max_connections: 16,
            limits: PoolLimits {
                acquire: Duration::from_secs(5),
                connect: Duration::from_secs(5),
                statement: Duration::from_secs(30),
            },
            call: DEFAULT_CALL,
        })
    }

    /// The pool, which connects when it is first asked to.
    pub(super) fn pool(&self) -> Result<(Pool, Limits)> {
        let mut config = self.config.clone();
        let statement = format!("-c statement_timeout={}", millis(self.limits.statement));
        // Set when the connection starts, which costs no round trip. What the URL says comes last
        // and wins.
        config.options(match self.config.get_options() {
            Some(options) => format!("{statement} {options}"),
            None => statement,
        });
        let manager = Manager::from_config(
            config,
            NoTls,
            ManagerConfig {
                // The lease sees to it that nothing is left to clean up, so a check before each
                // use would only cost a round trip.
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let pool = Pool::builder(manager)
            .max_size(self.max_connections)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| Error::Config {
                reason: error.to_string(),
            })?;
        let limits = Limits {
            call: self.call,
            own_pool: Some(self.limits),
        };
        Ok((pool, limits))
    }
}

/// Milliseconds as the server takes them: at most `i32::MAX`, and never 0, which would mean no
/// limit.
fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis())
        .unwrap_or(i32::MAX)
        .max(1)
}

/// A URL that the driver cannot read. The driver's own words are left out, because they may quote
/// what was meant to be the password.
fn unreadable(url: &str) -> Error {
    let scheme = ["postgresql://", "postgres://"]
        .iter()
        .any(|scheme| url.starts_with(scheme));
    let reason = match scheme || !url.contains("://") {
        true => {
            "the database URL cannot be read; expected is \
             postgresql://user:password@host:port/database with percent-encoded parts, and only \
             parameters that the driver knows"
        }
        false => "the database URL has to begin with postgresql:// or postgres://",
    };
    Error::Config {
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_url_is_refused_without_being_quoted() {
        for url in [
            "",
            "postgress://user:canary@host/db",
            "postgresql://user:canary@host/db?sslmod=disable",
            "postgresql://user:canary@host:port/db",
            "postgresql://user:can%zzary@host/db?x=canary",
            "mysql://canary",
            "host=localhost password='canary",
            "user=canary",
        ] {
            let error = Settings::from_url(url).map(|_| ()).expect_err(url);
            assert!(matches!(error, Error::Config { .. }), "{url}: {error}");
            assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
        }
    }

    #[test]
    fn limits_are_whole_milliseconds() {
        assert_eq!(millis(Duration::from_micros(1)), 1);
        assert_eq!(millis(Duration::from_secs(30)), 30_000);
        assert_eq!(millis(Duration::MAX), i32::MAX);
    }
}
