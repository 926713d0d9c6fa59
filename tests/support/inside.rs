//! A store whose every call runs in one transaction of another store.

use async_trait::async_trait;
use motorpool::{CarRepo, Error, Result, Store, Tx, TxOptions, UserRepo};

pub struct Inside(pub Tx);

#[async_trait]
impl Store for Inside {
    fn users(&self) -> &dyn UserRepo {
        self.0.users()
    }

    fn cars(&self) -> &dyn CarRepo {
        self.0.cars()
    }

    async fn begin(&self, _: TxOptions) -> Result<Tx> {
        Err(Error::Config {
            reason: "a transaction cannot begin another one".into(),
        })
    }
}
