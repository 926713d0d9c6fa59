//! What is measured.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// One operation. The order is that of a round: reads first, because writes make the tables grow,
/// and the big ones last, because a process seldom gives memory back.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
pub enum Op {
    /// A user by name, each time another one.
    Hit,
    /// A name that nobody has.
    Miss,
    /// All callers ask for one user.
    Hot,
    /// The three cars of a user.
    OwnedBy,
    /// A name that is free.
    RegisterNew,
    /// A name that is taken.
    RegisterExisting,
    /// One car.
    Buy,
    /// A transaction: a user is registered and buys three cars.
    Transaction,
    #[value(name = "buy-many-10k")]
    BuyMany10k,
    #[value(name = "buy-many-100k")]
    BuyMany100k,
}

impl Op {
    pub const fn title(self) -> &'static str {
        match self {
            Op::Hit => "get_by_username, hit",
            Op::Miss => "get_by_username, miss",
            Op::Hot => "get_by_username, one hot key",
            Op::OwnedBy => "owned_by, 3 cars",
            Op::RegisterNew => "register, new name",
            Op::RegisterExisting => "register, name taken",
            Op::Buy => "buy",
            Op::Transaction => "transaction: register, 3 × buy",
            Op::BuyMany10k => "buy_many, 10 000 cars",
            Op::BuyMany100k => "buy_many, 100 000 cars",
        }
    }

    /// How many cars one call buys, for the calls that buy many.
    pub const fn many(self) -> Option<usize> {
        match self {
            Op::BuyMany10k => Some(10_000),
            Op::BuyMany100k => Some(100_000),
            _ => None,
        }
    }

    /// Whether it leaves rows behind.
    pub const fn writes(self) -> bool {
        !matches!(
            self,
            Op::Hit | Op::Miss | Op::Hot | Op::OwnedBy | Op::RegisterExisting
        )
    }
}
