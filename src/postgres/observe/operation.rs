//! The calls that there are, and what they are called outside.

/// One kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::postgres) enum Operation {
    Register,
    RegisterMany,
    GetUser,
    GetUsers,
    GetByUsername,
    ListUsers,
    StreamUsers,
    SetRole,
    Rename,
    DeleteUser,
    CountUsers,
    Buy,
    BuyMany,
    GetCar,
    OwnedBy,
    OwnedByMany,
    ListOwnedBy,
    StreamCars,
    Transfer,
    DeleteCar,
    CountCars,
    Begin,
    Commit,
    Rollback,
    Savepoint,
    Release,
    RollbackTo,
    Ping,
    CommitOutcome,
}

/// Its names.
pub(super) struct Names {
    /// Of the method: `db.operation.name`.
    pub(super) operation: &'static str,
    /// Of the table: `db.collection.name`.
    pub(super) collection: Option<&'static str>,
    /// What it does in SQL: `db.query.summary`.
    pub(super) summary: &'static str,
}

impl Operation {
    /// All of them, in their order.
    #[cfg(any(test, feature = "metrics"))]
    pub(super) const ALL: [Operation; 29] = [
        Operation::Register,
        Operation::RegisterMany,
        Operation::GetUser,
        Operation::GetUsers,
        Operation::GetByUsername,
        Operation::ListUsers,
        Operation::StreamUsers,
        Operation::SetRole,
        Operation::Rename,
        Operation::DeleteUser,
        Operation::CountUsers,
        Operation::Buy,
        Operation::BuyMany,
        Operation::GetCar,
        Operation::OwnedBy,
        Operation::OwnedByMany,
        Operation::ListOwnedBy,
        Operation::StreamCars,
        Operation::Transfer,
        Operation::DeleteCar,
        Operation::CountCars,
        Operation::Begin,
        Operation::Commit,
        Operation::Rollback,
        Operation::Savepoint,
        Operation::Release,
        Operation::RollbackTo,
        Operation::Ping,
        Operation::CommitOutcome,
    ];

    pub(super) fn names(self) -> Names {
        use Operation as O;
        let users = |operation, summary| (operation, Some("users"), summary);
        let cars = |operation, summary| (operation, Some("cars"), summary);
        let (operation, collection, summary) = match self {
            O::Register => users("register", "INSERT users"),
            O::RegisterMany => users("register_many", "INSERT users"),
            O::GetUser => users("get", "SELECT users"),
            O::GetUsers => users("get_many", "SELECT users"),
            O::GetByUsername => users("get_by_username", "SELECT users"),
            O::ListUsers => users("list", "SELECT users"),
            O::StreamUsers => users("stream", "SELECT users"),
            O::SetRole => users("set_role", "UPDATE users"),
            O::Rename => users("rename", "UPDATE users"),
            O::DeleteUser => users("delete", "DELETE users"),
            O::CountUsers => users("count", "SELECT users"),
            O::Buy => cars("buy", "INSERT cars"),
            O::BuyMany => cars("buy_many", "INSERT cars"),
            O::GetCar => cars("get", "SELECT cars"),
            O::OwnedBy => cars("owned_by", "SELECT cars"),
            O::OwnedByMany => cars("owned_by_many", "SELECT cars"),
            O::ListOwnedBy => cars("list_owned_by", "SELECT cars"),
            O::StreamCars => cars("stream", "SELECT cars"),
            O::Transfer => cars("transfer", "UPDATE cars"),
            O::DeleteCar => cars("delete", "DELETE cars"),
            O::CountCars => cars("count", "SELECT cars"),
            O::Begin => ("begin", None, "BEGIN"),
            O::Commit => ("commit", None, "COMMIT"),
            O::Rollback => ("rollback", None, "ROLLBACK"),
            O::Savepoint => ("savepoint", None, "SAVEPOINT"),
            O::Release => ("release", None, "RELEASE SAVEPOINT"),
            O::RollbackTo => ("rollback_to", None, "ROLLBACK TO SAVEPOINT"),
            O::Ping => ("ping", None, "SELECT"),
            O::CommitOutcome => ("commit_outcome", None, "SELECT"),
        };
        Names {
            operation,
            collection,
            summary,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Operation;

    #[test]
    fn each_stands_in_its_place() {
        for (place, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, place, "{operation:?}");
        }
    }
}
