//! What a host can ask of a store, by name.

/// One kind of call. They have the names of the methods; where both repositories have a method, or
/// its name alone says too little, the name says whose it is.
///
/// It counts whether it is made on the store or in a transaction.
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # runtime.block_on(async {
/// use motorpool::testing::{Faulty, Operation};
/// use motorpool::{MemoryStore, Store};
///
/// let store = Faulty::new(MemoryStore::new());
/// store.users().count().await?;
/// assert_eq!(store.calls(Operation::CountUsers), 1);
/// assert_eq!(store.calls(Operation::CountCars), 0);
/// assert_eq!(store.calls(Operation::Any), 1);
/// # Ok::<(), motorpool::Error>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Each of those below.
    Any,
    /// [`UserRepo::register`](crate::UserRepo::register)
    Register,
    /// [`UserRepo::register_many`](crate::UserRepo::register_many)
    RegisterMany,
    /// [`UserRepo::get`](crate::UserRepo::get)
    GetUser,
    /// [`UserRepo::get_many`](crate::UserRepo::get_many)
    GetUsers,
    /// [`UserRepo::get_by_username`](crate::UserRepo::get_by_username)
    GetByUsername,
    /// [`UserRepo::list`](crate::UserRepo::list)
    ListUsers,
    /// [`UserRepo::stream`](crate::UserRepo::stream), a call when it is polled for the first time
    StreamUsers,
    /// [`UserRepo::set_role`](crate::UserRepo::set_role)
    SetRole,
    /// [`UserRepo::rename`](crate::UserRepo::rename)
    Rename,
    /// [`UserRepo::delete`](crate::UserRepo::delete)
    DeleteUser,
    /// [`UserRepo::count`](crate::UserRepo::count)
    CountUsers,
    /// [`CarRepo::buy`](crate::CarRepo::buy)
    Buy,
    /// [`CarRepo::buy_many`](crate::CarRepo::buy_many)
    BuyMany,
    /// [`CarRepo::get`](crate::CarRepo::get)
    GetCar,
    /// [`CarRepo::owned_by`](crate::CarRepo::owned_by)
    OwnedBy,
    /// [`CarRepo::owned_by_many`](crate::CarRepo::owned_by_many)
    OwnedByMany,
    /// [`CarRepo::list_owned_by`](crate::CarRepo::list_owned_by)
    ListOwnedBy,
    /// [`CarRepo::stream`](crate::CarRepo::stream), a call when it is polled for the first time
    StreamCars,
    /// [`CarRepo::transfer`](crate::CarRepo::transfer)
    Transfer,
    /// [`CarRepo::delete`](crate::CarRepo::delete)
    DeleteCar,
    /// [`CarRepo::count`](crate::CarRepo::count)
    CountCars,
    /// [`Store::begin`](crate::Store::begin), also by
    /// [`StoreExt::transaction`](crate::StoreExt::transaction)
    Begin,
    /// [`Tx::commit`](crate::Tx::commit), also by the closure form
    Commit,
    /// [`Tx::rollback`](crate::Tx::rollback), also by the closure form. A transaction that is just
    /// dropped makes no call
    Rollback,
    /// [`Store::commit_outcome`](crate::Store::commit_outcome)
    CommitOutcome,
    /// The begin of a [`Tx::savepoint`](crate::Tx::savepoint)
    Savepoint,
    /// The end of a savepoint that is kept
    ReleaseSavepoint,
    /// The end of a savepoint that is undone
    UndoSavepoint,
}
